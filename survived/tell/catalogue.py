"""
The languages of notices: gettext catalogues (`locale/LANGUAGE.po`, made by hand, checked by msgfmt) as plain mappings.

Read from the .po itself, so that there is no compiled file that could be older than it. English is what stands in the
code and needs no catalogue.
"""

from __future__ import annotations

import ast
import os
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_FOLDER = os.path.join(os.path.dirname(__file__), "locale")


def translation(language: str, env: Mapping[str, str]) -> Callable[[str], str]:
    """Return what turns an English sentence into `language`: "en", "zh", or "auto" by the environment, as gettext reads it."""
    messages = read_catalogue("zh_CN") if (language == "zh" or (language == "auto" and is_chinese(env))) else {}
    return lambda text: messages.get(text) or text


def is_chinese(env: Mapping[str, str]) -> bool:
    """Tell whether the environment asks for Chinese: of LANGUAGE the first, unless the locale is C, else LC_ALL and so on."""
    locale = next((env[name] for name in ("LC_ALL", "LC_MESSAGES", "LANG") if env.get(name)), "C")
    if locale.partition(".")[0] in ("C", "POSIX"):
        return False
    return (env.get("LANGUAGE", "").split(":")[0] or locale).lower().startswith("zh")


@cache
def read_catalogue(name: str) -> Mapping[str, str]:
    """Return the messages of one catalogue, with the header under the empty text."""
    with open(os.path.join(_FOLDER, f"{name}.po"), encoding="utf-8") as file:
        return parse(file.read())


def parse(text: str) -> dict[str, str]:
    """Return the messages of a .po file; one that is not translated, or marked fuzzy, is left out."""
    messages: dict[str, str] = {}
    for block in text.split("\n\n"):
        found = {"msgid": "", "msgstr": ""}
        word, is_fuzzy = "", False
        for line in block.splitlines():
            is_fuzzy |= line.startswith("#,") and "fuzzy" in line
            head, _, rest = line.partition(" ")
            if head in found:
                word, line = head, rest
            if word and line.startswith('"'):
                found[word] += ast.literal_eval(line)
        if found["msgstr"] and not is_fuzzy:
            messages[found["msgid"]] = found["msgstr"]
    return messages
