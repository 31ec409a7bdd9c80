"""
A letter as the page of a mail: tables and styles inside the tags, because mail programs know little else.

The page is built from the parts of the notice alone; its plain text goes along beside it. Everything is escaped.
"""

from __future__ import annotations

import html
import re
import string
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PICTURE = "usage.png"
"""The name of the picture in the mail, by which the page refers to it."""
_COMMAND, _END = "\ue000", "\ue001"
_UNIT = re.compile(r"(\d) (%|[KMGTP]iB\b)")  # a number is not parted from its unit
_COLOURS = {"info": "#2563eb", "success": "#059669", "warning": "#d97706", "failure": "#dc2626"}
_FACES = "-apple-system,'Segoe UI',Roboto,'Helvetica Neue',Arial,'PingFang SC','Noto Sans CJK SC','Microsoft YaHei',sans-serif"
_FONT = f"font-family:{_FACES}"
_MONO = "font-family:ui-monospace,'SFMono-Regular',Menlo,Consolas,'DejaVu Sans Mono',monospace"
_CODE = f"{_MONO};font-size:13px;background:#f1f5f9;color:#0f172a;padding:2px 6px;border-radius:4px;word-break:break-all"
_PAGE = """\
<!DOCTYPE html>
<html><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>$title</title></head>
<body style="margin:0;padding:0;background:#f3f4f6">
<table role="presentation" width="100%" cellpadding="0" cellspacing="0" style="background:#f3f4f6"><tr>
<td align="center" style="padding:24px 12px">
<table role="presentation" width="640" cellpadding="0" cellspacing="0" style="max-width:640px;width:100%;background:#ffffff;\
border:1px solid #e5e7eb;border-top:4px solid $colour;border-radius:6px;FONT">
$notices$picture
<tr><td style="padding:12px 24px 16px;border-top:1px solid #e5e7eb;font-size:12px;color:#6b7280">$footer</td></tr>
</table></td></tr></table></body></html>
""".replace("FONT", _FONT)


def page(
    letter: Mapping[str, object], labels: Mapping[str, str], footer: str, *, has_picture: bool, template: str | None = None
) -> str:
    """
    Return the page of one letter: `title`, `level`, `host` and `parts` (name, lines), as the daemon gives them.

    `labels` are the words above the parts in the reader's language, by name; `template` is a page of the user's own.
    """
    parts = [(str(name), [str(line) for line in lines]) for name, lines in letter["parts"]]  # type: ignore[attr-defined]
    parts = parts or [("", str(letter["body"]).splitlines())]  # of a template of the user's
    if not any(name == "title" for name, _ in parts):
        parts.insert(0, ("title", [str(letter["title"])]))
    words = {
        "title": html.escape(str(letter["title"])),
        "host": html.escape(str(letter["host"])),
        "colour": _COLOURS.get(str(letter["level"]), _COLOURS["info"]),
        "notices": "\n".join(_part(name, lines, labels, number) for number, (name, lines) in enumerate(parts)),
        "picture": _picture() if has_picture else "",
        "footer": html.escape(footer),
    }
    return string.Template(template or _PAGE).substitute(words)


def _part(name: str, lines: Sequence[str], labels: Mapping[str, str], number: int) -> str:
    if name == "title":
        edge = "border-top:1px solid #e5e7eb;" if number else ""
        text = "<br>".join(html.escape(line) for line in lines)
        return f'<tr><td style="{edge}padding:20px 24px 4px;font-size:19px;font-weight:600;color:#111827">{text}</td></tr>'
    label = labels.get(name, "")
    small = "font-size:11px;letter-spacing:.06em;text-transform:uppercase;color:#6b7280;padding-bottom:3px"
    head = f'<div style="{small}">{html.escape(label)}</div>' if label else ""
    return f'<tr><td style="padding:8px 24px 12px;font-size:14px;line-height:1.55;color:#1f2937">{head}{_lines(lines)}</td></tr>'


def _lines(lines: Sequence[str]) -> str:
    """Return lines as blocks; those that begin with a dash become a list."""
    made, rows = [], ""
    for line in (*lines, ""):
        if line.startswith("- "):
            rows += f'<li style="margin:2px 0">{_text(line[2:])}</li>'
            continue
        if rows:
            made.append(f'<ul style="margin:4px 0;padding-left:20px">{rows}</ul>')
            rows = ""
        if line:
            made.append(f"<div>{_text(line)}</div>")
    return "".join(made)


def _text(line: str) -> str:
    escaped = _UNIT.sub(r"\1&nbsp;\2", html.escape(line, quote=False))
    return escaped.replace(_COMMAND, f'<code style="{_CODE}">').replace(_END, "</code>")


def _picture() -> str:
    style = "display:block;width:100%;max-width:592px;height:auto;border:0"
    return f'<tr><td style="padding:12px 24px"><img src="cid:{PICTURE}" width="592" alt="" style="{style}"></td></tr>'
