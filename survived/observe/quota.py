"""
Quotas: what one user has and may have on a filesystem, by quotactl; ext4, xfs and whatever else keeps the kernel's own.

The kernel tells everybody his own figures, and root everybody's. Network filesystems have quotas that only their server
knows, and btrfs none of users. Besides `act/fs.py` the only user of ctypes: no library that we have makes this call.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct

from survived.findings import Quota

_QUOTACTL_FD = 443  # of Linux 5.14; one number on all machines but alpha
_USER = 0
_GET_QUOTA = 0x800007
_GET_STATE = (ord("X") << 8) + 5  # Q_XGETQSTAT: answered for ext4 too
_USER_ENFORCED = 1 << 1
_IF_DQBLK = struct.Struct("=8QI4x")
_LIMIT_UNIT = 1024
_STATE_BYTES, _STATE_FLAGS = 128, struct.Struct("=bxH")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.syscall.restype = ctypes.c_long


def read_quota(path: str, device: str, uid: int) -> Quota | None:
    """
    Return the quota of `uid` on the filesystem that holds `path`, or None where none is kept or we may not know.

    `device` is the mounted block device, for kernels that cannot be asked by path. Blocks on a dead mount.
    """
    try:
        descriptor = os.open(path, os.O_PATH | os.O_CLOEXEC)  # a mount point need not be readable
    except OSError:
        return None
    try:
        answer = _ask(descriptor, device, _GET_QUOTA, uid, _IF_DQBLK.size)
        if answer is None:
            return None
        state = _ask(descriptor, device, _GET_STATE, uid, _STATE_BYTES)
    finally:
        os.close(descriptor)
    return parse_quota(answer, state, uid)


def parse_quota(answer: bytes, state: bytes | None, uid: int) -> Quota:
    """Return a quota from the kernel's if_dqblk and, if it gave one, its fs_quota_stat."""
    hard, soft, used, hard_inodes, soft_inodes, used_inodes, until, inodes_until, _ = _IF_DQBLK.unpack(answer[: _IF_DQBLK.size])
    flags = _STATE_FLAGS.unpack(state[: _STATE_FLAGS.size])[1] if state is not None else _USER_ENFORCED
    return Quota(
        uid=uid,
        used_bytes=used,
        soft_bytes=soft * _LIMIT_UNIT,
        hard_bytes=hard * _LIMIT_UNIT,
        used_inodes=used_inodes,
        soft_inodes=soft_inodes,
        hard_inodes=hard_inodes,
        bytes_until=until,
        inodes_until=inodes_until,
        is_enforced=bool(flags & _USER_ENFORCED),
    )


def _ask(descriptor: int, device: str, command: int, uid: int, size: int) -> bytes | None:
    """Return what quotactl fills in; None where it says no: no quota there (ESRCH, ENOSYS), not ours to know (EPERM)."""
    buffer = ctypes.create_string_buffer(size)
    number = ctypes.c_uint(command << 8 | _USER)
    with contextlib.suppress(AttributeError):  # a libc without the old call
        for by_path in (True, False):
            if by_path:
                result = _libc.syscall(
                    ctypes.c_long(_QUOTACTL_FD), ctypes.c_uint(descriptor), number, ctypes.c_uint(uid & 0xFFFFFFFF), buffer
                )
            else:
                result = _libc.quotactl(number, os.fsencode(device), ctypes.c_int(uid), buffer)
            if result == 0:
                return buffer.raw
            if ctypes.get_errno() != errno.ENOSYS:  # either the kernel or the filesystem has no such call
                return None
    return None
