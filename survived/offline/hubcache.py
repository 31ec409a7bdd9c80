"""
Hugging Face's cache as it lies on the disk: where it is, and which blobs each repository has.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

KINDS = {"model": "models", "dataset": "datasets", "space": "spaces"}


def cache_folder(env: Mapping[str, str], home: str, named: str | None = None) -> str:
    """Return the cache by huggingface_hub's own rule: HF_HUB_CACHE, else HF_HOME/hub, else XDG_CACHE_HOME, else ~/.cache."""
    old = env.get("HUGGINGFACE_HUB_CACHE")
    base = env.get("HF_HOME") or os.path.join(env.get("XDG_CACHE_HOME") or os.path.join(home, ".cache"), "huggingface")
    chosen = named or env.get("HF_HUB_CACHE") or old or os.path.join(base, "hub")
    return os.path.expanduser(chosen)


def read_blobs(cache: str) -> dict[str, list[str]]:
    """Return the complete blobs of each repository in the cache; none for a cache that is not there."""
    found: dict[str, list[str]] = {}
    try:
        names = sorted(os.listdir(cache))
    except OSError:
        return found
    for name in names:
        try:
            blobs = os.listdir(os.path.join(cache, name, "blobs"))
        except OSError:
            continue
        found[name] = sorted(blob for blob in blobs if not blob.endswith((".incomplete", ".lock")))
    return found
