"""A look at the source alone finds whatever changed since it was copied, and counts what a pass counts."""

from __future__ import annotations

import os
import time
from array import array

import pytest

from survived.act import fs, looking
from survived.act.copying import TreeCopy
from survived.act.links import Links
from survived.act.passes import _FEW, Known, Pass
from survived.act.stillness import look_through
from tests.unit.engine import nasty_tree
from tests.unit.pairs import Pair
from tests.unit.test_passes import CHANGES, make_changeable


def look(pair: Pair, checked: Pass) -> Pass:
    """Look as `copy_settled` does after the pass `checked`."""
    copier = pair.copier
    assert isinstance(copier, TreeCopy)
    return copier.look(checked, time.time_ns())


def test_a_quiet_tree_is_counted_as_a_pass_counts_it(pair: Pair) -> None:
    """Nothing changed: the look has the numbers and the mark of the pass before it."""
    pair.source.rmdir()
    nasty_tree(pair.source)
    checked = pair.settle()
    seen = look(pair, checked)
    for name in ("files", "size_bytes", "reclaimable_bytes", "content_bytes", "source_mark_ns", "target_mark_ns", "copied"):
        assert getattr(seen, name) == getattr(checked, name), name


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_is_seen(pair: Pair, change: str) -> None:
    """Whatever changed since the last pass ends the look at once, and the next passes bring it over."""
    make_changeable(pair.source)
    checked = pair.settle()
    time.sleep(0.02)
    CHANGES[change](pair.source)
    assert look(pair, checked).copied == 1
    pair.check()


def test_the_latest_change_is_of_anything_below_the_root(pair: Pair) -> None:
    """A file's, a link's and a folder's ctime count; the root's own does not, for the exchange moves it."""
    make_changeable(pair.source)
    with fs.opened(str(pair.source)) as fd:
        for act in (
            lambda: (pair.source / "d/e/g").chmod(0o640),
            lambda: os.utime(pair.source / "s", ns=(1, 2), follow_symlinks=False),
            lambda: (pair.source / "d/f").unlink(),
        ):
            before = look_through(fd, lambda *_: None, leases=False).latest_ns
            time.sleep(0.02)
            act()
            after = look_through(fd, lambda *_: None, leases=False).latest_ns
            assert before is not None
            assert after is not None
            assert after > before
        time.sleep(0.02)
        pair.source.chmod(0o711)
        assert look_through(fd, lambda *_: None, leases=False).latest_ns == after


@pytest.mark.parametrize("most", [0, 1, looking._MET])
def test_an_inode_is_met_once(pair: Pair, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Of an inode with several names one is yielded, as long as it can be remembered; all folders and all others are."""
    monkeypatch.setattr(looking, "_MET", most)
    for folder in ("a", "b", "c"):
        (pair.source / folder).mkdir()
    for number in range(3):
        first = pair.source / f"a/{number}"
        first.write_text("x")
        for folder in ("b", "c"):
            os.link(first, pair.source / folder / first.name)
    (pair.source / "alone").write_text("y")
    with fs.opened(str(pair.source)) as fd:
        met = [seen.info.st_ino for seen in looking.walk(fd, once=True) if seen.name and seen.info is not None]
        every = [seen.info.st_ino for seen in looking.walk(fd) if seen.name and seen.info is not None]
        assert sum(not seen.name for seen in looking.walk(fd, once=True)) == 4
    assert set(met) == set(every)
    assert len(every) == 10
    fewest, largest = {0: (10, 10), 1: (6, 8)}.get(most, (4, 4))
    assert fewest <= len(met) <= largest


@pytest.mark.parametrize("count", [0, 7, _FEW, _FEW + 1, 3 * _FEW])
def test_known_signatures_are_found_at_every_size(count: int) -> None:
    """Few or many, what was remembered is known, and nothing else is."""
    known = Known(array("Q", ((number * 0x9E37_79B9_7F4A_7C15) % 2**64 for number in range(count))))
    for number in range(0, count, 997):
        assert number * 0x9E37_79B9_7F4A_7C15 % 2**64 in known
        assert (number * 0x9E37_79B9_7F4A_7C15 + 1) % 2**64 not in known


def test_links_are_forgotten_when_all_names_were_met(pair: Pair) -> None:
    """An inode is remembered from its first name to its last, so that pairs of names cost nothing in the end."""
    (pair.source / "one").write_text("x")
    os.link(pair.source / "one", pair.source / "two")
    with fs.opened(str(pair.copy)) as fd:
        links = Links(fd, os.stat(pair.source).st_dev)
        info = os.stat(pair.source / "one")
        (pair.copy / "one").write_text("x")
        assert links.count(info) == 0
        assert not links.link(info, fd, "two")
        assert links.note(info, os.stat(pair.copy / "one"), "", "one")
        assert links.count(info) == 1
        assert links.link(info, fd, "two")
        links.close()
        assert links.waiting == 0
    assert os.stat(pair.copy / "two").st_ino == os.stat(pair.copy / "one").st_ino
