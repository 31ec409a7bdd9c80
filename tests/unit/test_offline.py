"""What no bundle may be: every kind of damage and every evil entry is refused with its reason, and nothing is written."""

from __future__ import annotations

import json
import os
import subprocess
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard

from survived.errors import Refused, SurvivedError
from survived.model import Reason
from survived.offline import manifest, names
from survived.offline.verifying import Verified, verify
from tests.rig.bundles import GOOD, document, good, member, tarred, write

Members = list[tuple[tarfile.TarInfo, bytes]]


def without(members: Members, name: str) -> Members:
    """Return the members but one."""
    return [(info, data) for info, data in members if info.name != name]


def renamed(name: str) -> Members:
    """Return a bundle whose manifest and tar agree on an evil name."""
    return good({**GOOD, name: b"evil"})


def swapped(kind: bytes, link: str = "") -> Members:
    """Return a good bundle in which files/a is something else than a file."""
    return [member("files/a", b"", kind, link) if info.name == "files/a" else (info, data) for info, data in good()]


def added(*more: tuple[tarfile.TarInfo, bytes]) -> Members:
    """Return a good bundle with more behind it."""
    return [*good(), *more]


EVIL: dict[str, tuple[Callable[[], Members], str]] = {
    "dots in manifest and tar": (lambda: renamed("../evil"), "leaves the bundle by '..'"),
    "dots in the middle": (lambda: renamed("files/../../evil"), "leaves the bundle by '..'"),
    "absolute": (lambda: renamed("/etc/evil"), "absolute path"),
    "a dot": (lambda: renamed("files/./evil"), "no plain relative path"),
    "two slashes": (lambda: renamed("files//evil"), "no plain relative path"),
    "a newline": (lambda: renamed("files/e\nvil"), "cannot be printed"),
    "an escape": (lambda: renamed("files/\x1b[31m"), "cannot be printed"),
    "a long part": (lambda: renamed(f"files/{'x' * 256}"), "too long"),
    "a long path": (lambda: renamed(f"files/{'x/' * 1600}x"), "too long"),
    "a file of no item": (lambda: renamed("other/evil"), "belongs to no item"),
    "a file and a folder": (lambda: renamed("files/a/evil"), "a file and a folder"),
    "the manifest itself": (lambda: renamed("manifest.json"), "twice"),
    "dots in the tar only": (lambda: added(member("../evil", b"x")), "leaves the bundle by '..'"),
    "absolute in the tar only": (lambda: added(member("/etc/evil", b"x")), "absolute path"),
    "a symbolic link": (lambda: swapped(tarfile.SYMTYPE, "/etc/passwd"), "'files/a' in it is a symbolic link"),
    "a hard link": (lambda: swapped(tarfile.LNKTYPE, "files/sub/b"), "is a hard link"),
    "a character device": (lambda: swapped(tarfile.CHRTYPE), "is a device node"),
    "a block device": (lambda: swapped(tarfile.BLKTYPE), "is a device node"),
    "a pipe": (lambda: swapped(tarfile.FIFOTYPE), "is a named pipe"),
    "a directory": (lambda: swapped(tarfile.DIRTYPE), "is a directory"),
    "a sparse file": (lambda: swapped(tarfile.GNUTYPE_SPARSE), "something else than a file"),
    "a link behind the end of the manifest": (lambda: added(member("files/l", b"", tarfile.SYMTYPE, "/")), "is a symbolic link"),
    "an entry of no manifest": (lambda: added(member("files/c", b"x")), "'files/c' is not in its manifest"),
    "an entry twice": (lambda: added(member("files/a", GOOD["files/a"])), "'files/a' stands in it twice"),
    "the manifest twice": (lambda: [good()[0], *good()], "'manifest.json' stands in it twice"),
    "an entry missing": (lambda: without(good(), "files/sub/b"), "'files/sub/b' of its manifest is missing"),
    "no manifest": (lambda: without(good(), "manifest.json"), "does not begin with its manifest"),
    "another order": (lambda: [good()[0], *reversed(good()[1:])], "not where it belongs"),
    "other content": (lambda: [*good()[:1], member("files/a", b"ALPHA\n"), good()[2]], "'files/a' in it is not what was packed"),
    "another size": (lambda: [*good()[:1], member("files/a", b"alpha\n\n"), good()[2]], "has 7 bytes, and its manifest says 6"),
    "a path twice": (lambda: good(files=[*document(GOOD)["files"], document(GOOD)["files"][0]]), "'files/a' stands in it twice"),
    "an unknown kind": (lambda: good(items=[{**document(GOOD)["items"][0], "kind": "rpm"}]), "the kind 'rpm' is not known"),
    "a root with dots": (lambda: good(items=[{**document(GOOD)["items"][0], "root": ".."}]), "the folder '..'"),
    "two items in a root": (lambda: good(items=document(GOOD)["items"] * 2), "share a folder"),
    "a negative size": (lambda: good(files=[{"path": "files/a", "size": -1, "sha256": "0" * 64}]), "the size -1"),
    "a size that is none": (lambda: good(files=[{"path": "files/a", "size": "6", "sha256": "0" * 64}]), "the size '6'"),
    "a sum that is none": (lambda: good(files=[{"path": "files/a", "size": 6, "sha256": "0"}]), "the SHA-256 '0'"),
    "no items": (lambda: [member("manifest.json", b'{"format": 1}')], "'items' is missing"),
    "no JSON": (lambda: [member("manifest.json", b"<html>")], "its manifest is no JSON"),
    "JSON of another": (lambda: [member("manifest.json", b"[]")], "none of ours"),
    "deep JSON": (lambda: [member("manifest.json", b"[" * 100_000)], "no JSON"),
    "a later format": (lambda: [member("manifest.json", b'{"format": 99}')], "format 99"),
}  # fmt: skip


@pytest.mark.parametrize("case", EVIL)
@pytest.mark.parametrize("form", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT], ids=["gnu", "pax"])
def test_an_evil_bundle_is_refused(case: str, form: int, tmp_path: Path) -> None:
    """One sentence says what is wrong, the reason is `damaged`, and verifying wrote nothing."""
    members, why = EVIL[case]
    path = write(tmp_path / "x.tar.zst", tarred(members(), form))
    with pytest.raises(Refused) as refused:
        verify(str(path))
    assert refused.value.reason is Reason.DAMAGED
    assert why in refused.value.message
    assert refused.value.message.endswith("Nothing was unpacked.")
    assert os.listdir(tmp_path) == ["x.tar.zst"]


def test_a_good_bundle_is_verified(tmp_path: Path) -> None:
    """The same rig without a fault passes, in both dialects of tar; GNU tar reads it too."""
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found = verify(str(write(tmp_path / "x.tar.zst", tarred(good(), form))))
        assert [entry.path for entry in found.manifest.entries] == list(GOOD)
        assert found.manifest.size == sum(map(len, GOOD.values()))
    listed = subprocess.run(["tar", "--zstd", "-tf", tmp_path / "x.tar.zst"], capture_output=True, text=True, check=True)
    assert listed.stdout.split() == ["manifest.json", *GOOD]


def test_names_of_any_length_that_a_disk_takes_are_allowed(tmp_path: Path) -> None:
    """A path of 255-byte parts, with letters of two bytes, goes through an extended header of either dialect."""
    name = f"files/{'ä' * 120}/{'y' * 250}"
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        found = verify(str(write(tmp_path / "x.tar.zst", tarred(good({name: b"x"}), form))))
        assert [entry.path for entry in found.manifest.entries] == [name]


def test_every_truncation_is_refused(tmp_path: Path) -> None:
    """Cut anywhere, even between two frames or before the last block of the tar, a bundle is refused."""
    tar = tarred(good())
    blocks = [zstandard.ZstdCompressor(write_checksum=True).compress(tar[at : at + 512]) for at in range(0, len(tar), 512)]
    whole = b"".join(blocks)
    path = tmp_path / "x.tar.zst"
    path.write_bytes(whole)
    assert verify(str(path)).packed_bytes == len(whole)
    end = 512 * (1 + -(-len(tar.rstrip(b"\0")) // 512))  # the first block of zeros is the end already
    at, ends = 0, []
    for number, block in enumerate(blocks, 1):
        at += len(block)
        ends += [at] if number * 512 < end else []
    for size in [*ends, *range(0, ends[-1], 7)]:
        path.write_bytes(whole[:size])
        with pytest.raises(Refused, match=r"ends in the middle|broken"):
            verify(str(path))


def test_every_flipped_byte_is_refused(tmp_path: Path) -> None:
    """A bit that was turned anywhere in the compressed bytes is found, by Zstandard's own sum or by ours."""
    whole = write(tmp_path / "x.tar.zst", tarred(good())).read_bytes()
    sums = zstandard.ZstdCompressor(write_checksum=True).compress(tarred(good()))
    assert verify(str(tmp_path / "x.tar.zst"))
    for plain, step in ((whole, 1), (sums, 5)):
        for at in range(0, len(plain), step):
            (tmp_path / "x.tar.zst").write_bytes(plain[:at] + bytes([plain[at] ^ 0x10]) + plain[at + 1 :])
            try:
                found = verify(str(tmp_path / "x.tar.zst"))
            except Refused:
                continue
            # A flip in a header of the frame or of the tar that changes nothing of what is unpacked is none.
            assert [(e.path, e.sha256) for e in found.manifest.entries] == [(e.path, e.sha256) for e in _good().manifest.entries]


def _good() -> Verified:
    raw = good()[0][1]
    return Verified((), manifest.parse(raw, "x"), manifest.fingerprint(raw), 0)


@pytest.mark.parametrize(
    "data", [b"", b"<html>not found</html>", b"\x28\xb5\x2f\xfd", bytes(4096)], ids=["empty", "html", "magic", "zeros"]
)
def test_what_is_no_bundle_is_refused(data: bytes, tmp_path: Path) -> None:
    """An error page of a mirror, an empty file, a file of zeros."""
    (tmp_path / "x.tar.zst").write_bytes(data)
    with pytest.raises(Refused, match=r"Cannot trust .*x\.tar\.zst'"):
        verify(str(tmp_path / "x.tar.zst"))


def test_more_behind_the_end_is_refused(tmp_path: Path) -> None:
    """Neither a second tar nor bytes after the last frame are let through."""
    path = write(tmp_path / "x.tar.zst", tarred(good()) + tarred([member("evil", b"x")]))
    with pytest.raises(Refused, match="more behind its end"):
        verify(str(path))
    write(path, tarred(good()))
    with path.open("ab") as file:
        file.write(b"more")
    with pytest.raises(Refused, match=r"broken|more"):
        verify(str(path))


def test_a_header_of_a_huge_size_takes_no_memory(tmp_path: Path) -> None:
    """A long name of a gigabyte, or a manifest of one, is refused by its header."""
    for kind, why in (
        (tarfile.GNUTYPE_LONGNAME, "unlikely size"),
        (tarfile.XHDTYPE, "unlikely size"),
        (tarfile.REGTYPE, "manifest"),
    ):
        info = tarfile.TarInfo("manifest.json")
        info.type, info.size = kind, 1 << 30
        path = write(tmp_path / "x.tar.zst", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        with pytest.raises(Refused, match=why):
            verify(str(path))


def test_a_frame_that_wants_gigabytes_is_refused(tmp_path: Path) -> None:
    """The window of a frame is the memory that reading takes; ours needs 128 MiB at the most."""
    parameters = zstandard.ZstdCompressionParameters(window_log=29, enable_ldm=True)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    (tmp_path / "x.tar.zst").write_bytes(compressor.compress(tarred(good())) + compressor.flush())
    with pytest.raises(Refused, match="broken"):
        verify(str(tmp_path / "x.tar.zst"))


def test_another_bundle_in_its_place_is_refused(tmp_path: Path) -> None:
    """A bundle that is whole, but not the one of which pack printed the sum, is refused by `expected`."""
    found = verify(str(write(tmp_path / "x.tar.zst", tarred(good()))))
    assert verify(str(tmp_path / "x.tar.zst"), found.fingerprint.upper())
    write(tmp_path / "x.tar.zst", tarred(good({"files/a": b"other"})))
    with pytest.raises(Refused, match="was asked for"):
        verify(str(tmp_path / "x.tar.zst"), found.fingerprint)


def test_parts_are_found_and_missed(tmp_path: Path) -> None:
    """Any part or the name without number means all of them; a gap, or the last one missing, is refused by name."""
    whole = write(tmp_path / "w", tarred(good())).read_bytes()
    (tmp_path / "w").unlink()
    size = len(whole) // 3 + 1
    for number in range(3):
        (tmp_path / f"x.tar.zst.00{number + 1}").write_bytes(whole[number * size : (number + 1) * size])
    for name in ("x.tar.zst", "x.tar.zst.001", "x.tar.zst.003"):
        assert len(verify(str(tmp_path / name)).files) == 3
    (tmp_path / "x.tar.zst.003").rename(tmp_path / "away")
    with pytest.raises(Refused, match="its last part is missing"):
        verify(str(tmp_path / "x.tar.zst"))
    (tmp_path / "away").rename(tmp_path / "x.tar.zst.003")
    (tmp_path / "x.tar.zst.002").unlink()
    with pytest.raises(Refused, match=r"part 'x\.tar\.zst\.002' is missing"):
        verify(str(tmp_path / "x.tar.zst.001"))


def test_the_list_of_sums_names_the_damaged_part(tmp_path: Path) -> None:
    """With the list beside it, the part to copy again is named, also the last one that is missing."""
    whole = write(tmp_path / "w", tarred(good())).read_bytes()
    for number, data in enumerate((whole[:300], whole[300:]), 1):
        (tmp_path / f"x.tar.zst.00{number}").write_bytes(data)
    sums = subprocess.run("sha256sum x.tar.zst.00? > x.tar.zst.sha256", shell=True, cwd=tmp_path, check=False)
    assert sums.returncode == 0
    assert verify(str(tmp_path / "x.tar.zst"))
    (tmp_path / "x.tar.zst.001").write_bytes(whole[:200] + b"!" + whole[201:300])
    with pytest.raises(Refused, match=r"'x\.tar\.zst\.001' is damaged"):
        verify(str(tmp_path / "x.tar.zst"))
    (tmp_path / "x.tar.zst.001").write_bytes(whole[:300])
    (tmp_path / "x.tar.zst.002").unlink()
    with pytest.raises(Refused, match=r"'x\.tar\.zst\.002' is missing"):
        verify(str(tmp_path / "x.tar.zst"))


def test_what_is_not_there_or_no_file_is_said(tmp_path: Path) -> None:
    """A missing bundle, a folder, one that is still being packed, a pipe."""
    for name, why in (
        ("nowhere.tar.zst", "not there"),
        (".", "a directory"),
        ("half.tar.zst", "not packed to the end"),
        ("pipe", "no regular file"),
    ):
        if name.startswith("half"):
            (tmp_path / f"{name}.partial").touch()
        if name == "pipe":
            os.mkfifo(tmp_path / name)
        with pytest.raises(SurvivedError, match=why):
            verify(str(tmp_path / name))


def test_the_manifest_reads_what_it_writes() -> None:
    """dump and parse are inverse, whatever is in the facts and in a title."""
    raw = json.dumps(document({"files/ä b": b"x"}, maker="ü\udcff")).encode()
    found = manifest.parse(raw, "x")
    assert manifest.parse(found.dump(), "x") == found
    assert names.why_bad("files/ä b") is None
