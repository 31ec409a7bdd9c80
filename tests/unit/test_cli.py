"""survivectl without a daemon: for each way to call it the exit code, what is on stdout, and one sentence on stderr."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from survived.ctl.main import VERBS, main, nearest, printable
from tests.rig.schema import check, verbs

ROOT = Path(__file__).resolve().parents[2]
NO_DAEMON = "Cannot reach the daemon"


class Said(NamedTuple):
    """What one call left behind."""

    rc: int
    out: str
    err: str


@pytest.fixture
def alice(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make this process a user with a home, one cache, no daemon, and a data disk that is not mounted; return the home."""
    for name in [name for name in os.environ if name.startswith(("XDG_", "SURVIVED_", "PIP_", "UV_", "HF_"))] + ["COLUMNS"]:
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    home = Path(environment["HOME"])
    config = home / ".config/survived/config.toml"
    config.parent.mkdir(parents=True)
    config.write_text(f'[watch]\nfilesystems = ["{home}"]\n[data]\ndisks = ["{tmp_path}/disk/me"]\n', encoding="utf-8")
    (home / ".cache/pip").mkdir(parents=True)
    (home / ".cache/pip/wheel").write_bytes(bytes(100_000))
    monkeypatch.chdir(home)
    return home


def call(capsys: pytest.CaptureFixture[str], *words: str) -> Said:
    """Call survivectl in this process."""
    rc = main(words)
    return Said(rc, *capsys.readouterr())


def run(home: Path, script: str, *, timeout: float = 20.0) -> Said:
    """Call survivectl (as `$S`) in a shell, where streams can be closed and broken."""
    env = {**os.environ, "HOME": str(home), "S": f"{sys.executable} -m survived.ctl.quick", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=env, capture_output=True, timeout=timeout, check=False, cwd=home)
    return Said(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))


WRONG: list[tuple[list[str], int, str]] = [
    ([], 2, "no verb was given"),
    (["stats"], 2, "the verb 'stats'.*\n.*'survivectl status'"),
    (["move", "pip"], 2, "the verb 'move'.*\n.*'survivectl relocate'"),
    (["qqqq"], 2, "the verb 'qqqq'.*\n.*--help"),
    ([""], 2, "the verb ''"),
    (["a\nb\x1b[31m"], 2, r"the verb 'a\\nb\\x1b\[31m'"),
    ([os.fsdecode(b"\xff\xfe")], 2, r"the verb '\\xff\\xfe'"),
    (["x" * 5000], 2, r"the verb 'x+\.\.\.'"),
    (["--jsn", "status"], 2, "'--jsn' is not known.*\n.*'--json'"),
    (["status", "--wacth"], 2, "'--wacth' is not known.*\n.*'--watch'"),
    (["status", "--js"], 2, "'--js' is not known"),
    (["status", "extra"], 2, "'extra' is not known"),
    (["--config"], 2, "--config needs a file"),
    (["--config", "/nowhere", "status"], 6, "Cannot read '/nowhere'"),
    (["status", "--config="], 6, "Cannot read ''"),
    (["plan", "--config", "/"], 6, "Cannot read '/': is a directory"),
    (["notify"], 2, "required: action"),
    (["notify", "tset"], 2, "invalid choice: 'tset'"),
    (["notify", "test"], 1, "there is no destination.*Nothing was sent"),
    (["pause", "abc"], 2, "'abc' is not a duration.*'30s'"),
    (["pause", ""], 2, "not a duration"),
    (["pause"], 3, NO_DAEMON),
    (["pause", "1h"], 3, NO_DAEMON),
    (["resume"], 3, NO_DAEMON),
    (["reload"], 3, NO_DAEMON),
    (["history", "--since", "soon"], 2, "'soon' is not a duration"),
    (["history", "--since", "0s"], 2, "Cannot look back for '0s'"),
    (["history", "/nonexistent"], 2, "'/nonexistent': it is none that is watched"),
    (["history", "--html", "/nonexistent/x.html"], 1, "Cannot write '/nonexistent/x.html': there is no such directory"),
    (["completion", "tcsh"], 2, "invalid choice: 'tcsh'"),
    (["man", "/proc/x"], 1, "Cannot write '/proc/x/man1/survivectl.1'.*Nothing was changed"),
    (["status", "--short", "fancy"], 2, "invalid choice: 'fancy'"),
    (["status", "--short", "--watch"], 2, "not allowed with"),
    (["relocate"], 2, "Cannot tell what to move: name one thing, or a plan"),
    (["relocate", "pipp"], 2, "Cannot find 'pipp'.*\n.*'pip'"),
    (["relocate", ""], 2, "Cannot find ''"),
    (["relocate", "--", "-x"], 2, "Cannot find '-x'"),
    (["relocate", os.fsdecode(b"\xff")], 2, r"Cannot find '\\xff'"),
    (["relocate", "pip"], 4, "Cannot move '.*/.cache/pip'.*Nothing was changed"),
    (["relocate", "./.cache/pip/"], 4, "Cannot move '.*/.cache/pip'.*disk"),
    (["relocate", "~/.cache/pip", "--to", "/nowhere"], 4, "'/nowhere': it is none of the data disks"),
    (["relocate", "/nonexistent"], 4, "'/nonexistent': no such file or directory"),
    (["relocate", "/etc/passwd"], 4, "it is not a directory"),
    (["relocate", "~"], 4, "it is or holds your home directory"),
    (["relocate", "."], 4, "it is or holds your home directory"),
    (["relocate", "/"], 4, "it is or holds your home directory"),
    (["relocate", "/proc"], 4, "Cannot move '/proc'"),
    (["restore"], 2, "name some, or say --all"),
    (["restore", "pip", "--all"], 2, "name some, or say --all"),
    (["restore", "pip"], 4, "Cannot restore 'pip': it is not relocated"),
    (["measure", "pipp"], 2, "Cannot find 'pipp'.*\n.*'pip'"),
    (["measure", "/nonexistent"], 1, "Cannot measure '/nonexistent': it is not there"),
    (["measure", "/etc/passwd"], 1, "Cannot measure '/etc/passwd': not a directory"),
]


@pytest.mark.parametrize(
    ("words", "rc", "sentence"), WRONG, ids=lambda value: " ".join(value)[:30] if isinstance(value, list) else None
)
def test_a_mistake_is_one_sentence_and_the_right_code(
    words: list[str], rc: int, sentence: str, alice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """stderr has a sentence and at most one hint, stdout nothing; with --json stdout has the same as an object."""
    said = call(capsys, *words)
    assert said.rc == rc
    assert re.search(sentence, said.err)
    lines = said.err.splitlines()
    assert len(lines) <= 2
    assert lines[0].startswith("survivectl: Cannot ")
    assert lines[0].endswith((".", "?"))
    if words[:1] != ["measure"] or rc == 2:  # `measure` prints what it could
        assert said.out == ""
    if "--" not in words:
        spoken = call(capsys, *words, "--json")
        answer = json.loads(spoken.out)
        assert answer["schema"] == 1
        assert (spoken.rc, spoken.err) == (rc, said.err) or words in ([], ["--config"])
        if rc == 2:
            assert answer["error"]["exit_code"] == 2
            assert printable(answer["error"]["message"].replace("\ufffd", "")) != ""


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb: str, alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """`VERB --help`, `help VERB` and `--help VERB` say the same, on stdout, and --json is among the options."""
    said = call(capsys, verb, "--help")
    assert (said.rc, said.err) == (0, "")
    assert said.out.startswith(f"usage: survivectl {verb} ")
    assert "--json" in said.out
    assert call(capsys, "help", verb) == call(capsys, "--help", verb) == said


def test_help_names_every_verb(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The one page that everybody sees has every verb with what it does, and fits 120 columns."""
    said = call(capsys, "--help")
    assert said == call(capsys, "help") == call(capsys, "-h")
    assert all(f"  {verb:<11} {text}\n" in said.out for verb, (_, text) in VERBS.items())
    assert max(map(len, said.out.splitlines())) <= 120
    assert call(capsys, "--version").out.startswith("survivectl ")


JSON: list[tuple[list[str], int, set[str]]] = [
    (["purge", "pip", "--dry-run"], 0, {"verb", "id", "path", "command", "size_bytes", "reclaimable_bytes", "preview", "dry_run"}),
    (["status"], 3, {"version", "daemon", "pressure", "filesystems", "caches", "stores", "move", "notices"}),
    (["plan"], 0, {"pressure", "moves", "refusals"}),
    (["measure"], 0, {"caches"}),
    (["measure", "pip", "/nonexistent"], 1, {"caches"}),
    (["hogs", "."], 0, {"hogs", "files", "deleted", "twins", "growth", "filesystems", "unreadable"}),
    (["hogs", "/nonexistent"], 1, {"error"}),
    (["list"], 1, {"relocated", "unreadable"}),
    (["status", "--short"], 3, {"alarm", "line", "text"}),
    (["history"], 0, {"since", "until", "filesystems", "moves"}),
    (["history", "/nonexistent"], 2, {"error"}),
    (["doctor"], 5, {"ok", "findings"}),
    (["completion", "bash"], 0, {"shell", "script"}),
    (["completion", "ids"], 0, {"ids"}),
    (["man"], 0, {"page"}),
    (["docker", "status"], 0, {"docker", "moved"}),
    (["metrics", "show"], 0, {"text"}),
    (["redirect"], 0, {"tools"}),
    (["offline", "verify", "/nonexistent"], 1, {"error"}),
    (["top"], 0, {"entries"}),
    (["mirrors"], 0, {"tools", "mirrors"}),
    (["catalog"], 0, {"caches"}),
    (["catalog", "--all"], 0, {"caches"}),
    (["catalog", "pipp"], 2, {"error"}),
    (["check"], 1, {"ok", "findings"}),
    (["verify"], 0, {"content", "trees"}),
    (["verify", "pip"], 4, {"error"}),
    (["recover"], 0, {"recovered"}),
    (["restore", "--all"], 0, {"results"}),
    (["restore", "pip", "uv-cache"], 4, {"results"}),
    (["install", "--dry-run", "--yes"], 0, {"dry_run"}),
    (["uninstall", "--dry-run"], 0, {"dry_run", "led"}),
    (["demo", "--nonsense"], 2, {"error"}),
    (["relocate", "pip"], 4, {"error"}),
    (["rehome", "pip"], 4, {"error"}),
    (["orphans"], 0, {"orphans"}),
    (["orphans", "remove", "/nonexistent", "--yes"], 4, {"error"}),
    (["orphans", "link", "pip"], 4, {"error"}),
    (["orphans", "adopt", "pip"], 4, {"error"}),
    (["standin", "--all"], 0, {"results"}),
    (["standin", "pip"], 4, {"error"}),
    (["pause"], 3, {"error"}),
    (["resume"], 3, {"error"}),
    (["reload"], 3, {"error"}),
    (["notify", "test"], 1, {"error"}),
]


@pytest.mark.parametrize(("words", "rc", "keys"), JSON, ids=lambda value: " ".join(value) if isinstance(value, list) else None)
def test_json_is_one_object_with_a_schema(
    words: list[str], rc: int, keys: set[str], alice: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Whatever comes of it, stdout is exactly one object with "schema": 1, with --json before the verb or behind it."""
    said = call(capsys, *words, "--json")
    answer: dict[str, Any] = json.loads(said.out)
    assert (said.rc, answer["schema"]) == (rc, 1)
    assert keys <= answer.keys()
    check(words[0], answer)
    assert call(capsys, "--json", *words).rc == rc


def test_every_verb_is_among_those_json_tests() -> None:
    """A verb that is added has to answer in JSON, too."""
    assert {words[0] for words, _, _ in JSON} == set(VERBS) <= verbs()


def test_refusals_carry_their_reason(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A script sees why without reading the sentence."""
    error = json.loads(call(capsys, "relocate", str(alice), "--json").out)["error"]
    assert (error["exit_code"], error["reason"]) == (4, "home_itself")


def test_status_works_without_a_daemon(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The answer is complete, says in its first word that nobody watches, and the exit code says so to scripts."""
    said = call(capsys, "status")
    assert (said.rc, said.err) == (3, "")
    assert said.out.startswith("DOWN  The daemon is not running; ")
    assert "systemctl --user start survived" in " ".join(said.out.split("\n\n")[0].split())
    assert "pip" in said.out


def test_plan_tells_why_each_cache_stays(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A cache that is there has its reason; those that are not are named together at the end."""
    said = call(capsys, "plan")
    assert (said.rc, said.err) == (0, "")
    assert re.search(r"^stays       pip: \S", said.out, re.MULTILINE)
    assert re.search(r"^not there   .*bun", said.out, re.MULTILINE)
    assert max(map(len, said.out.splitlines()[1:])) <= 80


def test_restore_goes_on_after_a_failure_and_ends_with_the_first_code(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each failure is told, and all of them are in the one object."""
    said = call(capsys, "restore", "nonesuch", "pip", "/nonexistent", "--json")
    assert said.rc == 2
    assert [item["path"] for item in json.loads(said.out)["results"]] == ["nonesuch", "pip", "/nonexistent"]
    assert [item["error"]["exit_code"] for item in json.loads(said.out)["results"]] == [2, 4, 4]
    assert said.err.count("survivectl: Cannot ") == 3


def test_a_link_to_a_missing_data_disk_is_not_called_home(alice: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """With the data disk away, `restore`, `list` and `check` say that it is away, not that nothing is relocated."""
    target = tmp_path / "disk/me/survived/trees" / str(alice).lstrip("/") / ".cache/uv"
    (alice / ".cache/uv").symlink_to(target)
    for words in (["restore", "uv-cache"], ["restore", "--all"]):
        said = call(capsys, *words)
        assert (said.rc, said.out.replace("Nothing is relocated.\n", "")) == (4, "")
        assert re.search(
            r"Cannot restore '.*/uv': it is a link to '.*', and .*is the disk mounted\? Nothing was changed\.", said.err
        )
    said = call(capsys, "list")
    assert (said.rc, said.out) == (1, "")
    assert "Cannot list what is in" in said.err
    said = call(capsys, "check", "--json")
    assert ("failure", "uv-cache") in {(item["state"], item["subject"]) for item in json.loads(said.out)["findings"]}


STREAMS = ["status", "plan --json", "check", "--help", "help plan"]


@pytest.mark.parametrize("words", STREAMS)
def test_a_full_stdout_is_said(words: str, alice: Path) -> None:
    """An answer that cannot be written is a failure with one sentence, and no traceback."""
    said = run(alice, f"$S {words} >/dev/full")
    assert said.rc == 1
    assert said.err.splitlines()[0] == "survivectl: Cannot write the answer: no space left on device."
    assert len(said.err.splitlines()) == 2


@pytest.mark.parametrize("words", STREAMS)
def test_a_reader_that_goes_away_is_no_failure(words: str, alice: Path) -> None:
    """`| head -1` ends quietly, and so does a stdout that is closed."""
    said = run(alice, f"$S {words} | head -c 1 >/dev/null; exit ${{PIPESTATUS[0]}}")
    assert said.rc in (0, 1, 3)
    assert "Traceback" not in said.err
    assert "write" not in said.err
    said = run(alice, f"$S {words} <&- >&-")
    assert said.rc in (0, 1, 3)
    assert "Traceback" not in said.err


def test_a_stderr_that_takes_nothing_changes_no_code(alice: Path) -> None:
    """The exit code is what the answer is, whether or not somebody hears why."""
    assert [run(alice, f"$S nonsense {end}").rc for end in ("2>/dev/full", "2>&-", "<&- >&- 2>&-")] == [2, 2, 2]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_a_narrow_encoding_gets_an_answer_of_the_same_shape(encoding: str, alice: Path) -> None:
    """Bars are drawn in ASCII where the terminal has no blocks; JSON stays JSON."""
    (alice / "日本").mkdir()
    said = run(alice, f"PYTHONIOENCODING={encoding} $S status")
    assert (said.rc, "\\u" in said.out) == (3, False)
    assert ("█" in said.out or "░" in said.out) == (encoding == "utf-8")
    path = json.loads(run(alice, f"PYTHONIOENCODING={encoding} $S measure ./日本 --json").out.encode().decode())["caches"][0][
        "path"
    ]
    assert path == str(alice / "日本")


def test_no_home_anywhere_is_one_sentence(alice: Path) -> None:
    """A missing home is just an empty one; a relative HOME is not believed."""
    assert run(alice, "HOME=/nonexistent $S status").rc == 3
    assert run(alice, "cd / && HOME=relative $S list").err.count("Traceback") == 0


def test_a_working_directory_that_is_gone(alice: Path) -> None:
    """Absolute questions are answered, relative ones refused."""
    said = run(alice, "mkdir gone; cd gone; rmdir ../gone; $S plan >/dev/null && $S relocate ./x")
    assert (said.rc, said.err.splitlines()[0]) == (
        2,
        "survivectl: Cannot find './x': the working directory is gone. Nothing was changed.",
    )


def test_ctrl_c_ends_watch_quietly(alice: Path) -> None:
    """`status --watch` ends with Ctrl-C, as its help says; in a pipe it writes no escape sequences."""
    words = [sys.executable, "-m", "survived.ctl.quick", "status", "--watch"]
    with subprocess.Popen(
        words, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=alice
    ) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=10)
    assert (process.returncode, err) == (0, b"")
    assert first.startswith(b"DOWN")
    assert b"\x1b" not in first + out


def test_the_nearest_word_is_found_whatever_its_case() -> None:
    """Only what is near is offered."""
    assert (nearest("STATSU", VERBS), nearest("zzzz", VERBS), nearest("-" * 10_000, VERBS)) == ("status", None, None)


@pytest.mark.parametrize(
    ("raw", "shown"),
    [("plain ä", "plain ä"), ("a\nb", "a\\nb"), ("\x1b[2J", "\\x1b[2J"), ("\udcff", "\\xff"), ("\u202e", "\\u202e")],
)
def test_printable(raw: str, shown: str) -> None:
    """Nothing in a name can move the cursor, and what is not UTF-8 is shown as the bytes it is."""
    assert printable(raw) == shown


# ---- notify -------------------------------------------------------------------------------------------------------------


def test_a_notice_can_be_looked_at_without_sending_it(alice: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What would be sent and to whom is printed, in the language and by the templates of the configuration; the page is a file."""
    config, page = alice / ".config/survived/config.toml", alice / "mail.html"
    (alice / "texts").mkdir()
    (alice / "texts/flood.txt").write_text("$titel", encoding="utf-8")
    with config.open("a", encoding="utf-8") as file:
        file.write('[notify]\nurls = ["json://h/s3cret", "failure=json://g"]\nlanguage = "zh"\ntemplates = "~/texts"\n')
    config.chmod(0o600)
    said = call(capsys, "notify", "test", "--dry-run", "--html", str(page))
    assert (said.rc, said.out.splitlines()[0][-14:]) == (0, "：survived 测试通知")
    assert "survivectl restore pip" in said.out
    assert "It would go to destination 1 (json)." in said.err
    assert "<code" in page.read_text(encoding="utf-8")
    loud = call(capsys, "notify", "test", "--dry-run", "--json", "--level", "failure", "--topic", "flood")
    assert json.loads(loud.out)["would_go_to"] == ["destination 1 (json)", "destination 2 (json)"]
    assert "there is no $titel" in loud.err
    assert "s3cret" not in said.out + said.err + loud.out + loud.err
    assert call(capsys, "notify", "test", "--dry-run", "--html", "/nowhere/x").rc == 1
    config.write_text('[notify]\nurls = ["failure=json://g"]\n', encoding="utf-8")
    nobody = call(capsys, "notify", "test")
    assert nobody.rc == 1
    assert "none has a tag of this level or topic" in nobody.err
