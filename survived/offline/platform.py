"""
For whom something is: the machine, its C library and a Python, read here, and compared with what a bundle needs.
"""

from __future__ import annotations

import json
import os
import re
from typing import TYPE_CHECKING

from survived.errors import Refused, UsageError
from survived.offline.manifest import Target
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable

    from survived.offline.command import Runner

_PLATFORM = re.compile(r"(?:manylinux_(\d+)_(\d+)|manylinux(1|2010|2014)|linux|glibc(\d+)\.(\d+))_(\w+)")
_OLD = {"1": "2.5", "2010": "2.12", "2014": "2.17"}
_MACHINES = frozenset({"x86_64", "aarch64", "i686", "ppc64le", "s390x", "riscv64", "armv7l"})
_ASK = (
    "import json, os, platform, sys, sysconfig\n"
    "print(json.dumps({'python': '%d.%d' % sys.version_info[:2], 'machine': platform.machine(), 'glibc': platform.libc_ver()[1],"
    " 'implementation': sys.implementation.name, 'prefix': sys.prefix, 'purelib': sysconfig.get_paths()['purelib']}))\n"
)


def here() -> Target:
    """Return this machine: its architecture and glibc; `glibc` is None with another C library."""
    try:
        library = os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (OSError, ValueError):  # musl has no such name
        library = ""
    return Target(os.uname().machine, library.removeprefix("glibc ") or None)


def parse_platform(text: str) -> tuple[str, str | None]:
    """Return machine and glibc of `manylinux_2_28_x86_64`, `manylinux2014_aarch64`, `glibc2.31_x86_64` or `x86_64`."""
    if text in _MACHINES:
        return text, None
    match = _PLATFORM.fullmatch(text)
    if match is None or match.group(6) not in _MACHINES:
        raise UsageError(
            f"Cannot understand the platform '{text}': a platform looks like manylinux_2_28_x86_64.",
            "survivectl offline inventory tells it.",
        )
    major, minor, old, own_major, own_minor, machine = match.groups()
    if old:
        return machine, _OLD[old]
    if own_major:
        return machine, f"{own_major}.{own_minor}"
    return machine, f"{major}.{minor}" if major else None


def platform_tags(machine: str, glibc: str | None) -> list[str]:
    """Return the wheel platforms that such a machine takes, newest first, as pip wants them each by name."""
    major, minor = map(int, (glibc or "2.17").split(".")[:2])
    tags = [f"manylinux_{major}_{number}_{machine}" for number in range(minor, 4, -1)]
    old = [f"manylinux{name}_{machine}" for name, least in (("2014", 17), ("2010", 12), ("1", 5)) if minor >= least]
    return [*tags, *old, f"linux_{machine}"]


def version_key(text: str) -> tuple[int, ...]:
    """Return a version of numbers as something to compare."""
    return tuple(int(number) for number in re.findall(r"\d+", text))


def ask_python(runner: Runner, python: str) -> dict[str, str]:
    """Return what an interpreter says of itself: python, machine, glibc, implementation, prefix, purelib."""
    said = runner.ask([python, "-I", "-c", _ASK], doing=f"use the Python '{python}'", limit=60.0)
    return {str(key): str(value) for key, value in json.loads(said).items()}


def why_not(wanted: Target, found: Target) -> str | None:
    """Return why something made for `wanted` does not work on `found`, or None if it does."""
    if wanted.machine not in (None, found.machine):
        return f"it is for {wanted.machine}, and this machine is {found.machine}"
    if wanted.glibc is not None and found.glibc is None:
        return f"it needs glibc {wanted.glibc}, and the C library here is another"
    if wanted.glibc is not None and version_key(found.glibc or "") < version_key(wanted.glibc):
        return f"it needs glibc {wanted.glibc} or newer, and here is {found.glibc}"
    if wanted.python is not None and found.python is not None and wanted.python != found.python:
        return f"it is for Python {wanted.python}, and the Python here is {found.python}"
    return None


def require(title: str, wanted: Target, found: Target, hint: str | None = None) -> None:
    """Raise `Refused` (other_platform) with the reason, unless what was packed works here."""
    if (why := why_not(wanted, found)) is not None:
        raise Refused(Reason.OTHER_PLATFORM, f"Cannot install the {title}: {why}. Nothing was installed.", hint)


def needed_glibc(wheels: Iterable[str]) -> str | None:
    """Return the newest glibc that one of these wheel file names asks for, or None."""
    found = []
    for wheel in wheels:
        tags = [parse for tag in wheel.removesuffix(".whl").rsplit("-", 1)[-1].split(".") if (parse := _glibc_of(tag)) is not None]
        found += [min(tags, key=version_key)] if tags else []
    return max(found, key=version_key, default=None)


def _glibc_of(tag: str) -> str | None:
    match = _PLATFORM.fullmatch(tag)
    if match is None:
        return None
    major, minor, old = match.group(1), match.group(2), match.group(3)
    return _OLD[old] if old else f"{major}.{minor}" if major else None
