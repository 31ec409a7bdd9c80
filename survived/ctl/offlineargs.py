"""
What `survivectl offline` and its four actions take, and the help of each.
"""

from __future__ import annotations

import argparse

KINDS = ("wheels", "conda", "conda_env", "hub", "hub_dataset", "vsix", "vscode_server", "npm", "deb", "image", "file")
"""The options that name something to pack, as argparse calls them."""
_ITEMS = ("wheels", "conda", "hub", "vscode", "npm", "debs", "images", "files")
_ALL = """\
One bundle, carried over by scp, for a machine that reaches no index: Python wheels, conda packages, Hugging Face
snapshots, VS Code extensions and server, npm packages, Debian packages, Docker images, plain files.
Interrupted, or the disk was full? The same command goes on where it stopped. Each action has its own --help.
"""
_PACK = """\
examples:
  survivectl offline pack requirements.txt --python 3.11 --platform manylinux_2_28_x86_64 -o torch.tar.zst
  survivectl offline pack uv.lock --inventory server.json -o project.tar.zst
  survivectl offline pack --hub org/model@main --split 2GiB -o model.tar.zst
  survivectl offline pack --vscode-server 0123456789abcdef0123456789abcdef01234567 --vsix ms-python.python -o code.tar.zst
  survivectl offline pack package-lock.json --deb jq --image python:3.11-slim --file data/ -o all.tar.zst
  survivectl offline pack --conda numpy --channel conda-forge -o numpy.tar.zst

Wheels are resolved for the target's Python, machine and glibc, not for this machine's. What is collected lies in
NAME.tar.zst.work until the bundle is complete.
"""
_INSTALL = """\
The bundle is read to its end first: one that is damaged, or for another machine or Python, changes nothing.
It is unpacked to the data disk, never to /, and stays there with the logs of all tools in its folder `logs`.

examples:
  survivectl offline install torch.tar.zst                        wheels go into the active environment
  survivectl offline install torch.tar.zst --python ~/venv        or into the one that is named
  survivectl offline install model.tar.zst.001 --to /data2/alice  parts lie side by side; name the first
  survivectl offline install web.tar.zst --project ~/web          npm ci --offline there
  survivectl offline install numpy.tar.zst --conda-prefix ~/miniforge3/envs/lab
  sudo survivectl offline install all.tar.zst --only debs
"""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the actions of `offline`, each with its options."""
    parser.description = f"{parser.description}\n\n{_ALL}"
    actions = parser.add_subparsers(
        dest="action", metavar="pack|verify|inventory|install", required=True, parser_class=type(parser)
    )
    _add_pack(_action(actions, "pack", "collect what is named into one bundle, where there is network", _PACK))
    verify = _action(actions, "verify", "read a bundle to its end and say whether it is whole, and what is in it", None)
    _add_bundle(verify)
    taken = _action(actions, "inventory", "tell what this machine has, so that only what it lacks is packed", None)
    taken.add_argument("-o", "--output", metavar="FILE", help="the file to write; else it is printed")
    taken.add_argument(
        "--python", metavar="PATH", help="the Python whose packages count; else that of the active environment, else python3"
    )
    taken.add_argument("--hub-cache", metavar="DIR", help="the Hugging Face cache; else by its own rule")
    _add_install(_action(actions, "install", "verify and unpack a bundle, and give its content to the tools", _INSTALL))


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str, epilog: str | None
) -> argparse.ArgumentParser:
    found = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=epilog)
    found.formatter_class = argparse.RawDescriptionHelpFormatter
    found.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print one JSON object")
    found.add_argument("--config", metavar="FILE", default=argparse.SUPPRESS, help="another configuration file")
    return found


def _add_pack(pack: argparse.ArgumentParser) -> None:
    def many(group: argparse._ArgumentGroup, name: str, metavar: str, text: str) -> None:
        group.add_argument(name, action="append", default=[], metavar=metavar, help=text)

    pack.add_argument(
        "what",
        nargs="*",
        metavar="FILE",
        help="requirements.txt, pyproject.toml, uv.lock, package-lock.json, *.vsix, or any file or folder",
    )
    pack.add_argument("-o", "--output", metavar="NAME.tar.zst", default="offline.tar.zst", help="the bundle (default: %(default)s)")
    pack.add_argument("--split", metavar="SIZE", help="parts of this size, as 2GiB, named NAME.tar.zst.001 and so on")
    pack.add_argument("--inventory", metavar="FILE", help="what the target has and is; only what it lacks is packed")
    pack.add_argument("--python", metavar="X.Y", help="the target's Python; else the inventory's, else ours")
    pack.add_argument(
        "--platform",
        metavar="NAME",
        help="the target's glibc and machine, as manylinux_2_28_x86_64; else the inventory's, else ours",
    )
    what = pack.add_argument_group("what to pack (each can be given again)")
    many(what, "--wheels", "FILE", "wheels of a requirements.txt, pyproject.toml or uv.lock")
    what.add_argument("--build", action="store_true", help="build wheels here of what has none (pip wheel)")
    many(what, "--conda", "SPEC|URL|FILE", "a conda package by name, by URL, or an explicit list (conda list --explicit --md5)")
    many(what, "--channel", "NAME|URL", "where conda looks for names, instead of its own channels")
    many(what, "--conda-env", "PREFIX", "a whole environment, packed by conda-pack")
    many(what, "--hub", "REPO[@REVISION]", "a snapshot of a Hugging Face model, with its refs")
    many(what, "--hub-dataset", "REPO[@REVISION]", "the same of a dataset")
    many(what, "--vsix", "NAME[@VERSION]|FILE|URL", "a VS Code extension")
    many(what, "--vscode-server", "COMMIT", "the server that VS Code Remote wants: the commit of Help, About")
    what.add_argument("--gallery", metavar="URL", help="where extensions come from; else Microsoft's marketplace")
    what.add_argument("--vscode-updates", metavar="URL", help="where servers come from; else Microsoft's update service")
    many(what, "--npm", "DIR", "the packages of a project's package-lock.json")
    many(what, "--deb", "PACKAGE", "a Debian package with what it needs and the inventory's dpkg lacks")
    many(what, "--image", "NAME", "a Docker image, pulled if it is not here")
    many(what, "--file", "PATH", "a file or a folder as it is")


def _add_bundle(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("bundle", metavar="BUNDLE", help="NAME.tar.zst, or its first part NAME.tar.zst.001")
    parser.add_argument("--expect", metavar="SHA256", help="refuse another bundle than the one of which pack printed this")


def _add_install(install: argparse.ArgumentParser) -> None:
    _add_bundle(install)
    install.add_argument("--to", metavar="DIR", help="unpack to a folder here, on a data disk; else to the store")
    install.add_argument("--unpack-only", action="store_true", help="unpack, and install nothing")
    install.add_argument("--only", action="append", default=[], choices=_ITEMS, help="install only this kind (can be given again)")
    install.add_argument(
        "--skip", action="append", default=[], choices=_ITEMS, help="install all but this kind (can be given again)"
    )
    where = install.add_argument_group("where to install")
    where.add_argument("--python", metavar="PATH", help="wheels: a Python or its environment; else the active one, else python3")
    where.add_argument("--with", dest="tool", choices=("pip", "uv"), help="wheels: by uv instead of pip, which is tried first")
    where.add_argument("--conda-prefix", metavar="DIR", help="conda: the environment, made if it is not there")
    where.add_argument("--hub-cache", metavar="DIR", help="hub: the cache; else by huggingface_hub's own rule")
    where.add_argument("--project", metavar="DIR", help="npm: the project, with its package.json and package-lock.json")
    where.add_argument("--code", metavar="PATH", help="vscode: what installs extensions; else the newest server here, else 'code'")
    where.add_argument("--files-to", metavar="DIR", help="files: copy them there; else they stay where they are unpacked")
