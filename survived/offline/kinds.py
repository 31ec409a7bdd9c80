"""
The kinds of things that a bundle holds: for each, how it is collected, checked on the target, and installed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.offline import conda, debs, files, hub, images, npm, vscode, wheels

if TYPE_CHECKING:
    from collections.abc import Callable

    from survived.offline.job import Collecting, Installing, Outcome, Wish
    from survived.offline.manifest import Item


@dataclass(frozen=True, slots=True)
class Kind:
    """
    `collect` fills a folder, `install` installs one item.

    `fits` raises before anything is unpacked: another platform, a tool or an option that is missing. `check` raises
    after all is unpacked and before anything is installed.
    """

    collect: Callable[[Wish, Collecting], Item]
    fits: Callable[[Installing], None]
    install: Callable[[Installing], Outcome]
    check: Callable[[Installing], None] | None = None


KINDS = {
    "wheels": Kind(wheels.collect, wheels.fits, wheels.install),
    "conda": Kind(conda.collect, conda.fits, conda.install),
    "hub": Kind(hub.collect, hub.fits, hub.install),
    "vscode": Kind(vscode.collect, vscode.fits, vscode.install),
    "npm": Kind(npm.collect, npm.fits, npm.install, npm.check),
    "debs": Kind(debs.collect, debs.fits, debs.install),
    "images": Kind(images.collect, images.fits, images.install),
    "files": Kind(files.collect, files.fits, files.install, files.check),
}
"""By the names that `manifest.KINDS` allows."""
