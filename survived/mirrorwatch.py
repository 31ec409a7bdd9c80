"""
Looks now and then how the mirrors do that tools were led to, tells of one that does not, and leads elsewhere if that is wanted.

A child asks (`survivectl mirrors probe --watched`): what HTTP and TLS need in memory is not ours to keep. What is decided
about its answer is in `mirrors/choice.py`, which is loaded when there is one: most daemons have no mirror to watch.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.daemon import Daemon
    from survived.mirrors.choice import Watched
    from survived.mirrors.facts import Finding
    from survived.mirrors.known import Mirror

log = logging.getLogger(__name__)
_FIRST_SECONDS = 60.0
_LONGEST_SECONDS = 300.0


class MirrorWatch:
    """Starts a look every `[mirrors] every` and acts upon what it found; nothing where no tool was led to a mirror."""

    def __init__(self, daemon: Daemon, env: Mapping[str, str], now: float) -> None:
        self._daemon, self._env = daemon, env
        self._at, self._began = now + min(_FIRST_SECONDS, daemon.machine.settings.mirrors.every), 0.0
        self._child: subprocess.Popen[bytes] | None = None
        self._answer = -1
        self._watched: dict[str, Watched] = {}

    def tick(self, now: float) -> None:
        """Start a look that is due, or take in the one that has ended."""
        settings = self._daemon.machine.settings.mirrors
        if self._child is not None:
            self._look_at(self._child, now)
        elif settings.watch != "off" and (now >= self._at or self._at - now > settings.every):  # or the clock was set back
            self._at, self._began = now + settings.every, now
            if self._uses():
                self._start()

    def _uses(self) -> dict[str, str]:
        """Return the tools that we lead to a mirror, each with the URL."""
        from survived.store.edits import EditJournal, EditStage

        found: dict[str, str] = {}
        for opened in self._daemon.machine.open.values():
            for record in EditJournal(opened.database).open():
                owner, _, tool = record.owner.partition(" ")
                value = record.value[0] if isinstance(record.value, tuple) and record.value else record.value
                if owner == "mirrors" and record.stage is not EditStage.INTENT and "://" in str(value):
                    found.setdefault(tool, str(value).rstrip("/"))
        return {tool: url for tool, url in found.items() if "\n" not in url}

    def _start(self) -> None:
        file = self._daemon.machine.paths.config_file
        config = ["--config", str(file)] if file.exists() else []
        words = [sys.executable, "-m", "survived.ctl.main", "mirrors", "probe", "--watched", "--json", *config]
        self._answer = os.memfd_create("survived-mirrors")
        try:
            self._child = subprocess.Popen(
                words, env=dict(self._env), stdin=subprocess.DEVNULL, stdout=self._answer, stderr=subprocess.DEVNULL
            )
        except OSError as error:
            log.warning("Cannot look how mirrors do: %s.", error.strerror or error)
            self._forget()

    def _look_at(self, child: subprocess.Popen[bytes], now: float) -> None:
        if child.poll() is None:
            if now - self._began > _LONGEST_SECONDS:
                child.kill()
            return
        data = os.pread(self._answer, os.fstat(self._answer).st_size, 0)
        self._forget()
        with contextlib.suppress(ValueError, KeyError, TypeError):  # it was ended, or says why it cannot look, on stderr
            self.take_in([finding_of(item) for item in json.loads(data)["findings"]], now)

    def take_in(self, findings: list[Finding], now: float) -> None:
        """Step each tool's state by what was found, tell what is to be told, and lead where it is wanted."""
        from survived.mirrors import choice
        from survived.mirrors.choice import Watched
        from survived.mirrors.known import at

        uses, may_switch = self._uses(), self._daemon.machine.settings.mirrors.watch == "switch"
        for tool, url in uses.items():
            seen = [finding for finding in findings if finding.mirror.tool == tool]
            used = next((finding.mirror for finding in seen if finding.mirror.url == url), at(tool, url))
            watched = self._watched.get(tool)
            if watched is None or watched.used.url != url:  # begun, or a person chose another
                watched = Watched(used, used)
            verdict = choice.step(watched, seen, may_switch=may_switch)
            self._watched[tool] = verdict.watched
            if verdict.to is not None:
                self._lead(verdict.to, watched, verdict.tell, now)
            elif verdict.tell:
                text = f"{watched.chosen.shown}: {verdict.tell}. Nothing was changed."
                hint = f"Another one: survivectl mirrors use {tool} --fastest"
                self._daemon.post.trouble(f"The mirror of {tool} does not do", f"{text} {hint}", now)

    def _lead(self, to: Mirror, watched: Watched, why: str, now: float) -> None:
        tool = to.tool
        self._daemon.requests.do_mirror_use(tool, to.url, {name: value for name, value in self._env.items() if "CONFIG" in name})
        text = f"{watched.chosen.shown}: {why}. {tool} fetches from {to.id} ({to.shown})"
        until = "" if to.url == watched.chosen.url else " until it does well again"
        self._daemon.post.trouble(f"{tool} uses another mirror", f"{text}{until}. To undo: survivectl mirrors undo {tool}", now)

    def _forget(self) -> None:
        if self._answer >= 0:
            os.close(self._answer)
        self._child, self._answer = None, -1

    def close(self) -> None:
        """End a look that runs."""
        if self._child is not None:
            self._child.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._child.wait(1.0)
        self._forget()


def finding_of(document: dict[str, Any]) -> Finding:
    """Return a finding from what `mirrors probe --json` printed of it."""
    from survived.mirrors.facts import Finding
    from survived.mirrors.known import Mirror

    mirror = Mirror(
        document["id"], document["tool"], document["url"], document["title"], document["region"], document["upstream"] or "",
        bool(document["official"]),
    )  # fmt: skip
    return Finding(
        mirror, document["why"] or "", document["latency_seconds"], document["bytes_per_second"], document["fresh"] or "",
        tuple(document["fresh_key"]), document["data_host"] or "", bool(document["proven"]), bool(document["pinned"]),
    )  # fmt: skip
