"""Many mirrors judged at once, each in a thread of its own, with an end for all: who hangs is told and left behind."""

from __future__ import annotations

import queue
import threading
import time
from typing import TYPE_CHECKING

from survived.mirrors import archives, models, packages, registries, wheels
from survived.mirrors.facts import Finding
from survived.mirrors.fetch import Client, Unusable
from survived.mirrors.known import sample

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from survived.mirrors.known import Mirror

LIMIT_SECONDS = 15.0
_AT_ONCE = 16


def probe(mirror: Mirror, env: Mapping[str, str], deadline: float, suite: str = "") -> Finding:
    """Judge one mirror; never raises. `deadline` is on the monotonic clock, `suite` the one of apt's distribution."""
    wanted = sample(mirror.tool)
    client = Client(env, deadline)
    try:
        if mirror.tool in ("pip", "uv"):
            return wheels.probe(client, mirror, wanted)
        if mirror.tool == "npm":
            return packages.probe_npm(client, mirror, wanted)
        if mirror.tool == "conda":
            return packages.probe_conda(client, mirror, wanted)
        if mirror.tool == "apt":
            return archives.probe(client, mirror, wanted, suite)
        if mirror.tool == "docker":
            return registries.probe(client, mirror, wanted)
        return models.probe(client, mirror, wanted)
    except Unusable as unusable:
        return Finding(mirror, str(unusable))
    except Exception as error:  # noqa: BLE001  whatever a server sends must not end the others' threads
        return Finding(mirror, f"its answer cannot be read ({type(error).__name__})")
    finally:
        client.close()


def probe_all(
    mirrors: Iterable[Mirror], env: Mapping[str, str], suite: str = "", limit_seconds: float = LIMIT_SECONDS,
    told: Callable[[Finding], None] = lambda _: None,
) -> list[Finding]:  # fmt: skip
    """
    Return a finding for each mirror, in their order; `told` hears of each as it comes.

    Threads are left behind, not joined: no limit of a library's ends a server that sends a byte a second for ever.
    """
    wanted = list(mirrors)
    todo: queue.SimpleQueue[tuple[int, Mirror]] = queue.SimpleQueue()
    done: queue.SimpleQueue[tuple[int, Finding]] = queue.SimpleQueue()
    deadline = time.monotonic() + limit_seconds

    def work() -> None:
        while True:
            try:
                number, mirror = todo.get_nowait()
            except queue.Empty:
                return
            done.put((number, probe(mirror, env, deadline, suite)))

    for item in enumerate(wanted):
        todo.put(item)
    for _ in range(min(_AT_ONCE, len(wanted))):
        threading.Thread(target=work, name="survived-mirror", daemon=True).start()
    found: dict[int, Finding] = {}
    while len(found) < len(wanted):
        try:
            number, finding = done.get(timeout=max(0.0, deadline + 0.5 - time.monotonic()))
        except queue.Empty:
            break
        found[number] = finding
        told(finding)
    late = f"it does not answer within {limit_seconds:.0f} s"
    return [found.get(number) or Finding(mirror, late) for number, mirror in enumerate(wanted)]
