"""
Durable primitives on files: exchange, sync, copy_range, remove. The only user of ctypes and of os.rename.

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
_CHUNK = 16 << 20
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


def rename_new(from_fd: int, from_name: str, to_fd: int, to_name: str) -> None:
    """Rename to a name that must not exist yet (EEXIST), and make both directories durable."""
    _rename_free(from_fd, from_name, to_fd, to_name)
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


def die_with_parent() -> None:
    """Have the calling process killed when the thread that started it ends (PR_SET_PDEATHSIG), even by kill -9."""
    _libc.prctl(1, 9, 0, 0, 0)


def is_fixed(fd: int) -> bool:
    """Tell whether the inode is immutable or append-only (chattr +i, +a); False where the filesystem has no flags."""
    try:
        flags = fcntl.ioctl(fd, _FS_IOC_GETFLAGS, b"\0" * 8)
    except OSError:
        return False
    return bool(int.from_bytes(flags[:4], "little" if struct.pack("=H", 1)[0] else "big") & _IMMUTABLE_OR_APPEND)


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


def copy_data(source_fd: int, copy_fd: int, found: os.stat_result, tick: Callable[[int], None]) -> None:
    """
    Copy a file's data, holes as holes. `tick(bytes)` is called for every chunk and may raise to stop.

    Takes what is there: a file that grows or shrinks meanwhile is caught by its ctime in the next pass.
    """
    if found.st_blocks * 512 < found.st_size:
        _copy_sparse(source_fd, copy_fd, found.st_size, tick)
    elif found.st_size < 1 << 20:
        left = found.st_size
        while left > 0 and (data := os.read(source_fd, left)):
            _write_all(copy_fd, data)
            left -= len(data)
            tick(len(data))
    else:
        _copy_range(source_fd, copy_fd, 0, found.st_size, tick)


def _copy_sparse(source_fd: int, copy_fd: int, size: int, tick: Callable[[int], None]) -> None:
    os.ftruncate(copy_fd, size)
    end = 0
    while end < size:
        try:
            begin = os.lseek(source_fd, end, os.SEEK_DATA)
            end = os.lseek(source_fd, begin, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end, or it was cut meanwhile
                return
            if error.errno != errno.EINVAL:
                raise
            begin, end = end, size  # no holes known on this filesystem
        _copy_range(source_fd, copy_fd, begin, end, tick)


def _copy_range(source_fd: int, copy_fd: int, begin: int, end: int, tick: Callable[[int], None]) -> None:
    at, in_kernel = begin, True
    while at < end:
        want = min(_CHUNK, end - at)
        if in_kernel:
            try:
                done = os.copy_file_range(source_fd, copy_fd, want, at, at)
            except OSError as error:
                # EXDEV: kernels before 5.19 between filesystems; EINVAL, ENOSYS, EOPNOTSUPP: not for this pair;
                # EPERM: a swap file or a filter of system calls.
                if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM):
                    raise
                in_kernel = False
                continue
        else:
            data = os.pread(source_fd, min(want, 1 << 20), at)
            done = len(data)
            if data:
                os.lseek(copy_fd, at, os.SEEK_SET)
                _write_all(copy_fd, data)
        if done == 0 and in_kernel:  # some FUSE filesystems copy nothing and say no word
            in_kernel = False
            continue
        if done == 0:  # shorter than it was
            return
        if want == _CHUNK:
            start_writeback(copy_fd, at, done)
        at += done
        tick(done)


def _write_all(fd: int, data: bytes) -> None:
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


def _enter(parent_fd: int, name: str, device: int, tick: Callable[[int], None]) -> tuple[int, int, str, list[str]]:
    """Open a directory of a tree that is being removed, unlink its files, and return it with its sub directories."""
    mode = os.stat(name, dir_fd=parent_fd, follow_symlinks=False).st_mode
    if mode & 0o700 != 0o700:
        os.chmod(name, 0o700, dir_fd=parent_fd)  # a directory of ours in a parent of ours: no link can be slipped in
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


def write_file(path: str, data: bytes, mode: int) -> None:
    """Put a whole file in place, durably and in one step: old content or new, never half. Makes the folder if missing."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    with opened(folder, follow=True) as folder_fd:
        fresh = f".{os.path.basename(path)}.{os.getpid()}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode, dir_fd=folder_fd)
        try:
            try:
                os.fchmod(fd, mode)
                _write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(fresh, os.path.basename(path), src_dir_fd=folder_fd, dst_dir_fd=folder_fd)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(fresh, dir_fd=folder_fd)
            raise
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
