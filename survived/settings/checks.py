"""
What is wrong with a configuration: found key by key, told in one message.

Each mistake knows its origin, a file, a variable or a [caches.NAME] table, so the reader knows where to correct it.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from survived.errors import ConfigError
from survived.model import Kind
from survived.settings.catalog import find_rule, load_rules
from survived.settings.sources import DELIMITER, PREFIX, Environment
from survived.settings.values import write_inodes_mark, write_mark

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from survived.model import Mark
    from survived.settings.catalog import CacheOverride

Key = tuple[str, ...]
_MOST = 6  # mistakes in one message; the rest is counted
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}(:[^\x00-\x1f]{1,4096})?")
_VARIABLE = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


@dataclass(frozen=True, slots=True)
class Mistake:
    """One thing that is wrong; `instead` is the right name where one is near."""

    origin: str
    text: str
    instead: str | None = None
    hint: str | None = None


class Report:
    """Collects the mistakes of one configuration; `finish` raises them. `keys` are the right keys by section."""

    def __init__(self, file: str, names: Mapping[Key, str], keys: Mapping[str, tuple[str, ...]]) -> None:
        self.file, self.names, self.keys = file, names, keys
        self.mistakes: list[Mistake] = []

    def add(self, key: Key, text: str) -> None:
        """Add a mistake in the value of one key."""
        variable = self.names.get(key)
        named = text if variable else f"{'.'.join(key)}: {text}"
        self.mistakes.append(Mistake(f"'{variable or self.file}'", named))

    def add_exposed(self, path: str, why: str) -> None:
        """Add a file with secrets that others may read."""
        self.mistakes.append(Mistake(f"'{path}'", why, hint=f"Run: chmod 600 {shlex.quote(path)}"))

    def add_invalid(self, key: Key, error_type: str, why: str | None) -> None:
        """Add what pydantic found: an unknown key, a value where a table is due, or a reader's own sentence."""
        if why is not None:
            self.add(key, why)
        elif error_type == "extra_forbidden":
            shown = ".".join("(hidden)" if "://" in part else part for part in key)
            text, instead = f"unknown key '{shown}'", self.nearest(key)
            if instead is None and key[0] in self.keys:
                table = f"caches.{key[1]}" if key[0] == "caches" else key[0]
                text += f"; [{table}] takes {', '.join(self.keys[key[0]])}"
            elif instead is None:
                text += f"; the tables are {', '.join(f'[{name}]' for name in self.keys)}"
            self.mistakes.append(Mistake(f"'{self.file}'", text, instead))
        else:
            table = ".".join(key)
            self.add(key, f"it is not a table; write [{table if key != ('caches',) else 'caches.NAME'}]")

    def check_names(self, layer: Environment) -> None:
        """Add the variables that set no key of ours, and take them out of `layer`."""
        for key, variable in layer.names.items():
            if not self._is_known(key):
                near = self.nearest(key)
                instead = PREFIX + near.upper().replace("-", "_").replace(".", DELIMITER) if near and "." in near else None
                self.mistakes.append(Mistake(f"'{variable}'", f"unknown key '{'.'.join(key)}'", instead))
                _remove(layer.values, key)

    def _is_known(self, key: Key) -> bool:
        wanted = 3 if key[0] == "caches" else 2
        return len(key) == wanted and key[-1] in self.keys.get(key[0], ())

    def nearest(self, key: Key) -> str | None:
        """Return the right key that is nearest to a wrong one, or None if none is near."""
        middle = f"{key[1]}." if key[0] == "caches" and len(key) > 2 else "NAME."
        right = [f"{section}.{middle if section == 'caches' else ''}{name}" for section in self.keys for name in self.keys[section]]
        right += list(self.keys)
        near = difflib.get_close_matches(".".join(key), right, n=1, cutoff=0.75)
        if not near:  # the right word in the wrong table
            near = [name for name in right if name.rpartition(".")[2] == key[-1] and not name.startswith("caches.")]
        return near[0] if near else None

    def expand_paths(self, layer: dict[str, Any], paths: Collection[Key], env: Mapping[str, str], home: str) -> None:
        """Replace `~` and `$VAR` in the paths of one layer, in place; a variable that is not set is a mistake."""
        tables: list[tuple[Key, Any]] = [((name,), table) for name, table in layer.items() if name != "caches"]
        caches = layer.get("caches")
        if isinstance(caches, dict):
            tables += [(("caches", name), table) for name, table in caches.items()]
        for prefix, table in tables:
            for name in list(table) if isinstance(table, dict) else ():
                key = (*prefix, name)
                if key in paths or (len(key) == 3 and name == "path"):
                    before = len(self.mistakes)
                    table[name] = self._expand(key, table[name], env, home)
                    if len(self.mistakes) > before and key == ("notify", "urls_file"):
                        del table[name]  # there is nothing to read

    def _expand(self, key: Key, given: Any, env: Mapping[str, str], home: str) -> Any:
        if isinstance(given, list):
            return [self._expand(key, item, env, home) for item in given]
        if not isinstance(given, str):
            return given
        text = os.path.join(home, given[2:]) if given.startswith("~/") else home if given == "~" else given
        missing = [name for match in _VARIABLE.finditer(text) if not env.get(name := match.group(1) or match.group(2))]
        if missing:
            self.add(key, f"'{given}' names the variable {missing[0]}, which is not set")
            return "/unset"  # anything right: the mistake is told already
        return _VARIABLE.sub(lambda match: env[match.group(1) or match.group(2)], text)

    def check_marks(self, prefix: str, marks: tuple[Mark, Mark, Mark], given: Collection[Key]) -> None:
        """Add marks of one sort that stand in the wrong order."""
        defaults = [name for name in ("low", "high", "flood") if ("watch", f"{prefix}{name}") not in given]
        wrong = compare_marks(f"watch.{prefix}", marks, defaults)
        if wrong is not None:
            keys = [("watch", f"{prefix}{name}") for name in ("low", "high", "flood")]
            origin = next((self.names[key] for key in keys if key in self.names), self.file)
            self.mistakes.append(Mistake(f"'{origin}'", wrong))

    def check_caches(self, overrides: Mapping[str, CacheOverride], home: str) -> None:
        """Add caches that nobody knows and that have no path, and paths that would take the whole home along."""
        for name, override in overrides.items():
            table = f"[caches.{name}]"
            if not _NAME.fullmatch(name):
                self.mistakes.append(Mistake(table, f"a name is made of letters, digits, '-', '_' and '.' (in '{self.file}')"))
            elif override.path is not None and (name == "tagged" or ":" in name):
                text = f"a cache of that name has no path of its own: CACHEDIR.TAG or a pattern finds it (in '{self.file}')"
                self.mistakes.append(Mistake(table, text))
            elif override.path is None and find_rule(name) is None and not _is_found(name, overrides):
                origin = next((variable for key, variable in self.names.items() if key[:2] == ("caches", name)), self.file)
                near = difflib.get_close_matches(name.lower(), [rule.id for rule in load_rules()], n=1, cutoff=0.5)
                text = f"no cache of that name is known and it has no path (in '{origin}')"
                self.mistakes.append(Mistake(table, text, f"[caches.{near[0]}]" if near else None))
            elif override.path is not None and (override.path == "/" or f"{home}/".startswith(f"{override.path}/")):
                text = f"its path '{override.path}' is or holds your home directory (in '{self.file}')"
                self.mistakes.append(Mistake(table, text))

    def check_purges(self, overrides: Mapping[str, CacheOverride]) -> None:
        """Add what is to be purged and must not be, or by a command that nobody knows."""
        for name, override in overrides.items():
            rule = find_rule(name)
            kind = override.kind or (rule.kind if rule is not None else Kind.CACHE)
            if not override.purge:
                continue
            text = None
            if kind is not Kind.CACHE:
                text = f"purge is for what its tool can make again, and this is of the kind '{kind}'"
            elif override.purge is True and (rule is None or rule.clean_command is None):
                text = 'no command is known that empties it; write purge = "COMMAND"'
            elif override.purge is True and rule is not None and not rule.purge_ok:
                text = f"its own '{rule.clean_command}' deletes what cannot be made again; write purge = \"COMMAND\""
            if text is not None:
                self.mistakes.append(Mistake(f"[caches.{name}]", f"{text} (in '{self.file}')"))

    def finish(self) -> None:
        """Raise `ConfigError` with all mistakes, or return if there is none."""
        if self.mistakes:
            hint = next((mistake.hint for mistake in self.mistakes if mistake.hint), "Correct it, then run: survivectl check")
            raise ConfigError(_compose(self.mistakes, self.file), hint)


def _is_found(name: str, overrides: Mapping[str, CacheOverride]) -> bool:
    """Tell whether a name is of a kind that only a look finds: `tagged:NAME`, or `mine:x` of a pattern in [caches.mine]."""
    base, colon, _ = name.partition(":")
    return bool(colon) and (base == "tagged" or (base in overrides and overrides[base].path is not None))


def _compose(mistakes: list[Mistake], file: str) -> str:
    """Return one message: a single mistake as a sentence, several as a numbered row."""
    if len(mistakes) == 1:
        only = mistakes[0]
        return f"Cannot use {only.origin}: {only.text}." + (f" Did you mean {_quoted(only.instead)}?" if only.instead else "")
    origins = [mistake.origin for mistake in mistakes]
    parts, origin = [], f"'{file}'" if f"'{file}'" in origins else origins[0]
    for number, mistake in enumerate(mistakes[:_MOST], 1):
        where = "" if mistake.origin == origin else f"{mistake.origin}: "
        instead = f" (did you mean {_quoted(mistake.instead)}?)" if mistake.instead else ""
        parts.append(f"({number}) {where}{mistake.text}{instead}")
    if len(mistakes) > _MOST:
        parts.append(f"and {len(mistakes) - _MOST} more")
    return f"Cannot use {origin}: {len(mistakes)} mistakes: {'; '.join(parts)}."


def _quoted(name: str) -> str:
    return name if name.startswith("[") else f"'{name}'"


def _remove(table: dict[str, Any], key: Key) -> None:
    """Take one key out of nested tables, and the tables that are empty then."""
    below = table.get(key[0])
    if len(key) > 1 and isinstance(below, dict):
        _remove(below, key[1:])
    if len(key) == 1 or below == {}:
        table.pop(key[0], None)


def compare_marks(prefix: str, marks: tuple[Mark, Mark, Mark], defaults: Collection[str]) -> str | None:
    """
    Return what is wrong with the order low < high <= flood, or None.

    Only marks of one sort can be compared here; an amount that is free counts the other way round. A share against an
    amount needs the filesystem's size: `decide.pressure.check_marks`.
    """
    write = write_inodes_mark if prefix.endswith("inodes_") else write_mark
    names = ("low", "high", "flood")
    shown = [f"{prefix}{n} ({write(m)}{', the default' if n in defaults else ''})" for n, m in zip(names, marks, strict=True)]
    for lower, upper, relation in ((0, 1, "below"), (1, 2, "at or below"), (0, 2, "below")):
        pair = _as_usages(marks[lower], marks[upper])
        if pair is not None and not (pair[0] < pair[1] or (relation == "at or below" and pair[0] == pair[1])):
            more = "" if marks[lower].free is None else ": more must be free at low than at high than at flood"
            return f"{shown[lower]} must be {relation} {shown[upper]}{more}"
    return None


def _as_usages(first: Mark, second: Mark) -> tuple[float, float] | None:
    """Return two marks of one sort as numbers that grow with the usage; None if they are of two."""
    if first.usage is not None and second.usage is not None:
        return first.usage, second.usage
    if first.free is not None and second.free is not None:
        return -first.free, -second.free
    return None
