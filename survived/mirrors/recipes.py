"""
The edits that lead a tool to a mirror: one key each, in the file that the tool reads, taken back by the same engine.

Evidence: pip's and uv's configuration documents, conda's channel_alias and default_channels, npm's registry, docker's
registry-mirrors, sources.list(5), huggingface_hub's environment variables; each is tested with the real tool.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from survived.act.edits import Edit
from survived.mirrors.known import mirrors

if TYPE_CHECKING:
    from collections.abc import Mapping

    from survived.mirrors.known import Mirror

DAEMON_JSON = "/etc/docker/daemon.json"
_VARIABLES = (
    "XDG_CONFIG_HOME", "PIP_CONFIG_FILE", "UV_CONFIG_FILE", "NPM_CONFIG_USERCONFIG", "npm_config_userconfig", "CONDARC",
    "PIP_INDEX_URL", "UV_DEFAULT_INDEX", "NPM_CONFIG_REGISTRY", "CONDA_CHANNEL_ALIAS", "HF_ENDPOINT",
)  # fmt: skip


def relevant(env: Mapping[str, str]) -> dict[str, str]:
    """Return what of an environment says where the tools' settings are: that of a person counts, not the daemon's."""
    return {name: env[name] for name in _VARIABLES if env.get(name)}


def edits_for(mirror: Mirror, env: Mapping[str, str], home: str, root: str = "/") -> tuple[Edit, ...]:
    """Return the edits that lead the mirror's tool to it; `root` is where /etc is, for tests."""
    config = env.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    if not os.path.isabs(config):
        config = os.path.join(home, ".config")
    if mirror.tool == "pip":
        return _pip(mirror, env.get("PIP_CONFIG_FILE") or os.path.join(config, "pip/pip.conf"))
    if mirror.tool == "uv":
        return (Edit(env.get("UV_CONFIG_FILE") or os.path.join(config, "uv/uv.toml"), "toml", ("index-url",), mirror.url),)
    if mirror.tool == "npm":
        file = env.get("NPM_CONFIG_USERCONFIG") or env.get("npm_config_userconfig") or os.path.join(home, ".npmrc")
        return (Edit(file, "npmrc", ("registry",), f"{mirror.url}/"),)
    if mirror.tool == "conda":
        return _conda(mirror, env.get("CONDARC") or os.path.join(home, ".condarc"))
    if mirror.tool == "docker":
        return (Edit(os.path.join(root, DAEMON_JSON.lstrip("/")), "json", ("registry-mirrors",), (mirror.url,)),)
    if mirror.tool == "apt":
        return _apt(mirror, root)
    return _hub(mirror, config, home)


def _pip(mirror: Mirror, file: str) -> tuple[Edit, ...]:
    index = Edit(file, "ini", ("global", "index-url"), mirror.url)
    if mirror.url.startswith("https:"):
        return (index,)
    host = mirror.url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return index, Edit(file, "ini", ("global", "trusted-host"), host)  # pip refuses plain http elsewhere


def _conda(mirror: Mirror, file: str) -> tuple[Edit, ...]:
    alias = Edit(file, "yaml", ("channel_alias",), mirror.url)
    defaults = dict(mirror.extra).get("defaults")
    if defaults is None:
        return (alias,)
    return alias, Edit(file, "yaml", ("default_channels",), (f"{defaults}/main", f"{defaults}/r"))


def _hub(mirror: Mirror, config: str, home: str) -> tuple[Edit, ...]:
    """
    Environment variables for services and for login and interactive shells.

    HF_HUB_DISABLE_IMPLICIT_TOKEN keeps the user's token from a server that is not the hub's own.
    """
    wanted = {"HF_ENDPOINT": mirror.url} | ({} if mirror.is_official else {"HF_HUB_DISABLE_IMPLICIT_TOKEN": "1"})
    services = os.path.join(config, "environment.d/60-survived-hub.conf")
    edits = [Edit(services, "environment", (name,), value) for name, value in wanted.items()]
    posix = "\n".join(f"export {name}='{value}'" for name, value in wanted.items())
    fish = "\n".join(f"set -gx {name} '{value}'" for name, value in wanted.items())
    edits += [Edit(os.path.join(home, name), "block", ("mirrors hub", "top"), posix) for name in (".profile", ".bashrc", ".zshenv")]
    edits += [Edit(os.path.join(home, name), "block", ("mirrors hub", "top"), posix) for name in (".bash_profile", ".bash_login")
              if os.path.exists(os.path.join(home, name))]  # fmt: skip
    return (*edits, Edit(os.path.join(config, "fish/conf.d/survived-hub.fish"), "file", (), f"{fish}\n"))


# ---- apt ------------------------------------------------------------------------------------------------------------


def _apt(mirror: Mirror, root: str) -> tuple[Edit, ...]:
    """Return an edit of each list of sources that leads to a known server of the same distribution."""
    distribution, _ = read_distribution(root)
    folder = os.path.join(root, "etc/apt/sources.list.d")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    files = [os.path.join(root, "etc/apt/sources.list")]
    files += [os.path.join(folder, name) for name in names if name.endswith((".list", ".sources"))]
    edits = []
    for file in files:
        try:
            with open(file, encoding="utf-8", errors="surrogateescape") as stream:
                text = stream.read()
        except OSError:
            continue
        changed = led_to(text, mirror, distribution)
        if changed != text:
            edits.append(Edit(file, "file", (), changed))
    return tuple(edits)


def led_to(text: str, mirror: Mirror, distribution: str) -> str:
    """
    Return a list of sources, one-line or deb822, in which every known server of the distribution is this mirror.

    Comments, other vendors' archives and everything else stay. Security updates go along only if the mirror has them.
    """
    archives = {server.url for server in mirrors("apt", distribution)} | {
        f"http://{_bare(s.url)}" for s in mirrors("apt", distribution)
    }
    security = {url for server in mirrors("apt", distribution) for name, url in server.extra if name == "security"}
    security |= {f"http://{_bare(url)}" for url in security} | {
        "http://security.debian.org/debian-security",
        "https://security.debian.org/debian-security",
    }
    to_security = dict(mirror.extra).get("security")

    def replaced(match: re.Match[str]) -> str:
        url = match[0].rstrip("/")
        if url in security:
            return (to_security or url) + match[0][len(url) :]
        return (mirror.url + match[0][len(url) :]) if url in archives else match[0]

    lines = text.splitlines(keepends=True)
    return "".join(line if line.lstrip().startswith("#") else re.sub(r"https?://[^\s\]#]+", replaced, line) for line in lines)


def _bare(url: str) -> str:
    return url.partition("://")[2]


def read_distribution(root: str = "/") -> tuple[str, str]:
    """Return `debian` or `ubuntu` and the suite's name, as os-release(5) has them; ("", "") if it is neither."""
    found: dict[str, str] = {}
    try:
        with open(os.path.join(root, "etc/os-release"), encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.strip().partition("=")
                found[name] = value.strip("\"'")
    except OSError:
        return "", ""
    kind = found.get("ID", "")
    return (kind, found.get("VERSION_CODENAME", "")) if kind in ("debian", "ubuntu") else ("", "")
