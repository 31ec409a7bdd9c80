"""How an archive of Debian or Ubuntu does: the date in its signed InRelease, and a file whose hash stands in there."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from survived.mirrors.facts import Finding
from survived.mirrors.fetch import Unusable, expect
from survived.units import print_time

if TYPE_CHECKING:
    from survived.mirrors.fetch import Client
    from survived.mirrors.known import Mirror

_KEYRINGS = ("/usr/share/keyrings/debian-archive-keyring.gpg", "/usr/share/keyrings/ubuntu-archive-keyring.gpg")
_INDEX_BYTES = 8 << 20


def probe(client: Client, mirror: Mirror, wanted: dict[str, str], suite: str) -> Finding:
    """Judge an archive by one suite of it, such as `bookworm`. Raises `Unusable`."""
    folder = f"{mirror.url}/dists/{suite}"
    answer = expect(client.get(f"{folder}/InRelease", limit=_INDEX_BYTES), f"dists/{suite}/InRelease")
    text = answer.body.decode("utf-8", "replace")
    if "BEGIN PGP SIGNED MESSAGE" not in text:
        raise Unusable("it answers with a web page, not with an archive" if answer.is_page else "its InRelease is not signed")
    signed = _is_signed(answer.body)
    date = re.search(r"^Date:\s*(.+)$", text, re.MULTILINE)
    when = 0.0
    if date is not None:
        try:
            when = parsedate_to_datetime(date[1].strip().replace("UTC", "+0000")).timestamp()
        except (ValueError, TypeError):
            when = 0.0
    sums = text.partition("\nSHA256:")[2]
    listed = {line.split()[2]: line.split()[0] for line in sums.splitlines() if len(line.split()) == 3}
    name = wanted["proof"] if wanted["proof"] in listed else next(iter(sorted(listed)), "")
    if not name:
        raise Unusable("its InRelease lists no files")
    proof = expect(client.get(f"{folder}/{name}", limit=_INDEX_BYTES), name)
    if hashlib.sha256(proof.body).hexdigest() != listed[name]:
        raise Unusable(f"{name} from it has another hash than its InRelease says: it is being updated, or is wrong")
    speed = len(answer.body) / max(answer.seconds, 1e-3)
    fresh = print_time(when)[:16] if when else ""
    return Finding(mirror, "", answer.first_seconds, speed, fresh, (when,) if when else (), proven=True, pinned=signed)


def _is_signed(data: bytes) -> bool:
    """Tell whether the distribution's own key signed it; False without gpgv or its keyring. Raises `Unusable` for a bad one."""
    keyrings = [path for path in _KEYRINGS if os.path.exists(path)]
    if shutil.which("gpgv") is None or not keyrings:
        return False
    with tempfile.NamedTemporaryFile(prefix="survived-", suffix=".InRelease") as file:
        file.write(data)
        file.flush()
        words = [word for path in keyrings for word in ("--keyring", path)]
        done = subprocess.run(["gpgv", "--quiet", *words, file.name], capture_output=True, check=False, timeout=20)
    if b"BADSIG" in done.stderr or b"BAD signature" in done.stderr:
        raise Unusable("the signature of its InRelease is bad")
    return done.returncode == 0
