"""
Asks the kernel who writes to a file, whoever they are and in whatever namespace, by wanting a read lease on it.
"""

from __future__ import annotations

import errno
import fcntl
import os
import signal


def is_written(name: str, dir_fd: int) -> bool:
    """
    Tell whether any process has a file open for writing or mapped so, and give it a new ctime then.

    For a page that is dirty already takes stores without one. A read lease is given only where nobody may write, whoever
    they are and in whatever namespace; only an owner, or root, may ask. A file that gives none for another reason (another
    owner, no leases on its filesystem) is taken for unwritten.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dir_fd)
    except OSError:
        return False
    try:
        # Whoever opens it to write meanwhile waits for us, and we get a signal: by default one that ends the process.
        fcntl.fcntl(fd, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as error:
        if error.errno != errno.EAGAIN or not _has_leases(fd):
            return False
        info = os.fstat(fd)
        os.utime(fd, ns=(info.st_atime_ns, info.st_mtime_ns))
        return True
    finally:
        os.close(fd)
    return False


def _has_leases(fd: int) -> bool:
    """Tell whether a filesystem gives leases: NFS says EAGAIN to all, as others do for a file that is written."""
    name = os.readlink(f"/proc/self/fd/{fd}")
    try:
        probe_fd = os.open(os.path.dirname(name), os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    except OSError:
        return True  # not to be had: a guess that costs a wait, and no data
    try:
        again_fd = os.open(f"/proc/self/fd/{probe_fd}", os.O_RDONLY | os.O_CLOEXEC)
    finally:
        os.close(probe_fd)
    try:
        fcntl.fcntl(again_fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError:
        return False
    finally:
        os.close(again_fd)
    return True
