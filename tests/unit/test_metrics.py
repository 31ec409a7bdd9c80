"""The page for Prometheus, the dashboard and the alert rules, as promtool and a real node_exporter see them."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import stat
import subprocess
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from survived.ctl import shipped
from survived.errors import SurvivedError
from survived.meters import Meters, user_name
from survived.model import CacheState, LinkReading, LinkState, Operation, Pressure, Relocation, Stage, Standing, Verb
from survived.settings.config import Settings
from survived.tell import metrics, status
from tests.unit.scene import MIB, NOW, reading, store
from tests.unit.test_status import GONE, MOVE, RELOCATED, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable

NASTY = os.fsdecode(b'/home/al"ice\\\n\xff\xe2\x82')
ROOT = Path(__file__).resolve().parents[2]
USED = re.compile(r"survived_[a-z_]+")
DONE = Operation(1, Verb.RELOCATE, "pip", "/a", "/b", Stage.DONE, NOW, NOW, freed_bytes=5 * MIB)


def _full() -> dict[str, Any]:
    """Return a document in which everything is there that a page can tell."""
    item = Relocation("pip", "/home/alice/.cache/pip", "/data1/x", NOW, 1, 1)
    links = [(LinkReading(item, Standing.DIRECTORY), LinkState.EATEN), (LinkReading(item, Standing.OUR_LINK), LinkState.OK)]
    seen = snapshot(
        reading("hf-hub"),
        RELOCATED,
        reading(NASTY, path=NASTY),
        reading("gone", state=CacheState.ABSENT),
        usage=0.93,
        pressure=Pressure.HIGH,
        stores=(store(), GONE),
        progress=MOVE,
        links=links,
        problems=["one"],
        seconds_to_full={"/": 7200.5},
        notices={"pending": 2, "last_delivered": "2026-11-28T10:00:00Z", "last_error": "refused"},
    )
    return json.loads(json.dumps(status.document(seen)))


def _promtool(*words: str, given: str | None = None) -> None:
    if shutil.which("promtool") is None:
        pytest.skip("needs promtool (Debian package prometheus)")
    done = subprocess.run(["promtool", *words], input=given, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout + done.stderr


def _samples(page: str) -> dict[str, float]:
    return {line.rpartition(" ")[0]: float(line.rpartition(" ")[2]) for line in page.splitlines() if not line.startswith("#")}


def test_the_page_says_what_the_document_says() -> None:
    """Values, labels and which of several states holds are those of the document."""
    page = _samples(metrics.render(_full(), metrics.Counters(3, 2, 1, 7 * MIB, 4, 5), "alice"))

    assert page['survived_filesystem_usage_ratio{user="alice",mount="/"}'] == 0.93
    assert page['survived_filesystem_time_to_full_seconds{user="alice",mount="/"}'] == 7200.5
    assert page['survived_filesystem_pressure{user="alice",mount="/",pressure="high"}'] == 1
    assert page['survived_filesystem_pressure{user="alice",mount="/",pressure="normal"}'] == 0
    assert page['survived_filesystem_mark_ratio{user="alice",mount="/",mark="flood"}'] == 0.97
    assert page['survived_cache_reclaimable_bytes{user="alice",cache="hf-hub",kind="cache"}'] == 2 * 1024**3
    assert page['survived_cache_reclaimable_bytes{user="alice",cache="pip",kind="cache"}'] == 0
    assert page['survived_cache_state{user="alice",cache="pip",kind="cache",state="relocated"}'] == 1
    assert page['survived_cache_state{user="alice",cache="pip",kind="cache",state="home"}'] == 0
    assert page['survived_links{user="alice",state="eaten"}'] == 1
    assert page['survived_relocations_total{user="alice",verb="rehome"}'] == 1
    assert page['survived_freed_bytes_total{user="alice"}'] == 7 * MIB
    assert page['survived_move_done_ratio{user="alice"}'] == pytest.approx(0.3)
    assert page['survived_notices_last_delivered_time_seconds{user="alice"}'] == 1795860000
    assert page['survived_last_tick_time_seconds{user="alice"}'] == NOW
    assert not [line for line in page if 'cache="gone"' in line]


def test_a_name_of_any_bytes_is_one_label() -> None:
    """Quotes, backslashes, newlines and bytes that are not UTF-8 leave a page that is UTF-8, a sample a line."""
    page = metrics.render(_full(), metrics.Counters(), 'a"b')

    assert 'user="a\\"b",cache="/home/al\\"ice\\\\\\n\\\\udcff' in page
    assert all(line.startswith(("#", "survived_")) for line in page.encode("utf-8").decode().splitlines())


@pytest.mark.parametrize("what", ["everything", "nothing", "the end"])
def test_promtool_finds_nothing_to_mend(what: str) -> None:
    """Names, types and texts keep to the conventions, on a full page and on a bare one."""
    bare = json.loads(json.dumps(status.document(snapshot(pid=None, since=None))))
    pages = {
        "everything": metrics.render(_full(), metrics.Counters(), "alice"),
        "nothing": metrics.render(bare, metrics.Counters(), "alice"),
        "the end": metrics.render_end("1", NOW, "alice"),
    }

    _promtool("check", "metrics", given=pages[what])


def test_a_full_page_holds_every_family() -> None:
    """What is listed is written: no metric is only promised."""
    page = metrics.render(_full(), metrics.Counters(), "alice")

    assert set(re.findall(r"^# TYPE survived_(\S+)", page, re.MULTILINE)) == set(metrics.FAMILIES)


@pytest.mark.parametrize("name", [shipped.DASHBOARD, shipped.ALERTS])
def test_every_metric_that_is_used_exists(name: str) -> None:
    """Dashboard and rules name no metric that is not written."""
    used = set(USED.findall(shipped.read_shipped(name)))

    assert len(used) > 8
    assert used <= {metrics.PREFIX + family for family in metrics.FAMILIES}


def test_the_alert_rules_fire_when_they_should_and_not_else(tmp_path: Path) -> None:
    """promtool takes the rules, and runs them over a calm and a bad day."""
    (tmp_path / "alerts.yml").write_text(shipped.read_shipped(shipped.ALERTS))
    shutil.copy(ROOT / "tests/rig/alerts_test.yml", tmp_path)

    _promtool("check", "rules", str(tmp_path / "alerts.yml"))
    _promtool("test", "rules", str(tmp_path / "alerts_test.yml"))


def test_every_alert_is_tested() -> None:
    """Each rule has a day on which it fires."""
    alerts = set(re.findall(r"alert: (\w+)", shipped.read_shipped(shipped.ALERTS)))
    tested = (ROOT / "tests/rig/alerts_test.yml").read_text().partition("a bad day")[2]

    assert alerts == set(re.findall(r"alertname: (\w+)", tested))


def test_prometheus_understands_every_query_of_the_dashboard(tmp_path: Path) -> None:
    """Each panel has a query, on its own place, and promtool parses all of them; variables stand for what Grafana puts there."""
    board = json.loads(shipped.read_shipped(shipped.DASHBOARD))
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    queries += [item["expr"] for item in board["annotations"]["list"]]
    rules = []
    for number, query in enumerate(queries):
        text = query.replace("$__range", "1d").replace("$instance", ".*").replace("$user", ".*")
        assert "$" not in text
        rules.append({"record": f"q:{number}", "expr": text})
    (tmp_path / "queries.yml").write_text(json.dumps({"groups": [{"name": "queries", "rules": rules}]}))

    _promtool("check", "rules", str(tmp_path / "queries.yml"))
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) == 23


# ---- the file ------------------------------------------------------------------------------------------------------


class Stand:
    """As much of a machine as meters need."""

    def __init__(self, textfile: str | None) -> None:
        self.uid = os.getuid()
        self.name(textfile)

    def name(self, textfile: str | None) -> None:
        self.settings = Settings(layers=({"metrics": {"textfile": textfile} if textfile else {}},))  # type: ignore[call-arg]


def _meters(stand: Stand) -> Meters:
    return Meters(stand)  # type: ignore[arg-type]


def test_the_page_is_replaced_whole_and_readable_by_all(tmp_path: Path) -> None:
    """Mode 0644 whatever the umask, another inode each time, nothing beside it, and not before 15 seconds are over."""
    page, before = tmp_path / "survived.prom", os.umask(0o077)
    meters = _meters(Stand(str(page)))
    meters.moved(DONE, None)
    meters.moved(None, SurvivedError("no"))
    try:
        meters.tick(_full)
        first = page.stat()
        meters.tick(lambda: pytest.fail("too early"))
        meters._at -= 20.0
        meters.tick(_full)
    finally:
        os.umask(before)

    assert stat.S_IMODE(first.st_mode) == 0o644
    assert page.stat().st_mtime_ns > first.st_mtime_ns
    assert os.listdir(tmp_path) == ["survived.prom"]
    page_text = page.read_text()
    assert f'survived_relocations_total{{user="{user_name(os.getuid())}",verb="relocate"}} 1' in page_text
    assert f'survived_freed_bytes_total{{user="{user_name(os.getuid())}"}} {5 * MIB}' in page_text
    assert f'survived_move_failures_total{{user="{user_name(os.getuid())}"}} 1' in page_text


def test_without_a_place_nothing_is_read_or_written(tmp_path: Path) -> None:
    """Off is the default, and then the status is not even asked for."""
    meters = _meters(Stand(None))
    meters.tick(lambda: pytest.fail("not wanted"))
    meters.close()

    assert meters.trouble is None


def test_a_place_that_changes_takes_the_page_along(tmp_path: Path) -> None:
    """A reload to another file leaves no stale page behind, and one to none removes it."""
    stand = Stand(str(tmp_path / "a.prom"))
    meters = _meters(stand)
    meters.tick(_full)
    stand.name(str(tmp_path / "b.prom"))
    meters.tick(_full)
    assert os.listdir(tmp_path) == ["b.prom"]
    stand.name(None)
    meters.tick(_full)

    assert os.listdir(tmp_path) == []


def test_a_folder_that_is_not_there_is_a_trouble_and_not_made(tmp_path: Path) -> None:
    """One sentence, no folder that node_exporter could not read, and it ends when the folder is there."""
    meters = _meters(Stand(str(tmp_path / "no/survived.prom")))
    meters.tick(_full)
    assert meters.trouble is not None
    assert re.fullmatch(r"Cannot write '.*/no/survived.prom': no such file or directory\. .*", meters.trouble)
    assert os.listdir(tmp_path) == []
    (tmp_path / "no").mkdir()
    meters._at -= 20.0
    meters.tick(_full)

    assert meters.trouble is None


def test_a_daemon_that_ends_says_so(tmp_path: Path) -> None:
    """The last page has no figures that are wrong tomorrow."""
    page = tmp_path / "survived.prom"
    meters = _meters(Stand(str(page)))
    meters.tick(_full)
    meters.close()

    assert f'survived_up{{user="{user_name(os.getuid())}"}} 0' in page.read_text()
    assert "filesystem" not in page.read_text()


def test_node_exporter_serves_the_pages_of_two_users(tmp_path: Path) -> None:
    """A real node_exporter finds no fault in two files, and its own page has both users' figures."""
    if shutil.which("prometheus-node-exporter") is None:
        pytest.skip("needs prometheus-node-exporter")
    for user in ("alice", "bob"):
        (tmp_path / f"survived-{user}.prom").write_text(metrics.render(_full(), metrics.Counters(), user))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    words = ["--collector.disable-defaults", "--collector.textfile", f"--collector.textfile.directory={tmp_path}"]
    exporter = subprocess.Popen(["prometheus-node-exporter", *words, f"--web.listen-address={address}"], stderr=subprocess.DEVNULL)
    try:
        served = _fetch(f"http://{address}/metrics", exporter)
    finally:
        exporter.kill()
        exporter.wait()

    assert "node_textfile_scrape_error 0" in served
    for user in ("alice", "bob"):
        assert re.search(rf'survived_filesystem_usage_ratio{{.*user="{user}".*}} 0.93', served)


def _fetch(url: str, server: subprocess.Popen[bytes]) -> str:
    for _ in range(200):
        with suppress(OSError), urllib.request.urlopen(url, timeout=5) as answer:
            return str(answer.read().decode())
        assert server.poll() is None
        time.sleep(0.05)
    raise AssertionError(f"nobody answers at {url}")


# ---- the verb ------------------------------------------------------------------------------------------------------


def test_the_verb_prints_each(capsys: pytest.CaptureFixture[str], make_home: Callable[[], None]) -> None:
    """The page without a daemon, the dashboard as JSON, the rules, and the catalogue; with --json one object."""
    from survived.ctl.main import main

    make_home()
    assert main(["metrics", "show"]) == 0
    page = capsys.readouterr().out
    assert f'survived_up{{user="{user_name(os.getuid())}"}} 0' in page
    _promtool("check", "metrics", given=page)
    assert main(["metrics", "dashboard"]) == 0
    assert json.loads(capsys.readouterr().out)["uid"] == "survived"
    assert main(["metrics", "alerts", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["text"].startswith("# Alert rules")
    assert main(["metrics", "catalog"]) == 0
    assert "Defined-By: survived" in capsys.readouterr().out


@pytest.fixture
def make_home(environment: dict[str, str], home: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return a function that makes this process a user without a daemon."""

    def make() -> None:
        for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "PIP_", "UV_", "HF_"))]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        (home / ".config/survived").mkdir(parents=True)
        (home / ".config/survived/config.toml").write_text(f'[data]\ndisks = ["{home}/nowhere"]\n')

    return make
