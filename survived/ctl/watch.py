"""
`survivectl status --watch`: a page drawn again and again in place, until Ctrl-C or q; the terminal is left as it was.

Drawn on the alternate screen, each time in one write from the top left with each line cleared to its end: nothing flickers,
nothing scrolls, and what stood there before stands there after. In a pipe the pages follow each other.
"""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from survived.ctl.look import has_colour
from survived.tell.columns import cut
from survived.tell.page import NARROWEST, WIDEST

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType

_EVERY_SECONDS = 1.0
_ENTER, _LEAVE = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"  # alternate screen, no cursor; and back
_BEGIN, _END = "\x1b[?2026h", "\x1b[?2026l"  # a terminal that knows it shows the frame at once; others ignore it
_FOOT = "q or Ctrl-C ends"


def run(draw: Callable[[int, bool], str]) -> int:
    """Show what `draw(columns, colour)` returns once a second; return 0 when a person has seen enough."""
    if not sys.stdout.isatty() or os.environ.get("TERM") in (None, "", "dumb"):
        return _follow(draw)
    with suppress(KeyboardInterrupt), _terminal() as wake:
        while True:
            began = time.monotonic()
            size = os.get_terminal_size(sys.stdout.fileno())
            columns, lines = size.columns or 80, size.lines or 24  # 0: nobody has set it
            page = draw(max(NARROWEST, min(WIDEST, columns)), has_colour())
            _write(frame(page, columns, lines, time.strftime("%H:%M:%S")))
            # Without a daemon each look measures the caches.
            if _wait(wake, max(_EVERY_SECONDS, 5.0 * (time.monotonic() - began))):
                break
    return 0


def frame(page: str, columns: int, lines: int, clock: str) -> str:
    """Return what draws one page on a screen of that size; what does not fit is counted in the last line."""
    shown = page.split("\n")
    room = max(1, lines - 1)
    foot = f"{clock}  {_FOOT}"
    if len(shown) > room:
        foot = f"{len(shown) - room} more lines; {foot}"
        shown = shown[:room]
    shown += [""] * (room - len(shown)) + [cut(foot, columns)]
    return f"{_BEGIN}\x1b[H" + "\x1b[K\r\n".join(shown[-lines:]) + f"\x1b[K\x1b[J{_END}"


def _follow(draw: Callable[[int, bool], str]) -> int:
    colour = False
    try:
        while True:
            began = time.monotonic()
            print(draw(80, colour) + "\n", flush=True)
            time.sleep(max(_EVERY_SECONDS, 5.0 * (time.monotonic() - began)))
    except KeyboardInterrupt:
        return 0


def _write(text: str) -> None:
    """Write a frame in one call, so that no terminal shows a half of it."""
    sys.stdout.flush()
    data = text.encode(sys.stdout.encoding or "utf-8", "replace")
    while data:
        data = data[os.write(sys.stdout.fileno(), data) :]


def _wait(wake: int, seconds: float) -> bool:
    """Wait for the next frame, a new size, or q; return whether it was q, or that nobody is there any more to press it."""
    keyboard = [sys.stdin.fileno()] if sys.stdin is not None and sys.stdin.isatty() else []
    ready, _, _ = select.select([wake, *keyboard], [], [], seconds)
    if wake in ready:
        with suppress(BlockingIOError):
            os.read(wake, 4096)
    if keyboard and keyboard[0] in ready:
        return os.read(keyboard[0], 256)[:1] in (b"q", b"Q", b"")
    return False


@contextmanager
def _terminal() -> Iterator[int]:
    """Take the screen and the keyboard; yield a descriptor that is readable when a signal came; give all of it back."""
    wake, waker = os.pipe()
    os.set_blocking(wake, False)
    os.set_blocking(waker, False)
    before_wake = signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def leave(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    def suspend(_number: int, _frame: FrameType | None) -> None:
        """Ctrl-Z: the shell gets its own screen, and we ours when we go on."""
        keys.give_back()
        _write(_LEAVE)
        os.kill(os.getpid(), signal.SIGSTOP)
        keys.take()
        _write(_ENTER)

    handlers = {signal.SIGWINCH: lambda *_: None, signal.SIGTERM: leave, signal.SIGHUP: leave, signal.SIGTSTP: suspend}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    keys = _Keys()
    try:
        keys.take()
        _write(_ENTER)
        yield wake
    finally:
        with suppress(OSError):  # a terminal that went away has nothing to be given back
            _write(_LEAVE)
            keys.give_back()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(before_wake)
        os.close(wake)
        os.close(waker)


class _Keys:
    """The keyboard: each key at once and unseen while it is ours."""

    def __init__(self) -> None:
        import termios

        self._termios = termios
        self._before: list[object] | None = None

    def take(self) -> None:
        """Take it, where stdin is one and we are in the foreground."""
        if sys.stdin is None or not sys.stdin.isatty():
            return
        import tty

        with suppress(self._termios.error, OSError):
            self._before = list(self._termios.tcgetattr(sys.stdin.fileno()))
            tty.setcbreak(sys.stdin.fileno())

    def give_back(self) -> None:
        """Leave it as it was."""
        if self._before is not None:
            with suppress(self._termios.error, OSError):
                self._termios.tcsetattr(sys.stdin.fileno(), self._termios.TCSADRAIN, self._before)  # type: ignore[arg-type]
            self._before = None
