"""
The formats of settings files that we can own a key in, by name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from survived.act import blockfile, inifile, jsonfile, linesfile, tomlfile, yamlfile

if TYPE_CHECKING:
    from survived.act.dialect import Dialect

FORMATS: dict[str, Dialect] = {
    "ini": inifile.INI,  # pip.conf: key = (section, name)
    "npmrc": linesfile.NPMRC,
    "environment": linesfile.ENVIRONMENT,  # environment.d
    "lines": linesfile.LINES,  # Go's env file, pnpm's rc
    "spaced": linesfile.SPACED,  # ccache.conf
    "words": linesfile.WORDS,  # yarn classic
    "yaml": yamlfile.YAML,  # .condarc, .yarnrc.yml: key = (name,)
    "yaml item": yamlfile.YAML_ITEM,  # one item of a list, prepended
    "json": jsonfile.JSON,  # daemon.json: key = (name, ...)
    "jsonc": jsonfile.JSONC,  # VS Code: comments and a last comma
    "toml": tomlfile.TOML,  # uv.toml, cargo: key = (table, ..., name)
    "block": blockfile.BLOCK,  # start files of shells: key = (name,) or (name, "top")
    "file": blockfile.WHOLE,  # the whole content: key = ()
}
