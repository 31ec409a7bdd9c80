"""
Whom to tell, as a file has it: Apprise URLs with tags before them, the language, the address of the dead man's switch.

A reader raises ValueError with a sentence; none shows an address, because it may be secret.
"""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING, Literal

from survived.errors import ConfigError
from survived.model import Level, Topic
from survived.settings.sources import read_text

if TYPE_CHECKING:
    from survived.settings.checks import Report

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S")
_WEB_URL = re.compile(r"https?://[^\s/]+\S*", re.IGNORECASE)
_TAGGED = re.compile(r"\s*([A-Za-z][\w-]*(?:\s*,\s*[A-Za-z][\w-]*)*)\s*=\s*(?=[A-Za-z][A-Za-z0-9+.-]*://)")
TAGS = frozenset({"all", *(level.value for level in Level), *(topic.value for topic in Topic)})
"""What a destination may be restricted to: levels and topics."""


def is_url(text: str) -> bool:
    """Return whether a text has the form of an Apprise URL."""
    return _URL.match(text) is not None


def read_urls(given: object) -> tuple[str, ...]:
    """Return Apprise URLs, each perhaps with tags before it. What is wrong is told without showing it."""
    if not isinstance(given, list):
        raise ValueError(  # noqa: TRY004
            'it is not a list of Apprise URLs (not shown: it may be secret); write urls = ["mailto://..."]'
        )
    for number, url in enumerate(given, 1):
        if not isinstance(url, str) or not is_url(split_tags(url.strip())[1]):
            raise ValueError(f"entry {number} is no Apprise URL (not shown: it may be secret); one begins like 'mailto://'")
        check_tags(split_tags(url)[0], f"entry {number}")
    return tuple(url.strip() for url in given)


def split_tags(text: str) -> tuple[frozenset[str], str]:
    """Return the tags and the URL of `failure,flood=mailto://...`, as Apprise's own text files have them; often there are none."""
    found = _TAGGED.match(text)
    if found is None:
        return frozenset(), text.strip()
    return frozenset(tag.strip().lower() for tag in found.group(1).split(",")), text[found.end() :].strip()


def check_tags(tags: frozenset[str], where: str) -> None:
    """Raise a ValueError for a tag that no notice has."""
    for tag in sorted(tags - TAGS):
        near = difflib.get_close_matches(tag, sorted(TAGS), n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"those are {', '.join(sorted(TAGS))}"
        raise ValueError(f"{where} has the tag '{tag}', which no notice has; {hint}")


def read_tags(given: object) -> frozenset[str]:
    """Return tags of notices from a list."""
    if not isinstance(given, list) or not all(isinstance(item, str) for item in given):
        raise ValueError(f'{given!r:.60} is not a list of tags; it looks like ["flood", "failure"]')
    tags = frozenset(item.strip().lower() for item in given)
    check_tags(tags, "the list")
    return tags


def read_language(given: object) -> Literal["auto", "en", "zh"]:
    """Return the language that notices are written in."""
    if given == "auto":
        return "auto"
    if given == "en":
        return "en"
    if given == "zh":
        return "zh"
    raise ValueError(f"{given!r:.60} is not a language of ours; it is 'auto', 'en' or 'zh'")


def read_web_url(given: object) -> str:
    """Return an http or https URL. What is wrong is told without showing it."""
    if isinstance(given, str) and _WEB_URL.fullmatch(given.strip()):
        return given.strip()
    raise ValueError("it is no web address (not shown: it may be secret); one begins with 'https://'")


def read_urls_file(path: str, report: Report) -> list[str]:
    """Return the lines of a file of URLs, with their tags; what is wrong with it goes into the report."""
    key = ("notify", "urls_file")
    try:
        text, readable_by_others = read_text(path)
    except ConfigError as error:
        report.add(key, error.message.rstrip(".").replace("Cannot read", "cannot read", 1))
        return []
    if readable_by_others:
        report.add_exposed(path, "it holds Apprise URLs, which are secrets, and other users may read it")
    urls = []
    for number, line in enumerate(text.splitlines(), 1):
        if (url := line.strip()) and not url.startswith("#"):
            tags, plain = split_tags(url)
            if not is_url(plain):
                report.add(key, f"line {number} of '{path}' is no Apprise URL (not shown: it may be secret)")
            try:
                check_tags(tags, f"line {number} of '{path}'")
            except ValueError as error:
                report.add(key, str(error))
            urls.append(url)
    return urls
