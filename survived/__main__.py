"""
`survived`: the daemon. `python -m survived [--config FILE] [--once] [--dry-run]`.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from survived import __version__
from survived.ctl.main import Parser, open_standard_descriptors
from survived.errors import SurvivedError, cause_of
from survived.events import Event, about
from survived.tell.logbook import setup_logging

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

log = logging.getLogger("survived")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the daemon until it is told to stop; return the exit code."""
    open_standard_descriptors()
    parser = Parser(
        prog="survived",
        description="Watches the root filesystem and the known caches, and moves caches to a data disk when it fills.",
    )
    parser.add_argument("--config", metavar="FILE", help="another configuration file")
    parser.add_argument("--once", action="store_true", help="look once, act if needed, and end; 4 if the pressure remains")
    parser.add_argument("--dry-run", action="store_true", help="say what would be moved, and change nothing")
    parser.add_argument("--version", action="version", version=f"survived {__version__}")
    setup_logging(os.environ, logging.INFO)
    try:
        args = parser.parse_args(argv)
        if args.config is not None:
            args.config = os.path.abspath(args.config)
        os.chdir("/")  # a working directory would keep its disk from being unmounted, and may go away
        return _run(args)
    except SurvivedError as error:
        log.error("%s", error, extra=about(Event.START_FAILED, error=error.message))  # noqa: TRY400  a sentence, no traceback
        return error.exit_code
    except OSError as error:
        place = f" '{os.fsdecode(error.filename)}'" if error.filename is not None else ""
        why = cause_of(error)
        log.error("Cannot start%s: %s. Nothing was changed.", place, why, extra=about(Event.START_FAILED, error=why))  # noqa: TRY400
        return SurvivedError.exit_code


def _run(args: argparse.Namespace) -> int:
    from survived.ctl import local
    from survived.daemon import Daemon

    machine = local.open_machine(args)
    mounts = ", ".join(fs.mount for fs in machine.read_filesystems())
    log.info("survived %s watches %s", __version__, mounts, extra=about(Event.STARTED, version=__version__, mount=mounts))
    if machine.paths.root_mode and not args.dry_run and (machine.paths.state_dir / "docker.json").exists():
        # A child, since docker may take a minute to stop or start; it does nothing where nothing was left.
        subprocess.Popen([sys.executable, "-m", "survived.ctl.main", "docker", "recover"], stdin=subprocess.DEVNULL)
    return Daemon(machine, lambda: local.load(args, machine.paths), os.environ, dry_run=args.dry_run, once=args.once).run()


if __name__ == "__main__":
    sys.exit(main())
