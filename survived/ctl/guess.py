"""
What something on a disk most likely is, by its name and by what it holds. A guess for people; nothing is decided by it.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_HUB = re.compile(r"(models|datasets|spaces)--(.+)")
_HUB_WORDS = {"models": "Hugging Face model", "datasets": "Hugging Face dataset", "spaces": "Hugging Face space"}
MARKERS: dict[str, str] = {
    "conda-meta": "conda environment",
    "pyvenv.cfg": "Python environment",
    ".git": "git repository",
    "package.json": "npm package",
    "Cargo.toml": "Rust project",
    "pyproject.toml": "Python project",
    "CACHEDIR.TAG": "cache",
}
"""What a directory is that holds an entry of this name; the first that is there counts."""
_NAMES: dict[str, str] = {
    "node_modules": "npm packages of a project",
    "__pycache__": "Python bytecode",
    ".Trash": "trash",
    "Trash": "trash",
    ".vscode-server": "VS Code server",
    ".cursor-server": "Cursor server",
    "wandb": "Weights & Biases runs",
    "checkpoints": "checkpoints",
    "miniconda3": "conda installation",
    "anaconda3": "conda installation",
    "miniforge3": "conda installation",
}
_SUFFIXES: dict[str, str] = {
    ".ckpt": "checkpoint",
    ".pt": "PyTorch file",
    ".pth": "PyTorch file",
    ".safetensors": "model weights",
    ".gguf": "model weights",
    ".whl": "wheel",
    ".conda": "conda package",
    ".log": "log",
    ".zip": "archive",
    ".tar": "archive",
    ".gz": "archive",
    ".zst": "archive",
    ".parquet": "table",
    ".iso": "disk image",
    ".img": "disk image",
}


def identify(name: str, has: Iterable[str] = (), *, is_directory: bool = True) -> str:
    """Return what something most likely is, by its name and, of a directory, by the `MARKERS` it holds; "" if nothing tells."""
    if not is_directory:
        return _SUFFIXES.get(os.path.splitext(name)[1].lower(), "")
    if found := _HUB.fullmatch(name):
        return f"{_HUB_WORDS[found[1]]} {found[2].replace('--', '/')}"
    held = set(has)
    return next((what for marker, what in MARKERS.items() if marker in held), _NAMES.get(name, ""))
