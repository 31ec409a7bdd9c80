"""
The verb `top`: a full-screen explorer of what uses the disk, from which caches are moved and brought home. For a keyboard.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from survived.ctl import courier
from survived.ctl.main import print_json
from survived.errors import SurvivedError, UsageError
from survived.tell.wire import path_fields

if TYPE_CHECKING:
    import argparse

    from survived.ctl.scout import Scout


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `top`."""
    parser.add_argument("path", nargs="?", metavar="PATH", help="begin in this directory; else with caches and what else is big")
    parser.add_argument("--read-only", action="store_true", help="only look: no key changes anything")


def run(args: argparse.Namespace) -> int:
    """Show the explorer until it is left; with --json print what it would show first, measured."""
    from survived.ctl.scout import Scout, start_of

    start = start_of(args.path)
    if args.json:
        scout = Scout(args)
        print_json(_document(scout, start))
        return 0
    if not all(os.isatty(number) for number in range(3)) or os.environ.get("TERM") in (None, "", "dumb"):
        raise UsageError("Cannot show a full screen: this is no terminal.", "For a pipe: survivectl top --json, survivectl hogs.")
    try:
        from survived.ctl.topscreen import Top
    except ImportError as error:
        raise SurvivedError(
            f"Cannot show the explorer: {error.name or 'textual'} is not installed.",
            f"Run: {sys.executable} -m pip install textual",
        ) from error
    scout = Scout(args)
    app = Top(scout, lambda *words: courier.bring(args, *words), start=start, read_only=args.read_only)
    app.run(mouse=False)
    return app.return_code or 0


def _document(scout: Scout, start: str | None) -> dict[str, Any]:
    """Return the rows of one listing for JSON, the biggest first."""
    from survived.ctl.explorer import Listing, Nature

    scout.read()
    listing = Listing(start)
    if start is None:
        scout.read_plan()
    rows = scout.overview() if start is None else scout.entries(start, lambda: False)
    wanted = (row for row in rows if row.nature is Nature.DIRECTORY and row.size_bytes is None)
    sizes = {row.path: scout.measure(row, lambda: False) for row in wanted}
    listing.put(sizes.get(row.path, row) for row in rows)
    if start is None:
        listing.add(scout.big())
    return {
        **(path_fields(start) if start is not None else {"path": None}),
        "size_bytes": listing.total_bytes,
        "entries": [
            {
                **path_fields(row.path),
                "nature": row.nature.value,
                "size_bytes": row.size_bytes,
                "what": row.what or None,
                "id": row.cache_id,
                **(path_fields(row.target, "target") if row.target is not None else {"target": None}),
                "why_not": scout.why_not(row),
            }
            for row in listing.rows
        ],
    }
