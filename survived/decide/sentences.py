"""
What every notice is made of: sentences in the reader's language, in five parts that always come in the same order.

Pure: the translation is a value that comes in with the `Voice`. Names of files and programs may hold line breaks, marks
and bytes that are not UTF-8; each is made readable before it goes into a sentence.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.decide.pressure import print_free
from survived.model import Mark, Notice
from survived.units import print_seconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from survived.model import Level, Topic

HAPPENED, DID, LEFT, GREW, UNDO = PARTS = ("happened", "did", "left", "grew", "undo")
TITLE = "title"
"""The part that stands before each notice in a letter of several."""
COMMAND, END = "\ue000", "\ue001"
"""What stands around a command in the lines of a part; of private use, so no cleaned name holds them."""
UNITS = ("s", "min", "h", "d")
LONGEST_TITLE = 70

Parts = tuple[tuple[str, tuple[str, ...]], ...]


def _as_it_is(text: str) -> str:
    return text


@dataclass(frozen=True, slots=True)
class Voice:
    """Who speaks and in which language: the short name of the host, and what turns an English sentence into the reader's."""

    host: str
    translate: Callable[[str], str] = _as_it_is

    def say(self, text: str, /, **values: object) -> str:
        """Return a sentence with its values; those whose name begins with `command` are marked as commands."""
        words = {name: _command(value) if name.startswith("command") else clean(str(value)) for name, value in values.items()}
        return self.translate(text).format_map(words)

    def row(self, items: Iterable[object], most: int | None = None) -> str:
        """Return names in one row; of more than `most` the rest is counted."""
        names = [clean(str(item)) for item in items]
        shown = self.translate(", ").join(names[:most])
        if most is None or len(names) <= most:
            return shown
        return self.say("{names} and {count} more", names=shown, count=len(names) - most)

    def duration(self, seconds: float) -> str:
        """Return a duration with its units."""
        return self.units(print_seconds(max(0.0, seconds)))

    def units(self, text: str) -> str:
        """Return a duration as `print_seconds` writes it, with the units of the language."""
        return " ".join(self.translate(word) if word in UNITS else word for word in text.split())

    def mark(self, mark: Mark, quantity: str) -> str:
        """Return a watermark of `bytes` or `inodes`: a share, or what must stay free."""
        text = print_free(mark, quantity, "").removesuffix(" inodes")
        if mark.usage is not None:
            return text
        return self.say("{count} inodes free", count=text) if quantity == "inodes" else self.say("{size} free", size=text)


def notice(voice: Voice, topic: Topic, level: Level, headline: str, parts: Mapping[str, Sequence[str]], now: float) -> Notice:
    """Return a notice of the parts that have lines, in their order; its title has 70 characters at most."""
    title = voice.say("{host}: {headline}", host=voice.host, headline=headline)
    kept = tuple((name, tuple(parts[name])) for name in PARTS if parts.get(name))
    return Notice(topic.value, level, shorten(title), body_of(kept), now, kept)


def body_of(parts: Parts) -> str:
    """Return the lines of all parts as plain text; before each title that is not the first stands an empty line."""
    lines: list[str] = []
    for name, texts in parts:
        if name == TITLE and lines:
            lines.append("")
        lines += [text.replace(COMMAND, "").replace(END, "") for text in texts]
    return "\n".join(lines)


def shorten(title: str) -> str:
    """Return a title as one line that is not too long."""
    short = clean(title)
    return short if len(short) <= LONGEST_TITLE else short[: LONGEST_TITLE - 1] + "…"


def clean(text: str) -> str:
    """Return text that is safe to send: one line of valid UTF-8 without marks of ours."""
    if text.isprintable():
        return text
    readable = text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return "".join(char if char.isprintable() else "�" for char in readable)


def _command(value: object) -> str:
    return f"{COMMAND}{clean(str(value))}{END}"
