"""
A user's own texts for notices: files in the directory of [notify] templates.

`TOPIC.txt`, or `all.txt` for topics without one: the first line is the title, the rest the body. `mail.html`: the page of
a mail. Both hold `$WORDS` as of Python's `string.Template`. A template that cannot be used is told, and ours is used.
"""

from __future__ import annotations

import os
import string
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.errors import cause_of

if TYPE_CHECKING:
    from survived.model import Notice

WORDS = ("title", "body", "host", "level", "topic", "happened", "did", "left", "grew", "undo")
PAGE_WORDS = ("title", "host", "colour", "notices", "picture", "footer")
_MOST_BYTES = 64 * 1024
_MARKS = str.maketrans("", "", "\ue000\ue001")


class Templates:
    """The templates of one directory; None for no directory. What was wrong at the last use is in `troubles`, by file."""

    def __init__(self, directory: str | None) -> None:
        self._directory = directory
        self.troubles: dict[str, str] = {}

    def apply(self, notice: Notice, host: str) -> Notice:
        """Return a notice with the text that its topic's template makes of it; as it is where there is none, or a broken one."""
        for name in (f"{notice.topic}.txt", "all.txt"):
            text = self._read(name)
            if text is None:
                continue
            parts = {part: "\n".join(lines).translate(_MARKS) for part, lines in notice.parts}
            words = {**dict.fromkeys(WORDS, ""), **parts, "title": notice.title, "body": notice.body, "host": host}
            words |= {"level": notice.level.value, "topic": notice.topic}
            made = self._fill(name, text, words)
            if made is not None:
                title, _, body = made.strip("\n").partition("\n")
                return replace(notice, title=title.strip() or notice.title, body=body.strip("\n"), parts=())
        return notice

    def page(self) -> str | None:
        """Return the page of a mail, or None for ours; it is checked here, so that the sender can rely on it."""
        text = self._read("mail.html")
        if text is None or self._fill("mail.html", text, dict.fromkeys(PAGE_WORDS, "")) is None:
            return None
        return text

    def _read(self, name: str) -> str | None:
        if self._directory is None:
            return None
        path = os.path.join(self._directory, name)
        try:
            with open(path, encoding="utf-8") as file:
                text = file.read(_MOST_BYTES)
        except FileNotFoundError:
            self.troubles.pop(name, None)
            return None
        except (OSError, UnicodeDecodeError) as error:
            why = cause_of(error) if isinstance(error, OSError) else "it is not UTF-8"
            self.troubles[name] = f"Cannot use the template '{path}': {why}. The built-in text is used."
            return None
        return text

    def _fill(self, name: str, text: str, words: dict[str, str]) -> str | None:
        try:
            made = string.Template(text).substitute(words)
        except KeyError as error:
            why = f"there is no ${error.args[0]}; there are {', '.join(f'${word}' for word in words)}"
        except ValueError as error:
            why = f"{str(error)[:1].lower()}{str(error)[1:]}; a plain dollar is written $$"
        else:
            self.troubles.pop(name, None)
            return made
        path = os.path.join(self._directory or "", name)
        self.troubles[name] = f"Cannot use the template '{path}': {why}. The built-in text is used."
        return None
