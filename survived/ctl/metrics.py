"""
The verb `metrics`: what Prometheus is told, and the files that make something of it. It only prints.
"""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from survived.ctl import local, shipped
from survived.ctl.main import print_json

if TYPE_CHECKING:
    import argparse

_FILES = {"dashboard": shipped.DASHBOARD, "alerts": shipped.ALERTS, "catalog": shipped.CATALOGUE}
_ABOUT = """\
show       the page for node_exporter's textfile collector, as it is now
dashboard  a dashboard to import into Grafana
alerts     alert rules for Prometheus; check them with promtool check rules
catalog    what journalctl -x explains our messages with. As root:
             mkdir -p /usr/local/lib/systemd/catalog
             survivectl metrics catalog >/usr/local/lib/systemd/catalog/survived.catalog
             journalctl --update-catalog

The daemon writes the page by itself where [metrics] textfile says.
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what can be printed."""
    import argparse

    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = _ABOUT
    parser.add_argument("what", choices=["show", *_FILES], help="what to print")


def run(args: argparse.Namespace) -> int:
    """Print the page or a file."""
    text = _page(args) if args.what == "show" else shipped.read_shipped(_FILES[args.what])
    if not args.json:
        print(text, end="")
    else:
        print_json({"dashboard": json.loads(text)} if args.what == "dashboard" else {"text": text})
    return 0


def _page(args: argparse.Namespace) -> str:
    """Return the daemon's page, or our own view where none runs: its counters are zero then."""
    answer: dict[str, Any] | None = local.ask_or_none("metrics")
    if answer is not None:
        return str(answer["text"])
    from survived.ctl.look import look
    from survived.meters import user_name
    from survived.tell import metrics, status

    return metrics.render(status.document(look(local.open_machine(args))), metrics.Counters(), user_name(os.getuid()))
