"""
The screens that stand before the explorer: a question, the keys, what came of several moves; and how all of it looks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.binding import Binding
from textual.containers import VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Static

if TYPE_CHECKING:
    from collections.abc import Sequence

    from textual.app import ComposeResult
    from textual.binding import BindingType

KEYS = """\
↑ ↓  PgUp PgDn  Home End    go to another line
Enter  →                    look into a directory
Backspace  ←                back to what it is in
o                           overview: caches, and what else is big
space   c                   mark this line; clear all marks
m                           move what is marked to a data disk
r                           restore it: bring it home
x                           stop the move that is going on
s   u                       sort by size or name; look again
q  Ctrl-C                   quit

Where nothing is marked, m and r are about the line under the cursor;
both ask first. Behind a link (→) the size is what lies on the data
disk; it takes nothing here."""
READ_ONLY = """\

This is --read-only: m and r do nothing, and nothing else here changes
anything either."""
CSS = """
#title, #usage, #heading, #totals, #keys { height: 1; }
#title { background: $primary; color: $text; text-style: bold; }
#heading, #totals { color: $text-muted; }
#detail { height: 3; }
#journey { height: 2; display: none; color: $text-warning; }
#keys { background: $panel; }
Question, Page { align: center middle; }
#box { width: 78; max-width: 96%; height: auto; max-height: 96%; padding: 0 1; border: round $primary; background: $surface; }
#box.bad { border: round $error; }
#text { width: 1fr; height: auto; }
"""


class Question(ModalScreen[bool]):
    """Asks something; True for yes. Nothing but y and Enter says yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y,enter", "answer(True)", show=False),
        Binding("n,escape,q,ctrl+c", "answer(False)", show=False),
    ]

    def __init__(self, text: str, yes: str) -> None:
        super().__init__()
        self._text, self._yes = text, yes

    def compose(self) -> ComposeResult:
        """Show the question and the two answers."""
        text = Text(self._text)
        text.append("\n\n")
        for key, what in (("Enter", self._yes), ("Esc", "not")):
            text.append(f" {key} ", "reverse")
            text.append(f" {what}    ")
        with VerticalScroll(id="box"):
            yield Static(text, id="text")

    def action_answer(self, yes: bool) -> None:
        """End with an answer."""
        self.dismiss(yes)


class Page(ModalScreen[None]):
    """Shows text until a key is pressed; long text scrolls."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,enter,q,question_mark,ctrl+c,space", "close", show=False)]

    def __init__(self, title: str, paragraphs: Sequence[str], *, bad: bool = False) -> None:
        super().__init__()
        self._title, self._paragraphs, self._bad = title, paragraphs, bad

    def compose(self) -> ComposeResult:
        """Show the title, the text and how to go on."""
        text = Text(self._title, "bold")
        text.append("\n\n" + "\n".join(self._paragraphs) + "\n\n", "not bold")
        text.append(" Esc ", "reverse not bold")
        text.append(" back", "not bold")
        with VerticalScroll(id="box", classes="bad" if self._bad else ""):
            yield Static(text, id="text")

    def action_close(self) -> None:
        """Go back."""
        self.dismiss(None)
