"""
Owner, extended attributes, mode and times of one entry, given to its copy, in the one order in which they all stay.

A file is an open descriptor, or a path for what cannot be opened (links, FIFOs, sockets); a link is never followed.
"""

from __future__ import annotations

import errno
import os
import stat

from survived.terms import Reason

_ACL = "system.posix_acl_"
_KEPT = ("user.", _ACL, "trusted.", "security.capability")
_DOUBLE = "trusted.SGI_ACL_"  # how xfs shows root its ACLs a second time
_ATTRIBUTES_BYTES = 1 << 20  # far more than the attributes of one file take: the kernel's limit is 64 KiB a value


class Unkept(Exception):  # noqa: N818  not an error of ours: whoever knows the path makes the refusal of it
    """Something that the copy's filesystem, or our rights, do not let us keep."""

    def __init__(self, reason: Reason, why: str) -> None:
        super().__init__(why)
        self.reason, self.why = reason, why


def give(source: int | str, copy: int | str, info: os.stat_result, *, strip: bool) -> None:
    """
    Give `copy` what `source` has; with `strip` also take away the attributes that only the copy has.

    chown clears setuid, an ACL changes the mode, and all of them change the times. Raises `Unkept`.
    """
    follow = isinstance(copy, int)
    there, touched = os.stat(copy, follow_symlinks=follow), False
    if (there.st_uid, there.st_gid) != (info.st_uid, info.st_gid):
        try:
            os.chown(copy, info.st_uid, info.st_gid, follow_symlinks=follow)
        except PermissionError as error:
            raise Unkept(Reason.NOT_OURS, "its owner or group is not ours to give") from error
        touched = True
    touched = _give_xattrs(source, copy, strip=strip) or touched
    if not stat.S_ISLNK(info.st_mode):
        mode = os.stat(copy, follow_symlinks=follow).st_mode if touched else there.st_mode
        if stat.S_IMODE(mode) != stat.S_IMODE(info.st_mode):
            os.chmod(copy, stat.S_IMODE(info.st_mode))
    os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns), follow_symlinks=follow)


def give_new(source: int, copy: int, info: os.stat_result) -> os.stat_result:
    """
    Give an open file what `source` has, as `give` does, and return what it is then.

    Made with its mode, by us and in a folder without default ACLs, mostly all that it lacks are its times.
    """
    if not _list_kept(source):
        os.utime(copy, ns=(info.st_atime_ns, info.st_mtime_ns))
        there = os.fstat(copy)
        if is_alike(info, there):
            return there
    give(source, copy, info, strip=False)
    return os.fstat(copy)


def is_alike(info: os.stat_result, there: os.stat_result) -> bool:
    """Tell whether two files have the same kind, mode, owner and times."""
    return (
        info.st_mtime_ns == there.st_mtime_ns
        and info.st_mode == there.st_mode
        and info.st_uid == there.st_uid
        and info.st_gid == there.st_gid
    )


def has_same_xattrs(one: int, other: int) -> bool:
    """Tell whether two open files have the same of those extended attributes that a copy keeps, ACLs among them."""
    names = _list_kept(one)
    if sorted(names) != sorted(_list_kept(other)):
        return False
    try:
        return all(os.getxattr(one, name) == os.getxattr(other, name) for name in names)
    except OSError:  # removed this moment
        return False


def drop_acls(fd: int) -> None:
    """Take away the ACLs that a directory got from the default ACL of its own folder, which would go on to all in it."""
    for name in _list_kept(fd):
        if name.startswith(_ACL):
            os.removexattr(fd, name)


def _give_xattrs(source: int | str, copy: int | str, *, strip: bool) -> bool:
    """Return whether anything was given or taken."""
    names = _list_kept(source)
    stale = [name for name in _list_kept(copy) if name not in names] if strip else []
    name = ""
    try:
        for name in names:
            value = os.getxattr(source, name, follow_symlinks=isinstance(source, int))
            os.setxattr(copy, name, value, follow_symlinks=isinstance(copy, int))
        for name in stale:
            os.removexattr(copy, name, follow_symlinks=isinstance(copy, int))
    except OSError as error:
        # ENOTSUP: no xattrs or ACLs there; EPERM: trusted.* and capabilities without root; E2BIG, ERANGE: too long.
        if error.errno in (errno.EOPNOTSUPP, errno.EPERM, errno.E2BIG, errno.ERANGE) or (
            error.errno == errno.ENOSPC and _has_room(copy)
        ):
            raise Unkept(Reason.UNFAITHFUL, f"its extended attribute {name} cannot be kept there") from error
        if error.errno != errno.ENODATA:  # removed meanwhile, which the next pass sees
            raise
    return bool(names or stale)


def _has_room(file: int | str) -> bool:
    """Tell whether ENOSPC means that one inode's attributes are full (ext4 gives them a block), and not the filesystem."""
    found = os.statvfs(file if isinstance(file, int) else os.path.dirname(file))
    return min(found.f_bavail, found.f_bfree) * found.f_frsize > _ATTRIBUTES_BYTES


def _list_kept(file: int | str) -> list[str]:
    try:
        names = os.listxattr(file) if isinstance(file, int) else os.listxattr(file, follow_symlinks=False)
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
            return []
        raise
    return names and [name for name in names if name.startswith(_KEPT) and not name.startswith(_DOUBLE)]
