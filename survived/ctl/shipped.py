"""
The files that travel with the program: the unit, the example configuration, and what monitoring and journald are given.

A wheel carries them inside the package; a source tree and an editable install have some of them beside it.
"""

from __future__ import annotations

import os

from survived import settings
from survived.errors import SurvivedError

UNIT = "survived.service"
EXAMPLE = "config.example.toml"
CATALOGUE = "survived.catalog"
DASHBOARD, ALERTS = "grafana.json", "alerts.yml"


def read_shipped(name: str) -> str:
    """Return the text of a shipped file, one of the names above. Raises `SurvivedError` for a broken installation."""
    package = os.path.dirname(os.path.abspath(settings.__file__ or ""))
    tree = os.path.dirname(os.path.dirname(package))
    for folder in (package, os.path.join(tree, "systemd"), tree):
        try:
            with open(os.path.join(folder, name), encoding="utf-8") as file:
                return file.read()
        except FileNotFoundError:
            continue
    message = f"Cannot find '{name}' in '{package}': the installation is incomplete."
    raise SurvivedError(message, "Install survived again.")
