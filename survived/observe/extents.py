"""Which bytes of a file are shared with other files (reflinks, snapshots), as the kernel's FIEMAP tells it."""

from __future__ import annotations

import fcntl
import os
import struct

WORTH_BLOCKS = 2048
"""Of 512 bytes, so 1 MiB: what is smaller is not asked about, which costs an open and an ioctl for each file."""
_FIEMAP = 0xC020660B
_HEAD = struct.Struct("=QQIIII")  # start, length, flags, mapped, room, reserved
_EXTENT = struct.Struct("=QQQQQIIII")  # logical, physical, length, reserved, flags, reserved
_LAST, _UNKNOWN, _INLINE, _SHARED = 0x1, 0x2, 0x200, 0x2000
_EXTENTS = 256
_MOST_CALLS = 400
_XFS_GEOMETRY, _XFS_GEOMETRY_BYTES = 0x80705864, 112
_XFS_FLAGS_AT, _XFS_REFLINK = 92, 1 << 20
_OPEN_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


def can_share(fstype: str, descriptor: int) -> bool:
    """Tell whether files on the filesystem of an open directory can share extents at all."""
    if fstype != "xfs":
        return fstype in ("btrfs", "bcachefs")
    geometry = bytearray(_XFS_GEOMETRY_BYTES)
    try:
        fcntl.ioctl(descriptor, _XFS_GEOMETRY, geometry)
    except OSError:
        return False
    return bool(int.from_bytes(geometry[_XFS_FLAGS_AT : _XFS_FLAGS_AT + 4], "little" if _IS_LITTLE else "big") & _XFS_REFLINK)


_IS_LITTLE = struct.pack("=H", 1) == b"\1\0"


def shared_ranges(path: str, dir_fd: int, inode: int) -> list[tuple[int, int]]:
    """
    Return first byte and byte after the last, on the device, of what a file shares; neighbours as one.

    Empty for what cannot be opened or asked, and for a path that is another inode. A file of more than 100,000 extents
    is read as far as that.
    """
    try:
        descriptor = os.open(path, _OPEN_FLAGS, dir_fd=dir_fd)
    except OSError:
        return []
    try:
        return _read(descriptor) if os.fstat(descriptor).st_ino == inode else []
    except OSError:  # EOPNOTSUPP, EIO
        return []
    finally:
        os.close(descriptor)


def _read(descriptor: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    buffer = bytearray(_HEAD.size + _EXTENTS * _EXTENT.size)
    start = 0
    for _ in range(_MOST_CALLS):
        _HEAD.pack_into(buffer, 0, start, (1 << 64) - 1 - start, 0, 0, _EXTENTS, 0)
        fcntl.ioctl(descriptor, _FIEMAP, buffer)
        mapped = _HEAD.unpack_from(buffer)[3]
        for number in range(mapped):
            logical, physical, length, _, _, flags, *_ = _EXTENT.unpack_from(buffer, _HEAD.size + number * _EXTENT.size)
            if flags & _SHARED and not flags & (_UNKNOWN | _INLINE):
                if found and found[-1][1] == physical:
                    found[-1] = (found[-1][0], physical + length)
                else:
                    found.append((physical, physical + length))
            start = logical + length
            if flags & _LAST:
                return found
        if mapped == 0:
            break
    return found
