"""
Durable primitives on files: exchange, sync, copy_range, remove. The only user of os.rename, and the only one of ctypes that acts.

Everything works relative to an open directory and never follows a link in the last component, so that a neighbour
on a shared disk cannot lead us elsewhere by swapping a name for a link. Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import resource
import stat
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_libc = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE, _RENAME_EXCHANGE = 1, 2
_SYNC_FILE_RANGE_WRITE = 2
_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "s390x": 282, "riscv64": 30}.get(os.uname().machine)
_IOPRIO_IDLE = 3 << 13
_FS_IOC_GETFLAGS = 0x80086601 if struct.calcsize("P") == 8 else 0x80046601
_IMMUTABLE_OR_APPEND = 0x10 | 0x20
_NO_FLAGS = bytes(8)
_LOWEST = 0 if struct.pack("=H", 1)[0] else 3  # of the four bytes of flags
_NICE = 10
_ENOUGH_DESCRIPTORS = 1 << 16
DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def _check(result: int) -> None:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def _renameat2(from_fd: int, from_name: str, to_fd: int, to_name: str, flags: int) -> None:
    # glibc < 2.28 has no wrapper; every distribution with Python 3.11 has one.
    _check(_libc.renameat2(from_fd, os.fsencode(from_name), to_fd, os.fsencode(to_name), ctypes.c_uint(flags)))


def exchange(parent_fd: int, one: str, other: str) -> None:
    """
    Swap two names of one directory in one step, and make it durable: the commit point of every operation.

    EINVAL says that this filesystem cannot (NFS, old FUSE); nothing has changed then.
    """
    _renameat2(parent_fd, one, parent_fd, other, _RENAME_EXCHANGE)
    os.fsync(parent_fd)


def rename_new(from_fd: int, from_name: str, to_fd: int, to_name: str, *, durable: bool = True) -> None:
    """Rename to a name that must not exist yet (EEXIST), and make both directories durable, unless the caller syncs."""
    _rename_free(from_fd, from_name, to_fd, to_name)
    if durable:
        os.fsync(to_fd)
        os.fsync(from_fd)


def _rename_free(from_fd: int, from_name: str, to_fd: int, to_name: str) -> None:
    try:
        _renameat2(from_fd, from_name, to_fd, to_name, _RENAME_NOREPLACE)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # EINVAL: no RENAME_NOREPLACE here (NFS). Both ends are private to us, so looking first is enough.
        if exists(to_fd, to_name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), to_name) from error
        os.rename(from_name, to_name, src_dir_fd=from_fd, dst_dir_fd=to_fd)


def replace(dir_fd: int, fresh: str, name: str) -> None:
    """Put `fresh` in the place of `name` in one step; the caller syncs."""
    os.rename(fresh, name, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)


def place(dir_fd: int, fresh: str, name: str) -> None:
    """Give `fresh` a name that must be free (EEXIST) in the same directory, in one step; the caller syncs."""
    _rename_free(dir_fd, fresh, dir_fd, name)


def allow_many_descriptors() -> None:
    """Raise the soft limit of open files towards the hard one: a walk has one or two open for each level of a tree."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _ENOUGH_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


@contextlib.contextmanager
def movable(fd: int) -> Iterator[None]:
    """Let a directory of ours be moved to another folder, which takes the right to write it; its mode is put back."""
    mode = stat.S_IMODE(os.fstat(fd).st_mode)
    if mode & 0o200:
        yield
        return
    os.fchmod(fd, mode | 0o200)
    try:
        yield
    finally:
        os.fchmod(fd, mode)


def unlock_directory(name: str, parent_fd: int) -> None:
    """Give a directory mode 0700; never follows a link, for whoever may write in its folder could slip one in (ENOTDIR)."""
    fd = os.open(name, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        os.chmod(f"/proc/self/fd/{fd}", 0o700)  # fchmod takes no such descriptor
    finally:
        os.close(fd)


def sync_filesystem(fd: int) -> None:
    """Write everything of the filesystem that holds `fd` to its device; raises the EIO or ENOSPC of a lost write."""
    _check(_libc.syncfs(fd))


def start_writeback(fd: int, offset: int, count: int) -> None:
    """Ask the kernel to begin writing a range back, so that the final sync finds little; failure is harmless."""
    _libc.sync_file_range(fd, ctypes.c_int64(offset), ctypes.c_int64(count), _SYNC_FILE_RANGE_WRITE)


def set_idle_io() -> None:
    """Put the calling thread in the idle I/O class; where the kernel or the scheduler has none, nothing changes."""
    if _IOPRIO_SET is not None:
        _libc.syscall(_IOPRIO_SET, 1, 0, _IOPRIO_IDLE)


def step_back() -> None:
    """
    Let everybody else go first: the calling thread, and what it starts, in the idle I/O class and at nice 10 or more.

    Not in SCHED_IDLE: whoever holds a filesystem's journal and gets no CPU holds up everybody's fsync.
    """
    set_idle_io()
    with contextlib.suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, 0, max(_NICE, os.getpriority(os.PRIO_PROCESS, 0)))  # 0 is this thread alone


def die_with_parent() -> None:
    """Have the calling process killed when the thread that started it ends (PR_SET_PDEATHSIG), even by kill -9."""
    _libc.prctl(1, 9, 0, 0, 0)


def is_fixed(fd: int) -> bool:
    """Tell whether the inode is immutable or append-only (chattr +i, +a); False where the filesystem has no flags."""
    try:
        return fcntl.ioctl(fd, _FS_IOC_GETFLAGS, _NO_FLAGS)[_LOWEST] & _IMMUTABLE_OR_APPEND != 0
    except OSError:
        return False


def is_bound(parent_fd: int, name: str) -> bool:
    """
    Tell whether some process has the socket file `name` bound; False for a stale one, which only its file is left of.

    A datagram socket connects to it: no message comes of that, and a server of another type is not even told. What
    /proc/net/unix prints misses those bound by a relative path or in another network namespace.
    """
    import socket  # here: it takes children 5 ms that hardly any needs

    file_fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            probe.connect(f"/proc/self/fd/{file_fd}")
    except ConnectionRefusedError:
        return False
    except OSError:  # EPROTOTYPE: another type; EPERM: it talks to one peer only; EACCES: we may not write to it
        return True
    finally:
        os.close(file_fd)
    return True


def exists(parent_fd: int, name: str) -> os.stat_result | None:
    """Return the entry's own stat, or None if there is none."""
    try:
        return os.stat(name, dir_fd=parent_fd, follow_symlinks=False)
    except FileNotFoundError:
        return None


@contextlib.contextmanager
def opened(path: str, *, dir_fd: int | None = None, follow: bool = False) -> Iterator[int]:
    """Open a directory for the duration of a block; a link in the last component is refused unless `follow`."""
    fd = os.open(path, DIRECTORY & ~os.O_NOFOLLOW if follow else DIRECTORY, dir_fd=dir_fd)
    try:
        yield fd
    finally:
        os.close(fd)


def open_below(root_fd: int, relative: str, *, make: bool = False) -> int:
    """Open `relative` below a directory, component by component, no links; with `make`, missing ones are made 0700."""
    fd = os.dup(root_fd)
    try:
        for name in [part for part in relative.split("/") if part]:
            if make:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, 0o700, dir_fd=fd)
                    os.fsync(fd)
            deeper = os.open(name, DIRECTORY, dir_fd=fd)
            os.close(fd)
            fd = deeper
    except BaseException:
        os.close(fd)
        raise
    return fd


def write_all(fd: int, data: bytes) -> None:
    """Write all of it, however little the kernel takes at a time."""
    done = os.write(fd, data)
    while done < len(data):
        done += os.write(fd, memoryview(data)[done:])


def remove_tree(parent_fd: int, name: str, tick: Callable[[int], None]) -> None:
    """
    Remove an entry and everything below it; a missing one is fine, so a repeat continues.

    Never follows a link and never leaves the device. Directories that we own but may not write (0555, as Go's module
    cache has them) are made writable first. `tick(1)` is called for each entry and may raise to stop.
    """
    found = exists(parent_fd, name)
    if found is None:
        return
    if not stat.S_ISDIR(found.st_mode):
        os.unlink(name, dir_fd=parent_fd)
        return
    # A stack of open directories: [fd, the parent's fd, own name, names of sub directories still to do].
    stack: list[tuple[int, int, str, list[str]]] = [_enter(parent_fd, name, found.st_dev, tick)]
    retries = 8
    try:
        while stack:
            fd, above_fd, own_name, below = stack[-1]
            if below:
                stack.append(_enter(fd, below.pop(), found.st_dev, tick))
                continue
            stack.pop()
            os.close(fd)
            try:
                os.rmdir(own_name, dir_fd=above_fd)
            except OSError as error:
                # ENOTEMPTY: an entry came, or was missed by the listing, while we unlinked its neighbours.
                if error.errno != errno.ENOTEMPTY or retries == 0:
                    raise
                retries -= 1
                stack.append(_enter(above_fd, own_name, found.st_dev, tick))
                continue
            tick(1)
    finally:
        for fd, *_ in stack:
            os.close(fd)


def remove_branch(top_fd: int, branch: str, tick: Callable[[int], None]) -> None:
    """Remove what is at a path below an open directory as far as that goes now: whoever removes the rest comes again."""
    folder, _, name = branch.rpartition("/")
    with contextlib.suppress(OSError):  # a folder that may not be written: whoever comes last makes it writable
        folder_fd = open_below(top_fd, folder)
        try:
            remove_tree(folder_fd, name, tick)
        finally:
            os.close(folder_fd)


def _enter(parent_fd: int, name: str, device: int, tick: Callable[[int], None]) -> tuple[int, int, str, list[str]]:
    """Open a directory of a tree that is being removed, unlink its files, and return it with its sub directories."""
    mode = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode
    if mode & 0o700 != 0o700:
        unlock_directory(name, parent_fd)
    fd = os.open(name, DIRECTORY, dir_fd=parent_fd)
    try:
        if os.fstat(fd).st_dev != device:
            raise OSError(errno.EXDEV, "another filesystem is mounted here", name)
        below: list[str] = []
        with os.scandir(fd) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.name)
                else:
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(entry.name, dir_fd=fd)
                    tick(1)
    except BaseException:
        os.close(fd)
        raise
    return fd, parent_fd, name, below


def write_file(path: str, data: bytes, mode: int, *, durable: bool = True) -> None:
    """Put a whole file in place in one step, and durably: old content or new, never half. Makes the folder if missing."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with opened(folder, follow=True) as folder_fd:
        fresh = f".{os.path.basename(path)}.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder_fd)
        try:
            try:
                os.fchmod(fd, mode)
                write_all(fd, data)
                if durable:
                    os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(fresh, os.path.basename(path), src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=folder_fd)
            raise
        if durable:
            os.fsync(folder_fd)


def remove_file(path: str) -> bool:
    """Remove one file or link and make that durable; return False if there was none."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        return False
    with opened(os.path.dirname(path), follow=True) as fd:
        os.fsync(fd)
    return True
