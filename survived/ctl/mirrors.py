"""
`survivectl mirrors list|probe|use|undo`: where tools fetch from, how the servers do, and leading a tool to another one and back.
"""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from survived.ctl import local
from survived.ctl.main import print_json, printable, say
from survived.ctl.move import directly, follow
from survived.errors import Refused, SurvivedError, UsageError
from survived.mirrors import known
from survived.model import Reason
from survived.units import print_bytes

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from survived.act.task import Task
    from survived.machine import Machine
    from survived.mirrors.facts import Finding
    from survived.mirrors.known import Mirror

_ACTIONS = ("list", "probe", "use", "undo")
_LATENCY_WIDTH, _FRESH_WIDTH = 8, 16


def configure(parser: argparse.ArgumentParser) -> None:
    """Add what `mirrors` takes."""
    parser.add_argument("action", nargs="?", choices=_ACTIONS, default="list", metavar="list|probe|use|undo")
    tools = f"a tool ({', '.join(known.TOOLS)}); for use then the mirror's id or a URL"
    parser.add_argument("words", nargs="*", metavar="TOOL [MIRROR|URL]", help=tools)
    parser.add_argument("--fastest", action="store_true", help="use: ask all of them and take the fastest that is fresh and proven")
    parser.add_argument("--region", metavar="NAME", help="only mirrors of this region: cn, world, intranet")
    parser.add_argument("--url", metavar="URL", action="append", default=[], help="ask this server, too: an intranet's own")
    parser.add_argument("--limit", metavar="SECONDS", type=float, default=15.0, help="wait so long for all answers (15)")
    parser.add_argument("--unproven", action="store_true", help="use: even if no download could be compared with its hash")
    parser.add_argument("--watched", action="store_true", help="probe: the tools that survived has led to a mirror")


def run(args: argparse.Namespace) -> int:
    """Do one of the four."""
    if args.limit <= 0 or args.limit > 600:
        raise UsageError(f"Cannot wait {args.limit:g} seconds: give 1 to 600. Nothing was done.")
    if args.action == "use":
        return _use(args)
    tools = [known.check_tool(word) for word in args.words]
    if args.action == "undo":
        return _undo(args, tools)
    return _list(args, tools or list(known.TOOLS)) if args.action == "list" else _probe(args, tools)


def _candidates(args: argparse.Namespace, machine: Machine, tool: str, used: str = "") -> list[Mirror]:
    """Return whom to ask about a tool: those known in the region, those named by URL, and the one in use."""
    from survived.mirrors.recipes import read_distribution

    distribution, suite = read_distribution()
    found = list(known.mirrors(tool, distribution)) if tool != "apt" or suite else []
    urls = [*args.url, *(url for name, url in machine.settings.mirrors.more if name == tool), *([used] if used else [])]
    found += dict.fromkeys(known.named(tool, url) for url in urls)
    found = list({mirror.url: mirror for mirror in found}.values())
    return [mirror for mirror in found if args.region is None or mirror.region == args.region or mirror.url in args.url]


# ---- list -----------------------------------------------------------------------------------------------------------


def _list(args: argparse.Namespace, tools: Sequence[str]) -> int:
    from survived import upstreams

    machine = local.open_machine(args)
    uses = {tool: upstreams.read_use(machine, tool, os.environ) for tool in tools}
    rows = {tool: _candidates(args, machine, tool, uses[tool].url) for tool in tools}
    if args.json:
        print_json(
            {
                "tools": [upstreams.use_document(use) for use in uses.values()],
                "mirrors": [_mirror(mirror) for tool in tools for mirror in rows[tool]],
            }
        )
        return 0
    for tool in tools:
        use = uses[tool]
        at = use.url or next((mirror.url for mirror in rows[tool] if mirror.is_official), "")
        print(f"{tool}: {_whose(use.is_ours, use.url)}" + (f"; {use.note}" if use.note else ""))
        for mirror in rows[tool]:
            mark = "*" if mirror.url == at else " "
            via = f" via {mirror.upstream}" if mirror.upstream else ""
            print(printable(f" {mark} {mirror.id:<12} {mirror.region + via:<14} {mirror.shown}"))
    return 0


def _whose(ours: bool, url: str) -> str:
    if not url:
        return "as it comes"
    return "led by survived (survivectl mirrors undo takes it back)" if ours else "set by hand or by the system"


def _mirror(mirror: Mirror) -> dict[str, Any]:
    return {
        "tool": mirror.tool, "id": mirror.id, "title": mirror.title, "region": mirror.region, "url": mirror.shown,
        "upstream": mirror.upstream or None, "official": mirror.is_official,
    }  # fmt: skip


# ---- probe ----------------------------------------------------------------------------------------------------------


def _probe(args: argparse.Namespace, tools: list[str]) -> int:
    from survived import upstreams

    machine = local.open_machine(args)
    if args.watched:
        tools = [tool for tool in known.TOOLS if upstreams.records(machine, tool)]
    elif not tools:
        tools = ["pip"] if args.url else list(known.TOOLS)
    wanted = [(tool, _candidates(args, machine, tool, upstreams.read_use(machine, tool, os.environ).url)) for tool in tools]
    found = _ask([mirror for _, mirrors in wanted for mirror in mirrors], args)
    of = {tool: [finding for finding in found if finding.mirror.tool == tool] for tool, _ in wanted}
    if args.json:
        print_json({"findings": [_finding(finding, of[tool]) for tool in of for finding in of[tool]]})
    else:
        for tool, findings in of.items():
            _print_table(tool, findings)
    return 0 if any(finding.ok for finding in found) or not found else 1


def _ask(mirrors: list[Mirror], args: argparse.Namespace) -> list[Finding]:
    from survived.mirrors.probing import probe_all
    from survived.mirrors.recipes import read_distribution

    said = 0

    def told(_: Finding) -> None:
        nonlocal said
        said += 1
        if sys.stderr.isatty():
            print(f"\r{said} of {len(mirrors)} have answered\x1b[K", end="", file=sys.stderr, flush=True)

    found = probe_all(mirrors, os.environ, read_distribution()[1], args.limit, told)
    if said and sys.stderr.isatty():
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)
    return found


def _finding(finding: Finding, others: Sequence[Finding]) -> dict[str, Any]:
    from survived.mirrors import choice

    return {
        **_mirror(finding.mirror), "ok": finding.ok, "why": finding.why or None, "latency_seconds": finding.latency_seconds,
        "bytes_per_second": finding.bytes_per_second, "fresh": finding.fresh or None, "fresh_key": list(finding.fresh_key),
        "stale": choice.is_stale(finding, others) if finding.ok and finding.fresh_key else None,
        "data_host": finding.data_host or None, "proven": finding.proven, "pinned": finding.pinned,
        "fit": choice.is_fit(finding, others),
    }  # fmt: skip


def _print_table(tool: str, findings: Sequence[Finding]) -> None:
    from survived.mirrors import choice

    best = choice.rank(findings)
    print(f"{tool:<14} {'answers':>{_LATENCY_WIDTH}} {'speed':>10}  {'newest':<{_FRESH_WIDTH}} is")
    for finding in sorted(findings, key=lambda item: (not item.ok, choice.cost_seconds(item) if item.ok else 0.0)):
        if not finding.ok:
            print(printable(f"  {finding.mirror.id:<12} {'-':>{_LATENCY_WIDTH}} {'-':>10}  {'-':<{_FRESH_WIDTH}} {finding.why}"))
            continue
        speed = f"{print_bytes(finding.bytes_per_second)}/s" if finding.bytes_per_second else "-"
        answers = f"{1000 * (finding.latency_seconds or 0.0):.0f} ms"
        verdict = _verdict(finding, findings, is_best=bool(best) and best[0] is finding)
        row = f"  {finding.mirror.id:<12} {answers:>{_LATENCY_WIDTH}} {speed:>10}  {finding.fresh or '?':<{_FRESH_WIDTH}} {verdict}"
        print(printable(row))


def _verdict(finding: Finding, findings: Sequence[Finding], *, is_best: bool) -> str:
    from survived.mirrors import choice

    if finding.data_host:
        return f"data comes from {finding.data_host}"
    if choice.is_stale(finding, findings):
        return "behind"
    if not finding.proven:
        return "not proven"
    return "fastest" if is_best else "good"


# ---- use ------------------------------------------------------------------------------------------------------------


def _use(args: argparse.Namespace) -> int:
    from survived import upstreams
    from survived.mirrors import recipes

    if not args.words or len(args.words) != (1 if args.fastest else 2):
        raise UsageError(
            "Cannot tell what to use: name a tool and a mirror, or a tool and --fastest. Nothing was changed.",
            "survivectl mirrors list shows them.",
        )
    tool = known.check_tool(args.words[0])
    upstreams.check_rights(tool, "use")
    mirror = _fastest(args, tool) if args.fastest else _proven(args, tool, args.words[1])
    queued = local.ask_or_none("mirror_use", tool=tool, url=mirror.url, env=recipes.relevant(os.environ))
    if queued is not None:
        result = follow(queued["number"], args)
    else:

        def work(machine: Machine, _: Task) -> dict[str, Any]:
            return upstreams.lead(machine, mirror, os.environ)

        result = directly(args, work)
    if args.json:
        print_json(result)
        return 0
    print(printable(f"{tool} fetches from {mirror.id}: {mirror.shown}"))
    _print_edits(result)
    say(f"To take it back: survivectl mirrors undo {tool}")
    return 0


def _fastest(args: argparse.Namespace, tool: str) -> Mirror:
    from survived.mirrors import choice

    findings = _ask(_candidates(args, local.open_machine(args), tool), args)
    ranked = choice.rank(findings)
    if not args.json:
        _print_table(tool, findings)
    if not ranked:
        raise Refused(
            Reason.NO_MIRROR, f"Cannot use the fastest mirror for {tool}: none of {len(findings)} answers, is fresh and sends what "
            "it must. Nothing was changed.", f"Name an intranet one: survivectl mirrors use {tool} --fastest --url https://…",
        )  # fmt: skip
    return ranked[0].mirror


def _proven(args: argparse.Namespace, tool: str, word: str) -> Mirror:
    from survived.mirrors import choice
    from survived.mirrors.recipes import read_distribution

    mirror = known.find(tool, word, read_distribution()[0] or "debian")
    if tool == "apt" and "://" in word:
        mirror = replace(mirror, extra=())
    (finding,) = _ask([mirror], args)
    why = choice.objection(finding, [finding])
    if args.unproven or not why:
        return mirror
    raise Refused(
        Reason.NO_MIRROR,
        f"Cannot use '{mirror.shown}' for {tool}: {why}. Nothing was changed.",
        "To use it all the same: --unproven.",
    )


def _print_edits(result: dict[str, Any]) -> None:
    for edit in result["edits"]:
        print(printable(f"  {edit['path']}: {' '.join(edit['key']) or 'the file'}{_outcome(edit)}"))
    for edit in result.get("earlier", ()):
        if edit["how"] != "restored":
            print(printable(f"  {edit['path']}: {edit['why']}"))
    if result.get("next"):
        say(f"Next: {result['next']}")


def _outcome(edit: dict[str, Any]) -> str:
    if "how" not in edit:
        return ""
    return f" {edit['how']}" + (f": {edit['why']}" if edit["why"] else "")


# ---- undo -----------------------------------------------------------------------------------------------------------


def _undo(args: argparse.Namespace, tools: list[str]) -> int:
    from survived import upstreams

    if not tools:
        machine = local.open_machine(args)
        tools = [tool for tool in known.TOOLS if upstreams.records(machine, tool)]
        if not tools:
            raise Refused(Reason.NOT_RELOCATED, "Cannot undo mirrors: no tool is led to one by survived. Nothing was changed.")
    results, failed = [], 0
    for tool in tools:
        try:
            results.append(_undo_one(args, tool))
        except SurvivedError as error:
            if len(tools) == 1:
                raise
            say(f"survivectl: {error.message}", error.hint)
            failed = error.exit_code
    if args.json:
        print_json({"undone": results})
    else:
        for result in results:
            print(f"{result['tool']}: taken back")
            _print_edits(result)
    left = any(edit["how"] == "failed" for result in results for edit in result["edits"])
    return failed or int(left)


def _undo_one(args: argparse.Namespace, tool: str) -> dict[str, Any]:
    from survived import upstreams

    upstreams.check_rights(tool, "undo")
    queued = local.ask_or_none("mirror_undo", tool=tool)
    if queued is not None:
        return follow(queued["number"], args)
    return directly(args, lambda machine, _: upstreams.take_back(machine, tool))
