"""The page of `history --html` in a real browser: drawn, without an error, and without asking anybody for anything."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from survived.ctl import usage_page
from tests.unit.test_history_verb import GIB, ODD, past

pytestmark = pytest.mark.real


@pytest.fixture
def page(tmp_path: Path) -> Path:
    """Return a page whose names are as bad as names can be."""
    if shutil.which("chromium") is None:
        pytest.skip("chromium is not installed")
    parts = [
        usage_page.Part(name, ODD, size * GIB, kind)
        for name, size, kind in (("pip", 50, "cache"), (ODD, 9, "hog"), ("x", 3, "state"))
    ]
    file = tmp_path / "usage.html"
    file.write_text(
        usage_page.render(past(moves=3), {ODD: usage_page.tidy(parts, 80 * GIB)}, host=ODD), encoding="utf-8", errors="replace"
    )
    return file


def chromium(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run the browser without a window, with a profile of its own."""
    command = [
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        f"--user-data-dir={tmp_path}/profile",
    ]
    return subprocess.run([*command, *words], capture_output=True, text=True, timeout=100, check=True, cwd=tmp_path)


def test_a_browser_shows_it_without_errors_and_asks_for_nothing(page: Path, tmp_path: Path) -> None:
    """
    The scripts run (the hair line follows the pointer), no name has become a tag, nothing is on the console.

    Every request of the browser is in its log: one, for the page itself. The policy of the page would refuse any other.
    """
    probe = tmp_path / "probe.html"
    check = """<script>
const plot = document.querySelector(".plot"), box = plot.getBoundingClientRect();
plot.dispatchEvent(new PointerEvent("pointermove", {clientX: box.left + box.width / 2, bubbles: true}));
document.title = "hair " + plot.querySelector(".hair").style.display + " " + plot.querySelector(".hair span").textContent;
document.body.dataset.seen = [document.querySelectorAll(".map div").length, document.querySelectorAll("tr").length,
  document.querySelector(".curve").getTotalLength() > 500, performance.getEntriesByType("resource").length].join(" ");
</script></body>"""
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", check), encoding="utf-8")
    log = tmp_path / "net.json"
    done = chromium(tmp_path, "--enable-logging=stderr", "--v=0", f"--log-net-log={log}", "--dump-dom", f"file://{probe}")
    assert re.search(r"<title>hair block \d{4}-\d\d-\d\d \d\d:\d\d  \d+ %</title>", done.stdout)
    assert re.search(r'data-seen="4 4 true 0"', done.stdout)
    assert "CONSOLE" not in done.stderr
    assert "alert(1)" in done.stdout
    assert done.stdout.count("<script") == 3
    requested = set(re.findall(r'"url":"(\w+:[^"]*)"', log.read_text(encoding="utf-8")))
    assert {url for url in requested if "usage.html" in url or "gpu7" in url} == set()
    assert "http://" not in page.read_text(encoding="utf-8")


def test_a_narrow_window_has_a_picture_and_nothing_to_scroll_sideways(page: Path, tmp_path: Path) -> None:
    """What is drawn on a telephone is no blank page, and no wider than its screen."""
    picture = tmp_path / "page.png"
    chromium(tmp_path, "--hide-scrollbars", "--window-size=500,1700", f"--screenshot={picture}", f"file://{page}")
    assert picture.stat().st_size > 30_000
    probe = tmp_path / "probe.html"
    check = "<script>document.title = document.documentElement.scrollWidth - innerWidth;</script></body>"
    probe.write_text(page.read_text(encoding="utf-8").replace("</body>", check), encoding="utf-8")
    done = chromium(tmp_path, "--window-size=500,1700", "--dump-dom", f"file://{probe}")
    found = re.search(r"<title>(-?\d+)</title>", done.stdout)
    assert found is not None
    assert int(found.group(1)) <= 0
