"""
What on this machine will fill the disk again or break us, judged on facts that were gathered before. Pure.

`CHECKS` is the table: small functions of the facts, each yielding findings with the reason, and the command that mends it.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.units import print_bytes, print_share

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from survived.decide.facts import Facts

OK, WARNING, FAILURE = "ok", "warning", "failure"
"""As it should be; will fill the disk or harm some day; is broken."""

_SOCKET_BYTES = 108  # of sun_path in sockaddr_un, its NUL among them: unix(7)
_SOCKET_NAME = len("/vscode-ipc-00000000-0000-0000-0000-000000000000.sock")  # the longest that usual tools make in TMPDIR
_FEW_WATCHES, _FEW_INSTANCES = 16_384, 128  # below what the kernel of a machine for several people should give each of them
_NEAR = 0.9
_SLOW = ("rotational", "network")
_NEXT_LOGIN, _LOG_IN = "is set in your start files, of which this shell has not been told: log in again", 'exec "${SHELL:-bash}" -l'
_TOLD_APART = frozenset({"pip", "uv", "conda", "huggingface", "hf-home", "tmpdir", "vscode-server", "cargo-target"})
"""Tools with a check of their own, and those whose place is not only a cache's."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `command` is what mends it, where a command can."""

    check: str
    state: str
    subject: str
    text: str
    command: str | None = None


def examine(facts: Facts) -> tuple[Finding, ...]:
    """Return the findings of all checks, what is broken first, in the order of the table otherwise."""
    found = [finding for check in CHECKS for finding in check(facts)]
    return tuple(sorted(found, key=lambda finding: (FAILURE, WARNING, OK).index(finding.state)))


# ---- what will fill the disk --------------------------------------------------------------------------------------


def check_temporary(facts: Facts) -> Iterator[Finding]:
    """TMPDIR: set, there, ours to write, not on the watched disk, and short enough for the sockets that tools make in it."""
    named, place, mend = facts.env.get("TMPDIR", ""), facts.temporary, "survivectl redirect apply tmpdir"
    if not named:
        if place.is_watched and _is_for_the_next_login(facts, "tmpdir"):
            yield Finding("tmpdir", WARNING, "TMPDIR", _NEXT_LOGIN, _LOG_IN)
        elif place.is_watched:
            text = f"is not set, so builds and downloads unpack in '{place.path}' on '{place.mount}'"
            yield Finding("tmpdir", WARNING, "TMPDIR", text, mend)
        else:
            yield Finding("tmpdir", OK, "TMPDIR", f"is not set, and '{place.path}' is not on a disk that is kept free")
        return
    quoted = shlex.quote(named)
    if not named.startswith("/"):
        yield Finding("tmpdir", FAILURE, "TMPDIR", f"is '{named}', which is another place in every directory", mend)
    elif not place.exists:
        text = f"is '{named}', which is not there: Python goes to /tmp without a word, and other programs fail"
        yield Finding("tmpdir", FAILURE, "TMPDIR", text, f"mkdir -p -m 700 {quoted}")
    elif not place.is_directory or not place.is_writable:
        why = "cannot be written to" if place.is_directory else "is not a directory"
        yield Finding("tmpdir", FAILURE, "TMPDIR", f"is '{named}', which {why}: Python goes to /tmp, and other programs fail", mend)
    elif place.is_watched:
        yield Finding("tmpdir", WARNING, "TMPDIR", f"is '{named}', which is on '{place.mount}'", mend)
    elif place.mode & 0o022 and not place.mode & 0o1000:
        text = f"is '{named}', where others may replace your files"
        yield Finding("tmpdir", WARNING, "TMPDIR", text, f"chmod 700 {quoted}")
    else:
        yield Finding("tmpdir", OK, "TMPDIR", f"is '{named}' on '{place.mount}'")
    yield from _check_sockets(named)


def _check_sockets(named: str) -> Iterator[Finding]:
    length = len(named.encode("utf-8", "surrogateescape"))
    left = _SOCKET_BYTES - 1 - length
    if left < _SOCKET_NAME:
        text = f"has {length} bytes, which leaves {max(0, left)} for the name of a socket in it ({_SOCKET_NAME} are needed):"
        text += " tmux, ssh-agent, VS Code and multiprocessing fail"
        yield Finding("tmpdir-length", FAILURE, "TMPDIR", text, "survivectl redirect apply tmpdir")


def check_models(facts: Facts) -> Iterator[Finding]:
    """HF_HOME: where Hugging Face keeps models and data sets."""
    places = [facts.caches[name] for name in ("hf-hub", "hf-datasets", "hf-xet") if name in facts.caches]
    watched = next((place for place in places if place.is_watched), None)
    named = next((name for name in ("HF_HOME", "HF_HUB_CACHE") if facts.env.get(name)), None)
    if watched is None:
        if places:
            yield Finding("hf-home", OK, "HF_HOME", f"models and data sets go to '{places[0].path}' on '{places[0].mount}'")
    elif named is None and _is_for_the_next_login(facts, "huggingface", "hf-home"):
        yield Finding("hf-home", WARNING, "HF_HOME", _NEXT_LOGIN, _LOG_IN)
    else:
        how = f"{named} leads" if named else "is not set, so models and data sets go"
        text = f"{how} to '{watched.path}' on '{watched.mount}'"
        yield Finding("hf-home", WARNING, "HF_HOME", text, "survivectl redirect apply huggingface")


def check_conda(facts: Facts) -> Iterator[Finding]:
    """conda's envs_dirs and pkgs_dirs, which have to lie on one filesystem, too, as they share files by hard links."""
    if "conda" not in facts.tools:
        return
    yield from _check_redirect(facts, "conda", "conda envs_dirs", ("conda-envs",), "new environments", "conda")
    yield from _check_redirect(facts, "conda", "conda pkgs_dirs", ("conda-pkgs",), "packages", "conda")
    envs, packages = facts.caches.get("conda-envs"), facts.caches.get("conda-pkgs")
    if envs is not None and packages is not None and envs.mount != packages.mount:
        text = f"environments are on '{envs.mount}' and packages on '{packages.mount}': every environment is a full copy"
        yield Finding("conda-mounts", WARNING, "conda", text, "survivectl redirect apply conda")


def check_caches(facts: Facts) -> Iterator[Finding]:
    """The caches of pip and uv, which every install fills, and those of all other tools that have some on the watched disk."""
    yield from _check_redirect(facts, "pip", "pip cache-dir", ("pip",), "downloads", "pip")
    yield from _check_redirect(facts, "uv-cache", "uv cache-dir", ("uv-cache",), "downloads", "uv")
    others = [tool for tool, stands in facts.redirects.items() if stands.state == "home" and tool not in _TOLD_APART]
    if others:
        text = f"{', '.join(others)} keep what they make on the disk that is kept free"
        yield Finding("tools", WARNING, "other tools", text, f"survivectl redirect apply {shlex.join(others)}")


def check_redirects(facts: Facts) -> Iterator[Finding]:
    """What was redirected and does not hold: something wins over it, its file says something else by now, its disk is away."""
    for tool, stands in facts.redirects.items():
        note, name = stands.note, shlex.quote(tool)
        if stands.state == "overridden":
            yield Finding(
                "redirect", WARNING, tool, f"is redirected, but {note or 'something wins over that'}", "survivectl redirect list"
            )
        elif stands.state == "changed":
            yield Finding(
                "redirect", WARNING, tool, f"was redirected, but {note or 'that was changed'}", f"survivectl redirect apply {name}"
            )
        elif stands.state == "missing":
            yield Finding(
                "redirect", FAILURE, tool, f"is redirected, but {note or 'its data disk is not there'}", "survivectl check"
            )


def check_docker(facts: Facts) -> Iterator[Finding]:
    """Docker's data-root, and containerd's, where Docker from 29 on keeps its images."""
    if "docker" not in facts.tools:
        return
    names = ("docker-rootful", "docker-rootless", "containerd")
    found = [(name, facts.caches[name]) for name in names if name in facts.caches]
    for name, place in found:
        if not place.exists and (name != "docker-rootful" or "dockerd" not in facts.tools):
            continue  # a data-root that is not there yet is made by the first start
        if place.is_watched:
            text = f"is '{place.path}' on '{place.mount}': images and containers fill it"
            order = "survivectl docker apply"
            yield Finding("docker", WARNING, "docker data-root", text, order if name == "docker-rootless" else f"sudo {order}")
        else:
            yield Finding("docker", OK, "docker data-root", f"is '{place.path}' on '{place.mount}'")


def _check_redirect(facts: Facts, tool: str, subject: str, names: tuple[str, ...], what: str, recipe: str) -> Iterator[Finding]:
    """Tell where a tool puts what it makes, by the first of the catalogue's ids that is known."""
    place = next((facts.caches[name] for name in names if name in facts.caches), None)
    if place is None or tool not in facts.tools:
        return
    if place.is_watched:
        text = f"{what} go to '{place.path}' on '{place.mount}'"
        yield Finding(subject.lower().replace(" ", "-"), WARNING, subject, text, f"survivectl redirect apply {recipe}")
    else:
        yield Finding(subject.lower().replace(" ", "-"), OK, subject, f"{what} go to '{place.path}' on '{place.mount}'")


def check_foreign(facts: Facts) -> Iterator[Finding]:
    """Files of root, or of anybody else, in one's caches: the tool fails on them, and survived cannot move them."""
    for name, path in facts.foreign.items():
        text = f"'{path}' belongs to somebody else, probably since a sudo with your HOME: {name} fails on it and cannot be moved"
        top = facts.caches[name].path if name in facts.caches else path
        yield Finding("foreign", WARNING, name, text, f"sudo chown -R {shlex.quote(facts.user)}: {shlex.quote(top)}")


def check_links(facts: Facts) -> Iterator[Finding]:
    """Links of ours that the tool's own clean command removes, which leaves the data behind, or that break the tool."""
    for danger in facts.dangers:
        back = f"survivectl restore {shlex.quote(danger.cache_id)}"
        if danger.right_path != danger.path:
            back += f" && survivectl relocate {shlex.quote(danger.right_id)}"
        if danger.breaks:
            yield Finding("link", FAILURE, danger.cache_id, f"'{danger.path}' breaks its tool as long as it is a link", back)
            continue
        said = f"'{danger.clean_command}'" if danger.clean_command else "the tool's own clean command"
        text = (
            f"{said} removes the link at '{danger.path}' and leaves the data on the data disk; never run it, or move another level"
        )
        yield Finding("link", WARNING, danger.cache_id, text, back if danger.right_path != danger.path else "survivectl orphans")


# ---- what will break us -------------------------------------------------------------------------------------------


def check_disks(facts: Facts) -> Iterator[Finding]:
    """The data disks: there, ours, not near full, not slow."""
    if not facts.disks:
        text = "there is none: nothing can be moved"
        yield Finding("disk", FAILURE, "data disk", f"{text}; name one under [data] disks", _edit(facts))
    for disk in facts.disks:
        if not disk.ok:
            yield Finding("disk", FAILURE, "data disk", disk.reason or f"'{disk.path}' cannot be used", "survivectl check")
            continue
        standing = f"'{disk.path}' is {print_share(disk.usage)} full with {print_bytes(disk.available_bytes)} available"
        if disk.usage >= disk.limit * _NEAR:
            text = f"{standing}; at {print_share(disk.limit)} nothing more is moved there"
            yield Finding(
                "disk-full", WARNING, "data disk", text, f"survivectl hogs {shlex.quote(disk.path.rpartition('/')[0] or '/')}"
            )
        else:
            yield Finding("disk", OK, "data disk", standing)
        if disk.speed in _SLOW:
            what = "has to seek" if disk.speed == "rotational" else "lies behind a network"
            text = f"'{disk.path}' {what}: small files are slow there, environments most of all"
            is_best = all(other.speed in _SLOW or not other.ok for other in facts.disks)  # then a person can do nothing
            yield Finding("disk-slow", OK if is_best else WARNING, "data disk", text if is_best else f"{text}; others are faster")


def check_service(facts: Facts) -> Iterator[Finding]:
    """The service: installed, enabled, running, of this version."""
    service, unit = facts.service, "survived.service"
    if service.missing is not None:
        state = OK if service.pid is not None else WARNING
        yield Finding("service", state, "service", f"cannot be looked at: {service.missing}", "survivectl install")
    elif not service.is_installed:
        yield Finding("service", FAILURE, "service", "is not installed: nobody watches", "survivectl install")
    elif service.active == "failed":
        log = "journalctl -u" if facts.root_mode else "journalctl --user -u"
        yield Finding("service", FAILURE, "service", "has failed", f"{log} {unit} -n 20")
    elif service.active not in ("active", "activating", "reloading"):
        yield Finding("service", FAILURE, "service", "is not running", f"{service.command} start {unit}")
    elif not service.is_enabled:
        yield Finding("service", WARNING, "service", "does not start by itself", f"{service.command} enable {unit}")
    else:
        yield Finding("service", OK, "service", "is enabled and running")
    running = service.running_version
    if running is not None and running != facts.version:
        text = f"{running} is running, {facts.version} is installed"
        yield Finding("version", WARNING, "version", text, f"{service.command} restart {unit}")
    if facts.short_lived is not None:
        text = f"runs by '{facts.short_lived}', which lies where clean-ups delete things"
        yield Finding("interpreter", WARNING, "service", text, "uv tool install survived && survivectl install")


def check_session(facts: Facts) -> Iterator[Finding]:
    """Linger, and the runtime directory, which a login over ssh has and a shell from su or sudo has not."""
    if facts.root_mode:
        return
    lingers = facts.service.lingers
    if lingers is False:
        text = "is off: the service ends with your last logout, and does not start with the machine"
        yield Finding("linger", WARNING, "linger", text, f"sudo loginctl enable-linger {shlex.quote(facts.user)}")
    elif lingers:
        yield Finding("linger", OK, "linger", "is on: the service outlives your logout")
    place = facts.runtime
    if not facts.runtime_named:
        text = "is not set, as in a shell from su or sudo: systemctl --user and tools with sockets fail here"
        there = place is not None and place.exists and place.owner == facts.uid
        mend = f"export XDG_RUNTIME_DIR=/run/user/{facts.uid}" if there else f"machinectl shell {shlex.quote(facts.user)}@"
        yield Finding("runtime", WARNING, "XDG_RUNTIME_DIR", text, mend)
    elif place is None or not place.exists or not place.is_directory:
        where = place.path if place is not None else ""
        yield Finding("runtime", FAILURE, "XDG_RUNTIME_DIR", f"is '{where}', which is not there: log in again")
    elif place.owner != facts.uid or place.mode & 0o022:
        why = "belongs to somebody else" if place.owner != facts.uid else "is open to others"
        yield Finding(
            "runtime",
            FAILURE,
            "XDG_RUNTIME_DIR",
            f"is '{place.path}', which {why}",
            f"export XDG_RUNTIME_DIR=/run/user/{facts.uid}",
        )
    else:
        yield Finding("runtime", OK, "XDG_RUNTIME_DIR", f"is '{place.path}'")


def check_inotify(facts: Facts) -> Iterator[Finding]:
    """The kernel's limits for inotify, without which growth is seen late, and editors and training tools fail."""
    seen = facts.inotify
    for name, most, used, few in (
        ("max_user_watches", seen.max_watches, seen.watches, _FEW_WATCHES),
        ("max_user_instances", seen.max_instances, seen.instances, _FEW_INSTANCES),
    ):
        if most == 0:
            continue
        wanted = max(524_288 if name.endswith("watches") else 1024, 2 * most)
        mend = f"sudo sysctl fs.inotify.{name}={wanted}"
        if used >= most * _NEAR:
            yield Finding("inotify", FAILURE, name, f"{used:,} of {most:,} are in use: growth is seen late, and editors fail", mend)
        elif most < few:
            yield Finding("inotify", WARNING, name, f"is {most:,}, which one editor can use up", mend)
        else:
            yield Finding("inotify", OK, name, f"is {most:,}, of which {used:,} are in use")


def check_configuration(facts: Facts) -> Iterator[Finding]:
    """The configuration: valid, and not for others to read, as the URLs in it are secrets."""
    if facts.config_error is not None:
        message, hint = facts.config_error
        yield Finding("config", FAILURE, "configuration", " ".join(filter(None, (message, hint))).rstrip("."), _edit(facts))
    if facts.config is not None and facts.config.exists and facts.config.mode & 0o077:
        text = f"'{facts.config.path}' can be read by others, and an Apprise URL is a secret"
        yield Finding("config-mode", WARNING, "configuration", text, f"chmod 600 {shlex.quote(facts.config.path)}")
    if facts.destinations == 0 and facts.config_error is None:
        text = "go nowhere but to the log: nobody hears of a full disk; add Apprise URLs under [notify] urls"
        yield Finding("notices", WARNING, "notices", text, f"{_edit(facts)} && survivectl notify test")
    elif facts.destinations:
        text = f"go to {facts.destinations} destination{'s' if facts.destinations > 1 else ''}"
        yield Finding("notices", OK, "notices", text)


def _is_for_the_next_login(facts: Facts, *tools: str) -> bool:
    """Tell whether a redirect is in force of which this shell has not been told yet."""
    return any(facts.redirects[tool].state == "redirected" for tool in tools if tool in facts.redirects)


def _edit(facts: Facts) -> str:
    """Return the command that opens the configuration, or makes one."""
    there = facts.config is not None and facts.config.exists
    return f"${{EDITOR:-nano}} {shlex.quote(facts.config.path)}" if there and facts.config is not None else "survivectl install"


CHECKS: tuple[Callable[[Facts], Iterable[Finding]], ...] = (
    check_configuration,
    check_disks,
    check_service,
    check_session,
    check_temporary,
    check_models,
    check_conda,
    check_caches,
    check_docker,
    check_redirects,
    check_links,
    check_foreign,
    check_inotify,
)
