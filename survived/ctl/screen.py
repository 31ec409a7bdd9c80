"""
What the demo looks like: numbered steps and a usage bar. Live on a terminal, plain lines in a pipe, nothing with --json.
"""

from __future__ import annotations

import os
import sys
import textwrap
import time
from typing import TYPE_CHECKING, Any

from survived.ctl.main import printable
from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Mapping

_CELLS = 40
_INDENT = "    "
_ASCII = str.maketrans({"█": "#", "░": ".", "→": ">", "…": "~", "│": "|"})
_TINTS = {"normal": "green", "high": "yellow", "flood": "red"}
_STEPS_SHOWN = 8  # a bar in a pipe for each 8th of the disk


class Screen:
    """
    Plain lines: no colour, no carriage return, no character that stdout's encoding does not have.

    `begin` is what was available when the demo began, `span` the bytes that the bar stands for, `marks` high and low in it.
    """

    patience = 0.0
    """How many of the seconds that a person needs to read are given."""

    def __init__(self, begin: int, span: int, marks: tuple[int, int], *, whole: bool, first: int = 1, silent: bool = False) -> None:
        self._begin, self._span, self._marks, self._whole = begin, span, marks, whole
        self._number, self._silent, self._shown = first, silent, -1
        self._last_bar = ""

    def __enter__(self) -> Screen:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing is left on a plain screen."""

    def title(self, text: str) -> None:
        """Show the first line."""
        self._print(text, "bold")

    def step(self, text: str) -> None:
        """Show a numbered line."""
        for line in wrap(text, f"{self._number:>2}  ", _INDENT):
            self._print(line, "bold")
        self._number += 1

    def say(self, text: str, indent: int = 0) -> None:
        """Show a line that belongs to the last step."""
        for line in wrap(text, _INDENT + " " * indent, _INDENT + " " * (indent + 2)):
            self._print(line, "")

    def level(self, fs: Mapping[str, Any], doing: str) -> None:  # noqa: ARG002
        """Show how full the root disk is, while something is done: in a pipe only now and then."""
        part = int(self._used(fs) / self._span * _STEPS_SHOWN)
        if part != self._shown:
            self.bar(fs)

    def bar(self, fs: Mapping[str, Any]) -> None:
        """Show how full the root disk is, to stay; not twice the same."""
        self._shown = int(self._used(fs) / self._span * _STEPS_SHOWN)
        if (text := self.draw(fs)) != self._last_bar:
            self._last_bar = text
            self._print(text, _TINTS[fs["pressure"]])

    def rest(self) -> None:
        """Show that nothing is being done."""

    def draw(self, fs: Mapping[str, Any]) -> str:
        """Return the bar with its figures, which are those of the daemon."""
        filled = round(min(1.0, max(0.0, self._used(fs) / self._span)) * _CELLS)
        cells = ["█" if at < filled else "░" for at in range(_CELLS)]
        for mark in self._marks:
            cells[round(mark / self._span * _CELLS)] = "|"
        if self._whole:
            figures = f"{print_share(fs['usage']):>5}  {print_bytes(fs['used_bytes'])} used"
        else:
            figures = f"{self._used(fs) / 1024**2:+6.1f} MiB, {print_bytes(fs['available_bytes'])} available"
        return f"{_INDENT}{''.join(cells)} {figures}"

    def _used(self, fs: Mapping[str, Any]) -> int:
        return self._begin - int(fs["available_bytes"])

    def _print(self, text: str, _style: str) -> None:
        if not self._silent:
            print(encodable(text), flush=True)


class LiveScreen(Screen):
    """A terminal: the steps stay, below them a bar that moves and what is being done."""

    patience = 1.0

    def __enter__(self) -> LiveScreen:
        from rich.console import Console
        from rich.live import Live

        self._began, self._bar, self._doing, self._tint = time.monotonic(), "", "", ""
        self._console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
        self._live = Live(
            console=self._console,
            get_renderable=self._render,
            refresh_per_second=10,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def level(self, fs: Mapping[str, Any], doing: str) -> None:
        self._bar, self._doing = self.draw(fs), doing
        self._tint = _TINTS[fs["pressure"]]

    def rest(self) -> None:
        self._doing = ""

    def step(self, text: str) -> None:
        self._print("", "")
        super().step(text)

    def _render(self) -> Any:
        from rich.text import Text

        seconds = time.monotonic() - self._began
        turning = "|/-\\"[int(seconds * 8) % 4]
        doing = f"{_INDENT}{turning} {self._doing}" if self._doing else ""
        bar = f"{self._bar}\n" if self._bar != self._last_bar else ""
        return Text.assemble((encodable(bar), self._tint), (encodable(f"{doing[:68]:<68}{seconds:6.1f} s"), "dim"), no_wrap=True)

    def _print(self, text: str, style: str) -> None:
        self._console.print(encodable(text), style=style or None)


def open_screen(begin: int, span: int, marks: tuple[int, int], *, whole: bool, first: int = 1, silent: bool = False) -> Screen:
    """Return the screen that stdout is good for."""
    live = sys.stdout.isatty() and os.environ.get("TERM") not in (None, "", "dumb") and not silent
    return (LiveScreen if live else Screen)(begin, span, marks, whole=whole, first=first, silent=silent)


def wrap(text: str, first: str, more: str) -> list[str]:
    """Return the text in lines of 80 columns; a path that is longer stays whole, to be copied."""
    return textwrap.wrap(
        printable(text),
        80,
        initial_indent=first,
        subsequent_indent=more,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [""]


def encodable(text: str) -> str:
    """Return the text with what stdout cannot write put into other characters."""
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(_ASCII).encode(encoding, "replace").decode(encoding)
    return text
