"""
Another kernel as an ordinary process: User Mode Linux, for what the running kernel was built without (quotas).

It boots in two seconds with the machine's own root, read-only, as its root; Debian calls it `user-mode-linux`.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from functools import cache
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[2]
_MARK = "RESULT "
_SECONDS = 90
_PROLOGUE = """
import codecs, ctypes, json, os, subprocess, sys, traceback
codecs.lookup("ascii")  # loaded at its first use, from where an ordinary user may not read
sys.path.insert(0, {repository!r})
os.environ["PATH"] = "/usr/sbin:/usr/bin:/sbin:/bin"
libc = ctypes.CDLL(None, use_errno=True)

def sh(*words):
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{{words}}: {{done.stdout}}{{done.stderr}}")
    return done.stdout

def load(name):
    fd = os.open(f"/usr/lib/uml/modules/{{os.uname().release}}/kernel/{{name}}.ko", os.O_RDONLY)
    if libc.syscall(313, fd, b"", 0) != 0 and ctypes.get_errno() != 17:
        raise OSError(ctypes.get_errno(), name)
    os.close(fd)

def as_user(uid, work):
    told, tell = os.pipe()
    if os.fork() == 0:
        try:
            os.setgroups([]); os.setgid(uid); os.setuid(uid)
            text = json.dumps(work())
        except BaseException:
            text = json.dumps({{"failed": traceback.format_exc()}})
        os.write(tell, text.encode()); os._exit(0)
    os.close(tell)
    with os.fdopen(told) as file:
        text = file.read()
    os.wait()
    answer = json.loads(text)
    if isinstance(answer, dict) and "failed" in answer:
        raise RuntimeError(answer["failed"])
    return answer

try:
    sh("mount", "-t", "proc", "proc", "/proc")
    sh("mount", "-t", "sysfs", "sysfs", "/sys")
"""
_EPILOGUE = """
except BaseException:
    answer = {"failed": traceback.format_exc()}
sys.stdout.write("\\nRESULT " + json.dumps(answer) + "\\n"); sys.stdout.flush()
os.sync()
libc.reboot(0x4321FEDC)
"""


@cache
def why_no_uml() -> str | None:
    """Return why no other kernel can be booted here, or None if one can."""
    if os.uname().machine != "x86_64":
        return "needs an x86_64 machine"
    if shutil.which("linux.uml") is None:
        return "needs linux.uml (apt-get install user-mode-linux)"
    return None


def run_in_uml(folder: Path, images: list[Path], script: str) -> Any:
    """
    Boot, run the script as root and return its `answer`; `images` are /dev/ubda, /dev/ubdb, …

    The script has `sh(*words)`, `load(module)` and `as_user(uid, function)`. Fails with the script's traceback or the
    kernel's last words.
    """
    program, init = folder / "uml.py", folder / "init"
    body = textwrap.indent(textwrap.dedent(script), "    ")
    program.write_text(_PROLOGUE.format(repository=str(REPOSITORY)) + body + _EPILOGUE, encoding="utf-8")
    init.write_text(f"#!/bin/sh\nexec {sys.executable} -B {program}\n", encoding="utf-8")
    init.chmod(0o755)
    disks = [f"ubd{number}={image}" for number, image in enumerate(images)]
    words = [
        "linux.uml",
        "mem=256M",
        "rootfstype=hostfs",
        "rootflags=/",
        "ro",
        f"init={init}",
        "con=null",
        "con0=null,fd:1",
        *disks,
    ]
    done = subprocess.run(
        [*words, "root=/dev/root", f"uml_dir={folder}/", "quiet"],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=_SECONDS, check=False, env={**os.environ, "TMPDIR": "/tmp"},
    )  # fmt: skip
    text = done.stdout.decode(errors="replace") + done.stderr.decode(errors="replace")
    line = next((line for line in text.splitlines() if line.startswith(_MARK)), None)
    assert line is not None, text[-3000:]
    answer = json.loads(line.removeprefix(_MARK))
    assert not (isinstance(answer, dict) and "failed" in answer), answer["failed"]
    return answer
