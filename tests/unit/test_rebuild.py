"""A lost journal is read back from the trees and the links, and nothing is guessed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from survived.act.rebuild import read_trees, set_aside
from survived.act.relocate import restore
from survived.ctl.main import main
from survived.model import Mark, Stage
from survived.observe.tree import measure_tree
from tests.unit import engine
from tests.unit.engine import SWIFT, new_task


def test_links_tell_what_the_journal_knew(tmp_path: Path) -> None:
    """Every link of ours that leads to its own tree is found again, with its id, and can be restored byte for byte."""
    with engine.build(tmp_path) as rig:
        before = {}
        for name in ("tool", "other", "third"):
            rig.source = rig.home / ".cache" / name
            (rig.source / "d").mkdir(parents=True)
            (rig.source / "d/f").write_bytes(b"x" * 5000)
            before[name] = engine.snapshot(rig.source)
            rig.relocate()
        known = rig.ends.journal.relocations()
        (rig.home / ".cache/third").unlink()
        (rig.home / ".cache/third").mkdir()  # eaten: a tool made its folder anew
        rig.close()
        (rig.disk / "survived/state.db").unlink()
        rig.open()
        assert rig.ends.journal.relocations() == ()

        found = read_trees(rig.ends.store, {str(rig.home / ".cache/tool"): "tool"}, 1.0)

        lost = [(item.source, item.target, item.files) for item in known if not item.source.endswith("third")]
        assert [(item.source, item.target, item.files) for item in found.relocations] == lost
        assert {item.cache_id for item in found.relocations} == {"tool", str(rig.home / ".cache/other")}
        assert [Path(path).name for path in found.orphans] == ["d"]  # below third, whose own place is a real folder again
        for item in found.relocations:
            rig.ends.journal.adopt(item)
            size = measure_tree(item.target)
            done = restore(rig.ends, item, high=Mark(usage=0.999), forced=True, lock=(), care=SWIFT, task=new_task(), size=size)
            assert done.stage is Stage.DONE
            assert engine.snapshot(item.source) == before[Path(item.source).name]


def test_a_broken_file_is_kept_under_another_name(tmp_path: Path) -> None:
    """Nothing is removed, and no earlier broken file is overwritten."""
    with engine.build(tmp_path) as rig:
        for content in ("one", "two"):
            (rig.disk / "survived/thing").write_text(content, encoding="utf-8")
            set_aside(rig.ends.store, "thing")
        assert [(rig.disk / f"survived/thing.broken-{n}").read_text(encoding="utf-8") for n in (1, 2)] == ["one", "two"]


def test_the_verb_mends_a_broken_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """After state.db is overwritten with garbage, `recover --rebuild` makes `list` and `restore` work again."""
    with engine.build(tmp_path) as rig:
        config = rig.home / ".config/survived/config.toml"
        config.parent.mkdir(parents=True)
        config.write_text(f'[watch]\nfilesystems = ["{rig.home}"]\n[data]\ndisks = ["{rig.disk}"]\n', encoding="utf-8")
        for name, value in {"HOME": rig.home, "XDG_RUNTIME_DIR": tmp_path / "run", "XDG_CONFIG_HOME": config.parent.parent}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("XDG_STATE_HOME", str(rig.home / ".local/state"))
        rig.source = rig.home / ".cache/uv"
        rig.source.mkdir()
        (rig.source / "f").write_bytes(b"y" * 3000)
        rig.relocate()
        aside = rig.source.with_name(rig.ends.store.aside(1))
        aside.mkdir()  # of a move that was not at its end
        rig.close()
        (rig.disk / "survived/state.db").write_bytes(b"no database" * 100)

        assert main(["list", "--json"]) == 1
        capsys.readouterr()
        assert main(["recover", "--rebuild", "--json"]) == 0
        said = json.loads(capsys.readouterr().out)
        assert [item["id"] for item in said["relocated"]] == ["uv-cache"]
        assert [item["path"] for item in said["asides"]] == [str(aside)]  # and its name is not met again below
        assert (rig.disk / "survived/state.db.broken-1").exists()
        assert main(["restore", "uv-cache", "--force"]) == 0
        assert (rig.source / "f").read_bytes() == b"y" * 3000
        assert not rig.source.is_symlink()
