"""
The explorer's list: draws only the lines that are seen, so that a directory with 100,000 entries is as quick as one with ten.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.segment import Segment
from rich.style import Style
from textual.geometry import Size
from textual.scroll_view import ScrollView
from textual.strip import Strip

from survived.ctl.explorer import Columns, Listing, Marks, Nature, layout, line

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.ctl.explorer import Row

_TINTS = {
    Nature.RELOCATED: Style(color="green"),
    Nature.LOST: Style(color="red", bold=True),
    Nature.LINK: Style(color="cyan"),
    Nature.MOUNT: Style(dim=True),
    Nature.OTHER: Style(dim=True),
    Nature.DIRECTORY: Style(bold=True),
}
_BAR = Style(color="yellow")
_NOTE = Style(color="cyan")
_MARKED = Style(color="magenta", bold=True)
_CURSOR = Style(reverse=True)


class Rows(ScrollView, can_focus=True):
    """Shows a listing; whoever changes the listing calls `redraw`."""

    DEFAULT_CSS = "Rows { height: 1fr; scrollbar-size-vertical: 1; }"

    def __init__(self, on_layout: Callable[[], None]) -> None:
        super().__init__()
        self._on_layout = on_layout
        self.listing = Listing(None)
        self.marks = Marks()
        self._biggest = 0
        self.columns = Columns(0, 0, 0)

    @property
    def page_lines(self) -> int:
        """How many lines are seen."""
        return max(1, self.scrollable_content_region.height)

    def redraw(self) -> None:
        """Show the listing as it is now, with the cursor in view."""
        self._biggest = self.listing.biggest_bytes
        self.columns = layout(self.listing.rows, self.scrollable_content_region.width)
        self.virtual_size = Size(self.size.width, len(self.listing.rows))
        self._follow()
        self.refresh()

    def on_resize(self) -> None:
        """Have everything drawn for the width that the list has now."""
        self._on_layout()

    def _follow(self) -> None:
        top, height, index = round(self.scroll_offset.y), self.page_lines, self.listing.index
        if index < top:
            self.scroll_to(y=index, animate=False, force=True, immediate=True)
        elif index >= top + height:
            self.scroll_to(y=index - height + 1, animate=False, force=True, immediate=True)

    def render_line(self, y: int) -> Strip:
        """Return one line of the screen."""
        at, width = y + round(self.scroll_offset.y), self.scrollable_content_region.width
        if at >= len(self.listing.rows):
            return Strip.blank(width, self.rich_style)
        row = self.listing.rows[at]
        return self._strip(row, width, is_current=at == self.listing.index)

    def _strip(self, row: Row, width: int, *, is_current: bool) -> Strip:
        is_marked = row.path in self.marks.rows
        pieces = line(row, self.columns, self._biggest, marked=is_marked)
        name = _MARKED if is_marked else _TINTS.get(row.nature, Style())
        base = self.rich_style + (_CURSOR if is_current else Style())
        styles = (_MARKED, Style(), Style() if is_current else _BAR, name, name if row.nature is Nature.LOST else _NOTE)
        # On the cursor's line only the weight stays: colours that are turned round cannot be read.
        if is_current:
            styles = tuple(Style(bold=style.bold) for style in styles)  # type: ignore[assignment]
        return Strip([Segment(text, base + style) for text, style in zip(pieces, styles, strict=True)]).adjust_cell_length(
            width, base
        )
