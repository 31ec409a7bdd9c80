"""
Once a day somebody has to look what is big, or nobody could tell what grew: a child does, at the lowest priority.

In a child and not in the worker, which must be free to move things, and not in this process, whose memory it would grow.
The child is `survivectl hogs --keep`, which hands what it found back through the control socket.
"""

from __future__ import annotations

import contextlib
import logging
import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)
_FIRST_SECONDS = 900.0  # a daemon that has just begun has better things to do
_EVERY_SECONDS = 86400.0
_LONGEST_SECONDS = 4 * 3600.0


class Lookout:
    """Starts the daily look and ends one that never comes back."""

    def __init__(self, config_file: Path, env: Mapping[str, str], now: float) -> None:
        self._config_file, self._env = config_file, env
        self._at, self._began = now + _FIRST_SECONDS, 0.0
        self._child: subprocess.Popen[bytes] | None = None

    def tick(self, now: float) -> None:
        """Start a look that is due, and see how the one that runs is doing."""
        if self._child is not None:
            self._watch(self._child, now)
        elif now >= self._at or self._at - now > _EVERY_SECONDS:  # or the clock was set back
            self._at, self._began = now + _EVERY_SECONDS, now
            config = ["--config", str(self._config_file)] if self._config_file.exists() else []
            words = [sys.executable, "-m", "survived.ctl.main", "hogs", "--keep", *config]
            try:
                self._child = subprocess.Popen(
                    words, env=dict(self._env), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
                )
            except OSError as error:
                log.warning("Cannot look what is big: %s.", error.strerror or error)

    def _watch(self, child: subprocess.Popen[bytes], now: float) -> None:
        code = child.poll()
        if code is not None:
            self._child = None
            if code != 0:
                log.info("The daily look at what is big ended with code %s.", code)
        elif now - self._began > _LONGEST_SECONDS:
            log.warning("The daily look at what is big took more than %d h and was ended.", _LONGEST_SECONDS // 3600)
            child.kill()  # one that hangs in the kernel dies when it can

    def close(self) -> None:
        """End a look that runs."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)
            self._child = None
