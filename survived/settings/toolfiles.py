"""
The configuration files of other people's tools, read for one key.

Every reader takes a file's text and returns the values of the key, the most important first; what it does not understand
it leaves out. Nothing is imported for a file that does not exist: the daemon stays small.
"""

from __future__ import annotations

import os
import re
import stat
from typing import TYPE_CHECKING, Any

from survived.errors import cause_of

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGEST_BYTES = 1 << 20


def read_tool_file(path: str) -> tuple[str | None, str | None]:
    """Return the text of a tool's file, or None and why it cannot be read; (None, None) if it is not there."""
    if path == os.devnull:
        return None, None
    try:
        # O_NONBLOCK: somebody's FIFO in place of a file must not stop the daemon.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None, None
    except OSError as error:
        return None, cause_of(error)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return None, "it is not a file"
        with open(descriptor, "rb", closefd=False) as file:
            return file.read(_LARGEST_BYTES).decode("utf-8", "surrogateescape"), None
    except OSError as error:
        return None, cause_of(error)
    finally:
        os.close(descriptor)


def read_toml(text: str, key: str) -> list[str]:
    """Return a key of a TOML file; dots in `key` go into tables."""
    import tomllib

    try:
        value: Any = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError):
        return []
    for part in key.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return [value] if isinstance(value, str) and value else []


def read_lines(text: str, key: str) -> list[str]:
    """Return a key of `KEY=value` lines, `#` for comments; the last line counts (go env, ccache.conf, pnpm's rc)."""
    found = [
        value.strip()
        for name, equals, value in (line.partition("=") for line in text.splitlines())
        if equals and name.strip() == key and value.strip()
    ]
    return found[-1:]


def read_npmrc(text: str, key: str) -> list[str]:
    """Return a key of an npmrc: ini lines of the first, nameless section, values with or without quotes."""
    found = []
    for line in text.splitlines():
        if line.lstrip().startswith("["):
            break
        name, equals, value = line.partition("=")
        if equals and not name.lstrip().startswith((";", "#")) and name.strip() == key:
            value = value.strip()
            quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"
            value = value[1:-1] if quoted else re.split(r"(?<!\\)[;#]", value)[0].strip()
            found.append(value)
    return [value for value in found[-1:] if value]


def read_words(text: str, key: str) -> list[str]:
    """Return a key of yarn classic's file: `key "value"`."""
    found = re.findall(rf"^{re.escape(key)}:?[ \t]+(?:\"([^\"]+)\"|([^\s\"]+))[ \t]*$", text, re.MULTILINE)
    return [quoted or plain for quoted, plain in found[-1:]]


def read_yaml(text: str, key: str) -> list[str]:
    """
    Return a top-level key of a YAML file: one plain or quoted text, `[a, b]` on one line, or a list of `- item` lines.

    That is what conda and yarn write into theirs; anchors, blocks and tags are not understood and give nothing.
    """
    lines = [_without_comment(line) for line in text.splitlines()]
    found: list[str] = []
    for number, line in enumerate(lines):
        match = re.fullmatch(rf"[\"']?{re.escape(key)}[\"']?\s*:(?:\s+(.*)|\s*)", line)
        if match is None:
            continue
        rest = (match.group(1) or "").strip()
        if rest.startswith("[") and rest.endswith("]"):
            found = [_unquoted(item) for item in rest[1:-1].split(",")]
        elif rest:
            found = [_unquoted(rest)]
        else:
            found = _items(lines[number + 1 :])
    return [value for value in found if value]


def _items(lines: list[str]) -> list[str]:
    items = []
    for line in lines:
        if (item := re.fullmatch(r"\s*-\s+(.*)", line)) is not None:
            items.append(_unquoted(item.group(1)))
        elif line.strip():
            break
    return items


def _without_comment(line: str) -> str:
    return "" if line.lstrip().startswith("#") else re.sub(r"\s+#[^\"']*$", "", line).rstrip()


def _unquoted(text: str) -> str:
    text = text.strip()
    if len(text) > 1 and text[0] == text[-1] and text[0] in "\"'":
        return text[1:-1]
    return "" if text[:1] in ("&", "*", "!", "|", ">", "{", "[") or text in ("~", "null") else text


def read_ini(text: str, key: str) -> list[str]:
    """Return a key of pip's [global] section; `cache_dir` is `cache-dir`, as pip has it."""
    import configparser

    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = lambda optionstr: optionstr.lower().replace("_", "-").removeprefix("--")  # type: ignore[method-assign]
    try:
        parser.read_string(text)
        value = parser.get("global", key, fallback="")
    except configparser.Error:
        return []
    return [value.strip()] if value and value.strip() else []


def read_json(text: str, key: str) -> list[str]:
    """Return a top-level key of a JSON file, or of JSON with comments on lines of their own."""
    import json

    try:
        document = json.loads(re.sub(r"(?m)^\s*//.*$", "", text))
    except (ValueError, RecursionError):
        return []
    value = document.get(key) if isinstance(document, dict) else None
    return [value] if isinstance(value, str) and value else []


def read_element(text: str, key: str) -> list[str]:
    """Return the text of an XML element that is not in a comment (Maven's settings.xml); the first counts."""
    import html

    found = re.findall(rf"<{re.escape(key)}>\s*([^<]*?)\s*</{re.escape(key)}>", re.sub(r"(?s)<!--.*?-->", "", text))
    return [html.unescape(value) for value in found[:1] if value]


def read_pattern(text: str, key: str) -> list[str]:  # noqa: ARG001  there is nothing but the pattern
    """Return where the kernel's core_pattern has core dumps put: its folder, or that of the program they are piped into."""
    pattern = text.strip()
    if pattern.startswith("|"):
        folders = {"systemd-coredump": "/var/lib/systemd/coredump", "apport": "/var/lib/apport/coredump"}
        program = os.path.basename(pattern[1:].split(" ")[0])
        return [folders[program]] if program in folders else []
    folder = os.path.dirname(pattern.partition("%")[0])
    return [folder] if os.path.isabs(folder) and folder != "/" else []


def show_key(form: str, key: str) -> str:
    """Return a key as one finds it in a file of its format: `[global] cache-dir`, `<localRepository>`."""
    table, _, name = key.rpartition(".")
    if form == "ini":
        return f"[global] {key}"
    if form == "element":
        return f"<{key}>"
    if form == "pattern":
        return ""
    return f"[{table}] {name}" if form == "toml" and table else key


READERS: dict[str, Callable[[str, str], list[str]]] = {
    "toml": read_toml,
    "json": read_json,
    "element": read_element,
    "pattern": read_pattern,
    "lines": read_lines,
    "npmrc": read_npmrc,
    "words": read_words,
    "yaml": read_yaml,
    "ini": read_ini,
}
"""The formats that a location in catalog.toml may name."""
