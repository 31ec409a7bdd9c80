"""
The explorer on the screen: textual's app around the listing. What is slow runs in threads, so that a key always answers.

With `read_only` no key reaches anything that changes something: the two that would only say so.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import os
import signal
import threading
from typing import TYPE_CHECKING, ClassVar

from rich.text import Text
from textual.app import App
from textual.binding import Binding
from textual.widgets import Static

from survived.ctl import explorer, topframe, topjourney
from survived.ctl.explorer import Listing, Marks, Nature, Order
from survived.ctl.main import printable
from survived.ctl.topdialogs import CSS, KEYS, READ_ONLY, Page, Question
from survived.ctl.topjourney import Journey
from survived.ctl.toplist import Rows
from survived.ctl.topreader import Reader

if TYPE_CHECKING:
    from collections.abc import Callable

    from textual.app import ComposeResult
    from textual.binding import BindingType

    from survived.ctl.scout import Scout
    from survived.ctl.topjourney import Bring

_REDRAW_SECONDS = 0.2
_PATIENCE_SECONDS = 10.0
_ACTIONS = {
    "up,k": "step(-1)", "down,j": "step(1)", "pageup": "page(-1)", "pagedown": "page(1)",
    "home": "step(-1000000000)", "end": "step(1000000000)", "enter,right": "enter", "backspace,left": "out",
    "space": "mark", "c": "clear", "m": "bring('relocate')", "r": "bring('restore')", "x": "halt", "s": "sort", "u": "update",
    "o": "overview", "question_mark,h,f1": "help", "escape": "dismiss_message", "q,ctrl+c,ctrl+q": "leave",
}  # fmt: skip
"""What each key does; see `topdialogs.KEYS` for the words."""


class Top(App[None]):
    """The explorer. `bring(verb, path, stop, show)` makes one move and returns its result, or raises `SurvivedError`."""

    ENABLE_COMMAND_PALETTE = False
    CSS = CSS
    BINDINGS: ClassVar[list[BindingType]] = [Binding(keys, action, show=False) for keys, action in _ACTIONS.items()]

    def __init__(self, scout: Scout, bring: Bring, *, start: str | None = None, read_only: bool = False) -> None:
        super().__init__()
        self._scout, self._bring, self._start, self._read_only = scout, bring, start, read_only
        self._listings: dict[str | None, Listing] = {}
        self._listing = Listing(start)
        self._marks = Marks()
        self._reader: Reader | None = None
        self._journey: Journey | None = None
        self._message = ""
        self._is_leaving = False
        self._judged: dict[str, str | None] = {}
        self._rows = Rows(self._show)

    def compose(self) -> ComposeResult:
        """Lay the lines out from top to bottom."""
        for name in ("title", "usage", "heading"):
            yield Static(id=name)
        yield self._rows
        for name in ("totals", "detail", "journey", "keys"):
            yield Static(id=name)

    def on_mount(self) -> None:
        """Begin to look."""
        self._rows.marks = self._marks
        self._loop_of_app, self._context_of_app = asyncio.get_running_loop(), contextvars.copy_context()
        for number in (signal.SIGTERM, signal.SIGHUP):
            with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: a test
                self._loop_of_app.add_signal_handler(number, self._end_now)
        self.set_interval(_REDRAW_SECONDS, self._show_journey)
        self._rows.focus()
        self._open(self._start)

    # ---- reading ---------------------------------------------------------------------------------------------------

    def _open(self, path: str | None, *, cursor: str | None = None, anew: bool = False) -> None:
        """Show a directory, None for the overview; what was read of it before is still good unless `anew`."""
        if not anew and self._reader is not None and self._reader.is_running and path == self._listing.path:
            return
        if self._reader is not None:
            self._reader.stop()
        known = None if anew else self._listings.get(path)
        self._listing = self._rows.listing = self._listings[path] = known or Listing(path)
        if cursor is not None:
            self._listing.go_to(cursor)
        self._show()
        if not self._listing.is_read or self._listing.pending:
            self._reader = Reader(self._scout, self._listing, self._tell, is_stale=anew or not self._scout.is_read)
            self._reader.start()

    def _tell(self, change: Callable[[], None]) -> None:
        """Have our own thread change something and draw it; called by others."""

        def take() -> None:
            change()
            self._show()

        self._call(take)

    def _call(self, change: Callable[[], None]) -> None:
        """Call something in our own thread from another one, and wait until that is done, or we have ended."""
        done = threading.Event()

        def take() -> None:
            try:
                if self.is_running:
                    change()
            finally:
                done.set()

        # Not `call_from_thread`: where the loop has just ended that leaves a coroutine which nobody awaits.
        with contextlib.suppress(RuntimeError):
            self._loop_of_app.call_soon_threadsafe(take, context=self._context_of_app.copy())
            done.wait(_PATIENCE_SECONDS)

    # ---- drawing ---------------------------------------------------------------------------------------------------

    def _show(self) -> None:
        """Draw everything for what it is now; in a question or a page the list below is drawn too."""
        if not self.is_running or not self._rows.is_attached:
            return
        width, listing = self.size.width, self._listing
        self._rows.redraw()
        self._put("title", topframe.title(listing, self._scout.home, width, read_only=self._read_only))
        self._put("usage", topframe.usage(self._scout.filesystem_of(listing.path), listing, width))
        self._put("heading", explorer.heading(self._rows.columns))
        self._put("totals", topframe.filled(f" {explorer.totals(listing, self._marks)}", width))
        self._put("detail", *self._details(width))
        self._show_keys()
        self._show_journey()

    def _put(self, name: str, *lines: str) -> None:
        self.screen_stack[0].query_one(f"#{name}", Static).update(Text("\n".join(lines), no_wrap=True))

    def _details(self, width: int) -> list[str]:
        row = self._listing.current
        if self._message or self._listing.error:
            return topframe.fold([self._message or self._listing.error], width)
        if row is None:
            return ["Nothing is here." if self._listing.is_read else ""]
        if row.path not in self._judged:
            self._judged[row.path] = self._scout.why_not(row)
        return topframe.details(row, self._judged[row.path], self._scout.home, width, read_only=self._read_only)

    def _show_keys(self) -> None:
        text = Text(no_wrap=True)
        for key, what in topframe.keys(read_only=self._read_only, is_moving=self._journey is not None):
            text.append(f" {key}", "bold")
            text.append(f" {what} ")
        self.screen_stack[0].query_one("#keys", Static).update(text)

    def _show_journey(self) -> None:
        if not self.is_running or not self._rows.is_attached:
            return
        widget = self.screen_stack[0].query_one("#journey", Static)
        widget.display = self._journey is not None
        if self._journey is not None:
            self._put("journey", *topjourney.draw(self._journey, self.size.width, self._scout.home))

    # ---- going about -----------------------------------------------------------------------------------------------

    def action_step(self, by: int) -> None:
        """Move the cursor."""
        self._message = ""
        self._listing.step(by)
        self._show()

    def action_page(self, by: int) -> None:
        """Move the cursor by what is seen."""
        self.action_step(by * max(1, self._rows.page_lines - 1))

    def action_enter(self) -> None:
        """Look into the directory under the cursor."""
        row = self._listing.current
        if row is None:
            return
        if row.opens:
            self._message = ""
            self._open(row.path)
        else:
            self._say("Only directories can be looked into.")

    def action_out(self) -> None:
        """Go to what the directory is in; from the top of all, to the overview."""
        self._message = ""
        path = self._listing.path
        if path == "/":
            self._open(None)
        elif path is not None:
            self._open(os.path.dirname(path), cursor=path)
        else:
            self._open("/")

    def action_overview(self) -> None:
        """Show the overview."""
        self._message = ""
        self._open(None)

    def action_sort(self) -> None:
        """Sort by the other thing."""
        self._listing.sort(Order.NAME if self._listing.order is Order.SIZE else Order.SIZE)
        self._show()

    def action_update(self) -> None:
        """Look and measure again, here and wherever one goes from now on."""
        self._message = ""
        self._scout.forget()
        self._refresh()

    def _refresh(self) -> None:
        self._judged.clear()
        current, order = self._listing.current, self._listing.order
        self._listings.clear()
        self._open(self._listing.path, cursor=current.path if current and self._listing.chosen else None, anew=True)
        self._listing.order = order

    def action_mark(self) -> None:
        """Mark what is under the cursor, if anything can be done with it, and go on to the next."""
        row = self._listing.current
        if row is None or self._is_refused():
            return
        if row.nature is not Nature.RELOCATED and (why := self._scout.why_not(row)) is not None:
            self._say(f"{printable(row.name)} cannot be moved: {printable(why)}.")
            return
        self._marks.toggle(row)
        self.action_step(1)

    def _is_refused(self) -> bool:
        """Tell whether this is --read-only, and say so."""
        if self._read_only:
            self._say("Nothing is changed here: this is --read-only.")
        return self._read_only

    def action_clear(self) -> None:
        """Take all marks away."""
        self._marks.rows.clear()
        self._show()

    def action_help(self) -> None:
        """Show the keys."""
        self.push_screen(Page("survivectl top", [KEYS, READ_ONLY] if self._read_only else [KEYS]))

    def action_dismiss_message(self) -> None:
        """Take the message away."""
        self._message = ""
        self._show()

    def _say(self, text: str) -> None:
        self._message = text
        self._show()

    # ---- moving ----------------------------------------------------------------------------------------------------

    def action_bring(self, verb: str) -> None:
        """Ask, and then move or restore what is marked, or what is under the cursor."""
        if self._is_refused():
            return
        if self._journey is not None:
            self._say("A move is going on. Wait for it, or stop it with x.")
            return
        natures = (Nature.RELOCATED, Nature.LOST) if verb == "restore" else (Nature.DIRECTORY,)
        current = self._listing.current
        rows = self._marks.chosen(current, natures)
        for row in (rows or [current]) if verb == "relocate" and current is not None else ():
            if (why := self._scout.why_not(row)) is not None:
                self._say(f"{printable(row.name)} cannot be moved: {printable(why)}.")
                return
        if not rows:
            self._say("Nothing that is chosen is relocated." if verb == "restore" else "Nothing that is chosen can be moved.")
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._set_out(Journey(verb, rows))

        text = topjourney.question(verb, rows, self._scout.home, [self._scout.caution(row) for row in rows])
        self.push_screen(Question(text, "bring home" if verb == "restore" else "move"), answered)

    def _set_out(self, journey: Journey) -> None:
        self._journey = journey
        self._message = ""

        def travel() -> None:
            journey.travel(self._bring)
            self._call(lambda: self._arrive(journey))

        threading.Thread(target=travel, name="survivectl-mover", daemon=True).start()
        self._show()

    def _arrive(self, journey: Journey) -> None:
        self._journey = None
        if self._is_leaving:
            self.exit()
            return
        self._marks.rows.clear()
        self._refresh()
        if journey.failed and len(journey.rows) > 1:
            title = f"{len(journey.failed)} of {len(journey.rows)} came to nothing"
            self.push_screen(Page(title, [printable(text) for text in (*journey.failed, *journey.said)], bad=True))
        self._say(topjourney.sum_up(journey))

    def action_halt(self) -> None:
        """Stop the move that is going on; what is copied so far is undone."""
        if self._journey is not None:
            self._journey.stop.set()
            self._show_journey()

    def action_leave(self) -> None:
        """Quit; a move that is going on is asked about."""
        if self._journey is None:
            self.exit()
            return

        def answered(yes: bool | None) -> None:
            if yes:
                self._end_now()

        self.push_screen(Question("Stop the move and quit? What is copied so far is undone.", "stop and quit"), answered)

    def _end_now(self) -> None:
        """Stop what is going on and quit when it has ended."""
        if self._journey is None:
            self.exit()
            return
        self._is_leaving = True
        self._journey.stop.set()
