"""What the tests share: a home of their own, small real filesystems, and skips that can be made to count."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.rig.disks import Disks, small_and_data_disks, why_no_mounts

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator
    from pathlib import Path

REQUIRE_ALL = os.environ.get("SURVIVED_TEST_REQUIRE") == "all"

STORIES = frozenset(
    f"test_{name}.py"
    for name in ("service", "docker_service", "docker", "redirect", "interrupt", "telling", "catalog_rules", "quota")
)
"""Files whose tests build on each other, or share what takes long to make."""


def _must_not_skip(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure that still shows its reason; an expected failure stays what it is."""
    if REQUIRE_ALL and report.outcome == "skipped" and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        report.outcome = "failed"
        report.longrepr = f"SURVIVED_TEST_REQUIRE=all, but this would skip: {reason}"


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make skipped tests count under SURVIVED_TEST_REQUIRE=all."""
    report = yield
    _must_not_skip(report)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Make skipped modules count too."""
    report = yield
    _must_not_skip(report)
    return report


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the stories: idle workers steal from the end of what others have left, and so never half of one of these."""
    items.sort(key=lambda item: item.path.name not in STORIES)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return an empty home directory."""
    path = tmp_path / "home"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def environment(home: Path, tmp_path: Path) -> dict[str, str]:
    """Return the environment of a user whose home is `home`: nothing of ours leaks in, nothing of theirs leaks out."""
    runtime = tmp_path / "run"
    runtime.mkdir(mode=0o700, exist_ok=True)
    return {
        "HOME": str(home),
        "XDG_RUNTIME_DIR": str(runtime),
        "PATH": os.environ.get("PATH", "/usr/bin:/bin"),
        "LANG": "C.UTF-8",
    }


@pytest.fixture
def needs_root_mounts() -> None:
    """Skip, with the reason, where loop images cannot be mounted."""
    if reason := why_no_mounts():
        pytest.skip(reason)


@pytest.fixture
def make_disks(needs_root_mounts: None, tmp_path: Path) -> Iterator[Callable[..., Disks]]:
    """Return a function that mounts a pair of filesystems: `make_disks(small="200M", data="400M", inodes=None)`."""
    with ExitStack() as stack:

        def make(**sizes: object) -> Disks:
            return stack.enter_context(small_and_data_disks(tmp_path, **sizes))  # type: ignore[arg-type]

        yield make


@pytest.fixture
def small_and_data(make_disks: Callable[..., Disks]) -> Disks:
    """Return a mounted 200 MB filesystem to watch and a 400 MB one to move to."""
    return make_disks()
