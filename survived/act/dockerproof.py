"""
Docker started, and the proof that it has all that it had: its ids, and a container that starts. Changes nothing of its own.
"""

from __future__ import annotations

import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from survived.act.dockerd import read_contained
from survived.errors import SurvivedError
from survived.observe.disks import is_below

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.act.dockerd import Dockerd
    from survived.act.dockerstate import Act
    from survived.act.dockerunit import Unit

CONTAINERD_SOCKET = "/run/containerd/containerd.sock"
_ANSWER_SECONDS = 90.0
_POLL_SECONDS = 0.2


def socket_of(unit: Unit, dockerd: Dockerd) -> str:
    """Return the path of the socket at which a unit listens."""
    return dockerd.socket if unit.title == "docker" else CONTAINERD_SOCKET


def start(act: Act, dockerd: Dockerd, env: Mapping[str, str]) -> None:
    """Start what the act stopped and wait until docker answers; `SurvivedError` says why it does not."""
    for unit in act.units:
        at = socket_of(unit, dockerd)
        if unit.manner != "systemd" and unit.is_active(env, at):
            continue
        if (why := unit.start(env, at)) is not None:
            raise SurvivedError(f"Cannot start {unit.title}: {why}.", unit.log_command)
    last, deadline = act.units[-1], time.monotonic() + _ANSWER_SECONDS
    while not dockerd.answers():
        ended = last.manner != "service" and not last.is_active(env, socket_of(last, dockerd))
        if ended or time.monotonic() > deadline:
            raise SurvivedError(f"Cannot start docker: it {'ended' if ended else 'does not answer'}.", last.log_command)
        time.sleep(_POLL_SECONDS)


def prove(act: Act, dockerd: Dockerd, env: Mapping[str, str]) -> None:
    """Have docker show from its new root all that it had, and start a container; `SurvivedError` says what is missing."""
    root, info = act.parts[-1].new, dockerd.read_info()
    if not is_below(os.path.realpath(info.root), os.path.realpath(root)):
        raise SurvivedError(f"Cannot move docker's data to '{root}': docker started with its data in '{info.root}'.")
    found = dockerd.read_inventory()
    if len(act.parts) > 1:
        found = replace(found, contained=read_contained(env))
    if missing := act.inventory.missing(found):
        what = f"{len(missing)} of its things are not there: {', '.join(missing[:3])}"
        raise SurvivedError(f"Cannot move docker's data to '{root}': {what}.")
    ran = [item for item in act.inventory.running if item not in act.inventory.passing]
    for container in ran:
        if (why := dockerd.start_container(container)) is not None:
            raise SurvivedError(f"Cannot move docker's data to '{root}': container {container[:12]} does not start: {why}.")
    if not ran and act.inventory.images and (why := dockerd.try_image(sorted(act.inventory.images))) is not None:
        raise SurvivedError(f"Cannot move docker's data to '{root}': no container starts there: {why}.")
