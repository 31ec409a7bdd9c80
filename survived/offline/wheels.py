"""
Wheels for a given Python, platform and glibc: downloaded by pip, installed by pip or uv with their hashes.

pip decides by the markers of the Python it runs in, so the Python that is asked for does it where it is here; where it
is not, uv resolves for it first. What goes into the bundle is a list of exact versions with the hash of each wheel.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import tomllib
import zipfile
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError, UsageError
from survived.offline import platform, space
from survived.offline.job import Collecting, Installing, Outcome, Wish
from survived.offline.manifest import Item, Target

if TYPE_CHECKING:
    from collections.abc import Sequence

LIST = "requirements.txt"
_PIP = ("-m", "pip", "--disable-pip-version-check", "--no-input")


def collect(wish: Wish, job: Collecting) -> Item:
    """Download the wheels of requirements files, pyproject.toml or uv.lock, with all they depend on."""
    wanted = job.target.python or f"{sys.version_info.major}.{sys.version_info.minor}"
    python, same = _interpreter(job, wanted)
    names = [os.path.basename(word) for word in wish.words]
    sources = [_as_requirements(word, job, number) for number, word in enumerate(wish.words)]
    here = platform.here()
    native = same and job.target.machine == here.machine
    env = {"TMPDIR": job.temporary(), "PIP_CACHE_DIR": os.path.join(job.scratch, "pip")}
    if wish.option("build"):
        if not native:
            why = f"building takes a machine and a Python like the target's, {job.target.machine} and {wanted}"
            raise UsageError(
                f"Cannot build wheels here: {why}. Nothing was packed.", "Leave --build away, or pack on such a machine."
            )
        words = [python, *_PIP, "wheel", "-w", job.folder, *_files(sources)]
    else:
        if not native:
            sources = [_resolve(sources, job, wanted)]
        words = [python, *_PIP, "download", "-d", job.folder, "--only-binary=:all:", *_for(job.target, wanted), *_files(sources)]
        words += [] if native else ["--no-deps"]
    kept = "What came is kept: the same command goes on."
    job.runner.run(words, log="wheels", doing=f"collect the wheels of {', '.join(names)}", env=env, kept=kept)
    return _listed(names, job, wanted)


def _files(sources: Sequence[str]) -> list[str]:
    return [word for source in sources for word in ("-r", source)]


def _for(target: Target, python: str) -> list[str]:
    abi = f"cp{python.replace('.', '')}"
    tags = platform.platform_tags(target.machine or "x86_64", target.glibc)
    options = [f"--platform={tag}" for tag in tags]
    return [*options, f"--python-version={python}", "--implementation=cp", f"--abi={abi}", "--abi=abi3", "--abi=none"]


def _interpreter(job: Collecting, wanted: str) -> tuple[str, bool]:
    """Return a Python with pip, and whether it is the one that is wanted."""
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    found = shutil.which(f"python{wanted}", path=job.runner.env.get("PATH"))
    for python, same in (
        (sys.executable if own == wanted else found, True),
        (found, True),
        (sys.executable, own == wanted),
        ("python3", False),
    ):
        if python is not None:
            try:
                job.runner.ask([python, "-c", "import pip"], doing="find pip")
            except (SurvivedError, OSError):
                continue
            return python, same
    raise SurvivedError(
        "Cannot collect wheels: no Python with pip was found. Nothing was packed.", "Install pip: python3 -m ensurepip."
    )


def _as_requirements(word: str, job: Collecting, number: int) -> str:
    """Return a requirements file for pip: the given one, or one made from uv.lock or pyproject.toml."""
    if not os.path.isfile(word):
        raise SurvivedError(f"Cannot read '{word}': there is no such file. Nothing was packed.")
    name, made = os.path.basename(word), os.path.join(job.scratch, f"requirements-{number}.txt")
    if name == "uv.lock":
        uv = job.runner.find("uv")
        words = [uv, "export", "-q", "--frozen", "--offline", "--no-emit-workspace", "--no-dev", "--no-header", "-o", made]
        job.runner.run([*words, "--project", os.path.dirname(os.path.abspath(word))], log="wheels", doing=f"read '{word}'")
        return made
    if name == "pyproject.toml":
        try:
            with open(word, "rb") as file:
                project = tomllib.load(file).get("project", {})
            lines = [str(line) for line in project.get("dependencies", [])]
        except (tomllib.TOMLDecodeError, UnicodeDecodeError, AttributeError, TypeError) as error:
            raise SurvivedError(f"Cannot read '{word}': {error}. Nothing was packed.") from error
        if not lines:
            raise SurvivedError(f"Cannot pack '{word}': it has no [project] dependencies. Nothing was packed.")
        with open(made, "w", encoding="utf-8") as file:
            file.write("".join(f"{line}\n" for line in lines))
        return made
    if name.endswith((".lock", ".toml", ".yml", ".yaml", ".json")):
        why = "wheels come from requirements.txt, pyproject.toml or uv.lock"
        raise UsageError(f"Cannot understand '{word}': {why}. Nothing was packed.")
    return os.path.abspath(word)


def _resolve(sources: Sequence[str], job: Collecting, python: str) -> str:
    """Return a list of exact versions, resolved by uv for a Python or a machine that is not here."""
    made = os.path.join(job.scratch, "resolved.txt")
    if not job.runner.has("uv"):
        why = f"neither Python {python} on {job.target.machine} nor uv is here, and pip alone would resolve for another"
        raise SurvivedError(f"Cannot collect wheels: {why}. Nothing was packed.", "Install uv: pip install uv.")
    major, minor = (job.target.glibc or "2.17").split(".")[:2]
    for_whom = [f"--python-version={python}", f"--python-platform={job.target.machine}-manylinux_{major}_{minor}"]
    words = [
        job.runner.find("uv"),
        "pip",
        "compile",
        "-q",
        "--no-header",
        "--generate-hashes",
        "--only-binary",
        ":all:",
        *for_whom,
        "-o",
        made,
    ]
    job.runner.run(
        [*words, *sources], log="wheels", doing="resolve the wheels", env={"UV_CACHE_DIR": os.path.join(job.scratch, "uv")}
    )
    return made


def _listed(names: Sequence[str], job: Collecting, python: str) -> Item:
    """Write the list of what was downloaded, and leave out what the target has."""
    wheels = sorted(name for name in os.listdir(job.folder) if name.endswith(".whl"))
    if other := sorted(name for name in os.listdir(job.folder) if not name.endswith((".whl", LIST))):
        raise SurvivedError(f"Cannot pack '{other[0]}': it is no wheel. What came is kept.", "To build wheels here: --build.")
    have = job.inventory.packages if job.inventory is not None else {}
    omitted, lines = [], []
    for wheel in wheels:
        name, version = wheel.split("-")[:2]
        if have.get(normalized(name)) == version:
            omitted.append(f"{normalized(name)} {version}")
            os.unlink(os.path.join(job.folder, wheel))
            continue
        with open(os.path.join(job.folder, wheel), "rb") as file:
            lines.append(f"{name}=={version} --hash=sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}\n")
    with open(os.path.join(job.folder, LIST), "w", encoding="utf-8") as file:
        file.write("".join(lines))
    native = any(wheel.endswith(f"-linux_{job.target.machine}.whl") for wheel in wheels)
    glibc = platform.here().glibc if native else platform.needed_glibc(wheels)
    pure = all(wheel.endswith("-any.whl") for wheel in wheels)
    target = Target(None if pure else job.target.machine, glibc, python)
    return job.item("wheels", f"wheels of {', '.join(names)}", target, {"count": len(lines)}, tuple(omitted))


def normalized(name: str) -> str:
    """Return a project's name as indexes compare it (PEP 503)."""
    return re.sub(r"[-_.]+", "-", name).lower()


def install(job: Installing) -> Outcome:
    """Install the wheels into the Python that is asked for: `--python`, the active environment, or python3."""
    python, found = interpreter(job)
    folder, count = job.folder, int(job.item.facts.get("count", 0))
    if count == 0:
        return Outcome(job.item, f"{found['prefix']} had all wheels already", (("python", python),))
    space.require(found["purelib"], _unpacked(folder), "install wheels to")
    env: dict[str, Any] = {"TMPDIR": job.temporary()}
    what = ["--no-index", "--find-links", folder, "--require-hashes", "-r", job.path(LIST)]
    if job.options.with_uv or not _has_pip(job, python):
        words = [job.runner.find("uv"), "pip", "install", "--offline", "--no-cache", "--no-config", "--python", python, *what]
        tool = "uv"
    else:
        words, tool = [python, *_PIP, "install", "--no-cache-dir", *what], "pip"
        env["PIP_CONFIG_FILE"] = os.devnull  # else an index or a mirror that it names
    job.runner.env = {key: value for key, value in job.runner.env.items() if not key.startswith(("PIP_", "UV_"))}
    job.runner.run(words, log="wheels", doing=f"install the {job.item.title}", env=env, kept="The unpacked bundle is kept.")
    done = f"{count} wheels are installed in {found['prefix']} by {tool}"
    return Outcome(job.item, done, (("python", python), ("tool", tool), ("count", count)))


def fits(job: Installing) -> None:
    """Raise `Refused` (other_platform) if the wheels are for another Python, machine or C library."""
    _, found = interpreter(job)
    here = Target(found["machine"], found["glibc"] or None, found["python"])
    hint = f"Name a Python {job.item.target.python}: survivectl offline install --python PATH."
    platform.require(job.item.title, job.item.target, here, hint)


def interpreter(job: Installing) -> tuple[str, dict[str, str]]:
    """Return the Python to install into, and what it says of itself."""
    active = job.runner.env.get("VIRTUAL_ENV") or job.runner.env.get("CONDA_PREFIX")
    python = job.options.python or (os.path.join(active, "bin/python") if active else "python3")
    if os.path.isdir(python):
        python = os.path.join(python, "bin/python")
    path = shutil.which(os.path.expanduser(python), path=job.runner.env.get("PATH"))
    if path is None:
        raise SurvivedError(
            f"Cannot find the Python '{python}': there is none. Nothing was installed.", "Name another: --python PATH."
        )
    path = os.path.abspath(path)
    return path, platform.ask_python(job.runner, path)


def _has_pip(job: Installing, python: str) -> bool:
    try:
        job.runner.ask([python, "-c", "import pip"], doing="find pip")
    except SurvivedError:
        return False
    return True


def _unpacked(folder: str) -> int:
    total = 0
    for name in os.listdir(folder):
        if name.endswith(".whl"):
            with zipfile.ZipFile(os.path.join(folder, name)) as wheel:
                total += sum(info.file_size for info in wheel.infolist())
    return total
