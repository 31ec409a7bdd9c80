"""The post: from events to notices in the outbox, in the user's language and words, for whom they are."""

from __future__ import annotations

import selectors
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from survived.model import Pressure, Stage, Verb
from survived.post import Post
from survived.settings.config import load_settings
from survived.tell.delivery import destination_key
from tests.unit.scene import GIB, NOW, filesystem, reading, scene
from tests.unit.test_notices import OPERATION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., tuple[Post, Any]]]:
    """Return a function that makes a post without a store from the lines of [notify], and the machine it belongs to."""
    with selectors.DefaultSelector() as selector:

        def build(*lines: str, **env: str) -> tuple[Post, Any]:
            config = tmp_path / "config.toml"
            config.write_text("[notify]\n" + "\n".join(lines), encoding="utf-8")
            config.chmod(0o600)
            settings = load_settings(config, {}, str(tmp_path))
            machine: Any = SimpleNamespace(settings=settings, rules=settings.rules(), env=env, open={})
            machine.paths = SimpleNamespace(runtime_dir=tmp_path)
            return Post(machine, selector), machine

        yield build


def titles(post: Post) -> list[str]:
    """Return what waits or was told, oldest first, without the host."""
    return [item["title"].partition(": ")[2] or item["title"] for item in reversed(post.recent())]


def test_a_broken_template_is_told_once(make: Callable[..., tuple[Post, Any]], tmp_path: Path) -> None:
    """Three moves with a template that cannot be used are three built-in notices and one about the template."""
    (tmp_path / "relocated.txt").write_text("$titel\n$body", encoding="utf-8")
    post, machine = make(f'templates = "{tmp_path}"')
    for name in ("pip", "uv", "npm"):
        post.moved(replace(OPERATION, cache_id=name), None, None, NOW)
    assert titles(post) == [
        "pip relocated, 1.00 GiB freed", "a template for notices cannot be used",
        "uv relocated, 1.00 GiB freed", "npm relocated, 1.00 GiB freed",
    ]  # fmt: skip
    (tmp_path / "relocated.txt").write_text("mine: $title\n$body", encoding="utf-8")
    post.moved(OPERATION, None, None, NOW)
    assert post.recent()[0]["title"].startswith("mine: ")
    assert machine.settings.notify.templates == str(tmp_path)


def test_tags_choose_who_gets_what(make: Callable[..., tuple[Post, Any]]) -> None:
    """A failure goes to those for failures and to those for all, a success not to the former."""
    post, _ = make('urls = ["json://all", "failure,flood=json://loud"]')
    post.moved(OPERATION, None, None, NOW)
    post.failed("pip", "/s", "Cannot move '/s': it is a mount point. Nothing was changed.", NOW)
    everybody, loud = destination_key("json://all"), destination_key("json://loud")
    waiting = post._outbox.waiting(NOW, (everybody, loud))
    assert [(item.topic, item.destination) for item in waiting] == [
        ("relocated", everybody), *(("failed", key) for key in sorted((everybody, loud))),
    ]  # fmt: skip


def test_the_language_is_that_of_the_settings(make: Callable[..., tuple[Post, Any]]) -> None:
    """`auto` is the daemon's own environment."""
    for lines, env, expected in (
        (["language = 'zh'"], {}, "pip 已迁移，释放 1.00 GiB"),
        ([], {"LANG": "zh_CN.UTF-8"}, "pip 已迁移，释放 1.00 GiB"),
        (["language = 'en'"], {"LANG": "zh_CN.UTF-8"}, "pip relocated, 1.00 GiB freed"),
    ):
        post, _ = make(*lines, **env)
        post.moved(OPERATION, None, None, NOW)
        assert post.recent()[0]["title"].endswith(expected)


def test_growth_is_counted_from_notice_to_notice(make: Callable[..., tuple[Post, Any]]) -> None:
    """The first notice tells what grew since the daemon looks, the next one only what grew since the first."""
    post, _ = make('urls = ["json://all"]')
    key = destination_key("json://all")

    def look(size: int, now: float, usage: float = 0.5, pressure: Pressure = Pressure.NORMAL) -> None:
        envs = reading("torch", size, cache={"move": False})
        post.observed(scene(envs, fs=filesystem(usage)), {"/": pressure}, SimpleNamespace(moves=(), refusals=()), now)  # type: ignore[arg-type]

    look(GIB, NOW)
    look(4 * GIB, NOW + 7200, 0.93, Pressure.HIGH)
    look(6 * GIB, NOW + 10800, 0.95, Pressure.HIGH)
    bodies = [item.body for item in post._outbox.notices([item.number for item in post._outbox.waiting(NOW, (key,))]).values()]
    assert "Grew most in the last 2 h: torch +3.00 GiB." in bodies[0]
    assert "Grew most since the last notice, 1 h ago: torch +2.00 GiB." in bodies[-1]
    assert post.episodes() == {"/": "bytes"}


def test_what_is_no_relocation_by_itself_is_told_alike(make: Callable[..., tuple[Post, Any]]) -> None:
    """A restore is told; what was rolled back is not."""
    post, _ = make()
    post.moved(replace(OPERATION, stage=Stage.UNDONE), None, None, NOW)
    post.moved(replace(OPERATION, verb=Verb.RESTORE), None, None, NOW)
    assert titles(post) == ["pip is at home again"]
