"""One faithful pass, repeated passes, and what a pass makes of a tree that changes under it."""

from __future__ import annotations

import mmap
import os
import resource
import shutil
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from survived.act import comparing, fs
from survived.act.copying import Pass, TreeCopy
from survived.errors import Refused, Stopped
from survived.model import Reason
from survived.observe.disks import read_filesystem
from tests.unit.engine import child, contents, nasty_tree, other_filesystem, snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Pair:
    """A source and a copy on two filesystems, and the copier between them."""

    def __init__(self, source: Path, copy: Path) -> None:
        self.source, self.copy = source, copy
        self._fds: list[int] = []
        self._copier: TreeCopy | None = None
        self._tick: Callable[[int, int], None] = lambda *_: None

    def run(self, tick: Callable[[int, int], None] = lambda *_: None) -> Pass:
        """Run one pass of the same copier."""
        if self._copier is None:
            self._fds = [os.open(path, fs.DIRECTORY) for path in (self.source, self.copy)]
            one, other = self._fds
            self._copier = TreeCopy(one, other, str(self.source), lambda size, entries: self._tick(size, entries))
        self._tick = tick
        return self._copier.run_pass()

    def settle(self) -> Pass:
        """Run passes until one finds nothing, as `copy_settled` does, and return that one."""
        for _ in range(5):
            time.sleep(0.021)
            if (found := self.run()).copied == 0:
                return found
        raise AssertionError("the copy never becomes faithful")

    def close(self) -> None:
        """Close the directories."""
        for fd in self._fds:
            os.close(fd)

    def check(self) -> None:
        """Assert that the copy is the source in everything."""
        self.settle()
        assert snapshot(self.copy) == snapshot(self.source)


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[Pair]:
    """Yield an empty source and an empty copy elsewhere."""
    with other_filesystem(tmp_path) as folder:
        made = Pair(tmp_path / "source", folder / "copy")
        made.source.mkdir()
        made.copy.mkdir(mode=0o700)
        yield made
        made.close()


def test_one_pass_is_faithful(pair: Pair) -> None:
    """One pass copies modes, owners, times, attributes, links, holes, FIFOs and odd names of a quiet tree."""
    pair.source.rmdir()
    nasty_tree(pair.source)
    found = pair.run()
    assert snapshot(pair.copy) == snapshot(pair.source)
    assert found.files == 9


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


def test_a_change_that_hides_is_found(pair: Pair) -> None:
    """A change of the same size whose mtime was put back is found by the ctime."""
    file = pair.source / "f"
    file.write_text("one")
    info = file.stat()
    pair.settle()
    file.write_text("two")
    os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
    assert pair.run().copied == 1
    assert (pair.copy / "f").read_text() == "two"


def test_a_change_in_the_tick_of_the_copy_is_found(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that changed in the same tick of a coarse clock in which it was copied is copied again: its ctime would not tell."""
    file = pair.source / "f"
    file.write_text("one")
    info = file.stat()
    monkeypatch.setattr(time, "time_ns", lambda: info.st_ctime_ns + 1_000_000)
    pair.run()
    monkeypatch.undo()
    (pair.copy / "f").write_text("old")  # what the copy would have if the change came right after it
    os.utime(pair.copy / "f", ns=(info.st_atime_ns, info.st_mtime_ns))
    assert pair.run().copied >= 1
    assert (pair.copy / "f").read_text() == "one"


def test_a_write_through_a_mapping_is_found(pair: Pair) -> None:
    """A second write to a page that is mapped and dirty already is found, though only the first one sets the ctime."""
    (pair.source / "f").write_bytes(b"0" * 4096)
    if read_filesystem(str(pair.source)).fstype not in {"ext4", "xfs", "btrfs"}:
        pytest.skip("needs a source on a filesystem that tracks writes through mappings")
    with open(pair.source / "f", "r+b") as file:
        page = mmap.mmap(file.fileno(), 4096)
    with child(lambda: page.__setitem__(slice(0, 5), b"first"), lambda: page.__setitem__(slice(0, 5), b"later")) as step:
        page.close()
        pair.run()
        step()
    pair.settle()
    assert (pair.copy / "f").read_bytes()[:5] == b"later"


def _file_to_directory(root: Path) -> None:
    (root / "a").unlink()
    (root / "a").mkdir()
    (root / "a/below").write_text("x")


def _directory_to_link(root: Path) -> None:
    shutil.rmtree(root / "d")
    os.symlink("a", root / "d")


def _link_to_file(root: Path) -> None:
    (root / "s").unlink()
    (root / "s").write_text("a file now")


def _break_link(root: Path) -> None:
    (root / "one").unlink()
    (root / "one").write_text("alone")


CHANGES: dict[str, Callable[[Path], object]] = {
    "deletion": lambda root: (root / "a").unlink(),
    "deletion of a directory": lambda root: shutil.rmtree(root / "d"),
    "file to directory": _file_to_directory,
    "directory to link": _directory_to_link,
    "link to file": _link_to_file,
    "rename": lambda root: (root / "a").rename(root / "d/e/renamed"),
    "rename of a directory": lambda root: (root / "d").rename(root / "moved"),
    "names swapped": lambda root: [(root / one).rename(root / other) for one, other in ("at", "ba", "tb")],
    "hard link added": lambda root: os.link(root / "a", root / "d/another"),
    "hard link removed": lambda root: (root / "one").unlink(),
    "hard link broken": _break_link,
    "mode": lambda root: (root / "a").chmod(0o4711),
    "mode of a directory": lambda root: (root / "d").chmod(0o555),
    "attribute": lambda root: os.setxattr(root / "a", "user.x", b"1"),
    "attribute of the root": lambda root: os.setxattr(root, "user.x", b"1"),
    "growth": lambda root: (root / "a").write_text("much longer than before"),
    "a hole is punched": lambda root: os.truncate(root / "a", 1 << 20),
    "all gone": lambda root: subprocess.run(["find", root, "-mindepth", "1", "-delete"], check=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_between_passes_are_followed(pair: Pair, change: str) -> None:
    """Whatever changed since the last pass is brought over by the next ones."""
    root = pair.source
    (root / "d/e").mkdir(parents=True)
    for name in ("a", "b", "d/f", "d/e/g", "one"):
        (root / name).write_text(name)
    os.link(root / "one", root / "two")
    os.symlink("a", root / "s")
    pair.run()
    CHANGES[change](root)
    assert pair.run().copied + pair.run().copied > 0 or change.endswith("root")
    pair.check()


def test_a_source_that_vanishes_midway(pair: Pair) -> None:
    """Entries that vanish, or become something else, while a pass runs do no harm; a later pass has the truth."""
    for number in range(40):
        (pair.source / f"{number:02}").mkdir()
        (pair.source / f"{number:02}/f").write_text("x")
        (pair.source / f"f{number:02}").write_text("y")
    seen = 0

    def disturb(_size: int, _entries: int) -> None:
        nonlocal seen
        seen += 1
        if seen == 20:
            for name in sorted(os.listdir(pair.source))[5:60]:
                path = pair.source / name
                if path.is_dir():
                    shutil.rmtree(path)
                    path.write_text("was a directory")
                else:
                    path.unlink()
                    path.mkdir()

    pair.run(disturb)
    pair.check()
    assert len(contents(pair.copy)) > 40


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
