"""One faithful pass: everything that an entry has, whatever its name, size and depth."""

from __future__ import annotations

import os
import resource
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import comparing, fs
from survived.errors import Refused, Stopped
from survived.model import Reason
from tests.unit.engine import nasty_tree, snapshot
from tests.unit.pairs import Pair

if TYPE_CHECKING:
    from collections.abc import Callable


def test_one_pass_is_faithful(pair: Pair) -> None:
    """One pass copies modes, owners, times, attributes, links, holes, FIFOs and odd names of a quiet tree."""
    pair.source.rmdir()
    nasty_tree(pair.source)
    found = pair.run()
    assert snapshot(pair.copy) == snapshot(pair.source)
    assert found.files == 9


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777], ids=oct)
def test_modes_are_kept_whatever_the_umask(pair: Pair, umask: int) -> None:
    """What the umask takes from a file as it is made is given back, down to files that nobody may read or write."""
    for mode in (0o000, 0o400, 0o444, 0o600, 0o644, 0o755, 0o777, 0o2755, 0o4711, 0o1666):
        (pair.source / oct(mode)).write_text("x")
        (pair.source / oct(mode)).chmod(mode)
    before = os.umask(umask)
    try:
        pair.run()
    finally:
        os.umask(before)
    assert snapshot(pair.copy) == snapshot(pair.source)


def test_later_passes_find_nothing(pair: Pair) -> None:
    """A pass over a quiet tree that was copied finds nothing to mend and counts the same."""
    pair.source.rmdir()
    nasty_tree(pair.source)
    first, second, third = pair.run(), pair.settle(), pair.run()
    assert (second.copied, third.copied) == (0, 0)
    assert (first.files, first.size_bytes) == (third.files, third.size_bytes)
    assert third.target_mark_ns >= max(info.st_ctime_ns for info in map(os.lstat, _below(pair.copy)))


def _below(root: Path) -> list[str]:
    return [os.path.join(folder, name) for folder, folders, files in os.walk(root) for name in folders + files]


@pytest.mark.parametrize("mode", [0o4755, 0o2755, 0o6511, 0o400, 0o666, 0o1777 & 0o777 | 0o1000])
def test_modes(pair: Pair, mode: int) -> None:
    """Every mode of a file arrives, setuid, setgid and sticky too."""
    (pair.source / "f").write_text("x")
    (pair.source / "f").chmod(mode)
    pair.check()


@pytest.mark.parametrize("mode", [0o555, 0o1777, 0o2775, 0o500])
def test_directory_modes(pair: Pair, mode: int) -> None:
    """Every mode of a directory arrives, one that lets nobody write included, and later changes in it are followed."""
    for folder in (pair.source, pair.source / "d"):
        folder.mkdir(exist_ok=True)
        (folder / "f").write_text("x")
    (pair.source / "d").chmod(mode)
    pair.source.chmod(mode)
    pair.run()
    for folder in (pair.source, pair.source / "d"):
        folder.chmod(0o700)
        (folder / "late").write_text("y")
        folder.chmod(mode)
    pair.check()
    pair.source.chmod(0o700)


def test_attributes_and_acls(pair: Pair) -> None:
    """User attributes and ACLs arrive, default ACLs too, and what is made below such a directory later gets nothing extra."""
    folder = pair.source / "d"
    folder.mkdir()
    (folder / "f").write_text("x")
    os.setxattr(folder / "f", "user.empty", b"")
    os.setxattr(folder, "user.big", b"b" * 1000)
    for arguments in (["-d", "-m", "u:1:rwx"], ["-m", "g:2:rx"]):
        subprocess.run(["setfacl", *arguments, folder], check=True)
    subprocess.run(["setfacl", "-m", "u:3:r", folder / "f"], check=True)
    pair.check()
    plain = pair.source / "plain"
    plain.write_text("made elsewhere")
    plain.rename(folder / "moved")  # has no ACL, whereas what is created here inherits one
    os.mkfifo(pair.source / "pipe")
    (pair.source / "pipe").rename(folder / "pipe")
    (pair.source / "below").mkdir()
    (pair.source / "below").rename(folder / "below")
    os.removexattr(folder / "f", "user.empty")
    pair.check()


def test_the_copy_inherits_no_acl(pair: Pair) -> None:
    """A default ACL where the copy is made does not get onto what is copied."""
    pair.source.rmdir()
    nasty_tree(pair.source)
    subprocess.run(["setfacl", "-d", "-m", "u:1:rwx", pair.copy.parent], check=True)
    pair.copy.rmdir()
    pair.copy.mkdir(mode=0o700)
    pair.check()


def test_an_acl_of_a_fifo(pair: Pair) -> None:
    """A FIFO has an ACL too."""
    os.mkfifo(pair.source / "pipe", 0o600)
    subprocess.run(["setfacl", "-m", "u:3:rw", pair.source / "pipe"], check=True)
    pair.check()


def test_hard_links(pair: Pair, tmp_path: Path) -> None:
    """Links inside are links again, across directories; an inode with a link outside is copied and not reclaimable."""
    for name in ("a", "b"):
        (pair.source / name).mkdir()
    (pair.source / "a/one").write_bytes(b"1" * 8192)
    os.link(pair.source / "a/one", pair.source / "b/two")
    os.link(pair.source / "a/one", pair.source / "three")
    os.symlink("x", pair.source / "link")
    os.link(pair.source / "link", pair.source / "b/link", follow_symlinks=False)
    before = pair.run()
    pair.check()
    os.link(pair.source / "a/one", tmp_path / "outside")
    after = pair.settle()
    assert after.size_bytes == before.size_bytes
    assert after.reclaimable_bytes == before.reclaimable_bytes - os.stat(pair.source / "three").st_blocks * 512
    pair.check()


def test_holes(pair: Pair) -> None:
    """Holes stay holes, in a file of 1 TB too, which is copied in no time."""
    for name, size, data in (("some", 5 << 20, 2 << 20), ("none", 1 << 20, None), ("huge", 1 << 40, 1 << 39)):
        with open(pair.source / name, "wb") as file:
            file.truncate(size)
            if data is not None:
                file.seek(data)
                file.write(b"x" * 5000)
    began = time.monotonic()
    pair.check()
    assert time.monotonic() - began < 5
    assert os.stat(pair.copy / "huge").st_blocks < 100


def test_special_files_and_links(pair: Pair) -> None:
    """FIFOs, stale sockets and links of every sort are copied as what they are."""
    os.mkfifo(pair.source / "fifo", 0o604)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(pair.source / "sock"))
    for number, to in enumerate(("dangling", "/", "fifo", "..", "d" * 1000)):
        os.symlink(to, pair.source / f"link{number}")
    os.utime(pair.source / "link0", ns=(5, 7), follow_symlinks=False)
    pair.check()


def test_odd_names(pair: Pair) -> None:
    """Names are bytes: not UTF-8, newlines, 255 bytes, only spaces."""
    root = os.fsencode(pair.source)
    for name in (b"\xff\xfe", b"a\nb", b"n" * 255, b" ", b"-rf", "é".encode() * 127, b"\\012"):
        Path(os.fsdecode(root + b"/" + name)).write_bytes(name)
        os.mkdir(root + b"/" + name[:250] + b"~")
    pair.check()


def test_a_path_longer_than_path_max(pair: Pair) -> None:
    """Depth is not limited by PATH_MAX."""
    try:
        _deep(pair.source, "n" * 240, 20, lambda fd: os.close(os.open("end", os.O_CREAT | os.O_WRONLY, 0o600, dir_fd=fd)))
        pair.check()
    finally:
        _remove_deep(pair.source, pair.copy)


def _deep(root: Path, name: str, depth: int, end: Callable[[int], None]) -> None:
    fd = os.open(root, fs.DIRECTORY)
    for _ in range(depth):
        os.mkdir(name, dir_fd=fd)
        deeper = os.open(name, fs.DIRECTORY, dir_fd=fd)
        os.close(fd)
        fd = deeper
    end(fd)
    os.close(fd)


def _remove_deep(*roots: Path) -> None:
    for root in roots:  # pytest's own cleaning fails on such depth
        subprocess.run(["rm", "-rf", root], check=True)
        root.mkdir()


def test_many_levels_need_few_descriptors(pair: Pair) -> None:
    """Two thousand levels are copied with the 1024 descriptors that a login shell gives, as the hard limit allows more."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 8192:
        pytest.skip(f"the hard limit of open files is {hard}")
    try:
        _deep(pair.source, "d", 2100, lambda fd: os.symlink("end", "end", dir_fd=fd))
        resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
        fs.allow_many_descriptors()
        found = pair.run()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        _remove_deep(pair.source, pair.copy)
    assert found.files == 1


def test_many_siblings_need_few_descriptors(pair: Pair) -> None:
    """A folder with thousands of sub-directories is copied and compared with some twenty descriptors."""
    for number in range(3000):
        (pair.source / f"{number}").mkdir()
    (pair.source / "7/f").write_text("x")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 20, hard))
    try:
        pair.run()
        one, other = os.open(pair.source, fs.DIRECTORY), os.open(pair.copy, fs.DIRECTORY)
        differs = comparing.same_content(one, other, lambda *_: None)
        os.close(one)
        os.close(other)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert differs is None


@pytest.mark.parametrize("size", [0, 1, 4096, (1 << 20) - 1, 1 << 20, (16 << 20) + 12345])
def test_sizes(pair: Pair, size: int) -> None:
    """Files of every size arrive, from empty to more than one chunk."""
    (pair.source / "f").write_bytes(os.urandom(size))
    pair.check()


@pytest.mark.parametrize("in_kernel", [True, False])
def test_big_files_without_copy_file_range(pair: Pair, monkeypatch: pytest.MonkeyPatch, in_kernel: bool) -> None:
    """Where the kernel cannot copy between the two filesystems, reading and writing does, holes included."""

    def refuse(*_: object) -> int:
        raise OSError(18, "cross-device")

    if not in_kernel:
        monkeypatch.setattr(os, "copy_file_range", refuse)
    (pair.source / "big").write_bytes(os.urandom(3 << 20))
    with open(pair.source / "sparse", "wb") as file:
        file.truncate(8 << 20)
        file.seek(6 << 20)
        file.write(os.urandom(1 << 20))
    pair.check()


def test_a_stop_is_obeyed(pair: Pair) -> None:
    """What a tick raises ends the pass, in the middle of a file too."""
    (pair.source / "big").write_bytes(bytes(40 << 20))

    def stop(_size: int, _entries: int) -> None:
        raise Stopped("enough")

    with pytest.raises(Stopped):
        pair.run(stop)
    assert os.stat(pair.copy / "big").st_size < 40 << 20


def test_what_cannot_be_kept_is_refused(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """An attribute that the copy's filesystem does not take is a refusal that names it, and never a silent loss."""
    (pair.source / "f").write_text("x")
    os.setxattr(pair.source / "f", "user.note", b"1")

    def unsupported(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "setxattr", unsupported)
    with pytest.raises(Refused, match=r"'f' in it: its extended attribute user\.note cannot be kept there") as caught:
        pair.run()
    assert caught.value.reason is Reason.UNFAITHFUL


def test_same_content_reads_every_byte(pair: Pair) -> None:
    """A byte that differs is found, in the middle of a big file, behind a hole and at equal sizes and times."""
    (pair.source / "d").mkdir()
    (pair.source / "d/big").write_bytes(bytes(3 << 20))
    with open(pair.source / "sparse", "wb") as file:
        file.truncate(4 << 20)
    pair.settle()
    one, other = os.open(pair.source, fs.DIRECTORY), os.open(pair.copy, fs.DIRECTORY)
    try:
        assert comparing.same_content(one, other, lambda *_: None) is None
        for name, offset in (("d/big", (2 << 20) + 17), ("sparse", 3 << 20)):
            with open(pair.copy / name, "r+b") as file:
                file.seek(offset)
                file.write(b"!")
                file.flush()
                assert comparing.same_content(one, other, lambda *_: None) == name
                file.seek(offset)
                file.write(b"\0")
    finally:
        os.close(one)
        os.close(other)
