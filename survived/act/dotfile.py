"""
One settings file of a user: read through links, and put in place whole, or left exactly as it was.

A symlinked file (chezmoi, stow, a dotfiles repository) stays a link; the file that it leads to is edited. Mode, owner, ACL
and extended attributes are kept. Whatever the disk says no to, the original is intact.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

from survived.act import fs
from survived.act.attributes import Unkept, give
from survived.errors import Refused, SurvivedError, cause_of
from survived.terms import Reason

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from survived.act.ballast import Ballast

_LARGEST_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Dotfile:
    """A file as it was read: `real` is where its links lead; `data` None if there is none."""

    path: str
    real: str
    data: bytes | None
    info: os.stat_result | None = None

    @property
    def text(self) -> str:
        """The content as text; bytes that are no UTF-8 become surrogates, and bytes again when they are written."""
        return (self.data or b"").decode("utf-8", "surrogateescape")


def sum_of(data: bytes | None) -> str:
    """Return a file's sum; "" for no file."""
    return "" if data is None else hashlib.sha256(data).hexdigest()


def read_dotfile(path: str) -> Dotfile:
    """Return a file's content. Raises `Refused` for what is no file of ours, `SurvivedError` for what cannot be read."""
    with _said(path):
        real = os.path.realpath(path)
        try:
            # O_NONBLOCK: a FIFO in place of a file must not stop us.
            fd = os.open(real, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except FileNotFoundError:
            if os.path.islink(path) and not os.path.isdir(os.path.dirname(real)):
                raise _refused(path, f"it is a link to '{real}', which is not there") from None
            return Dotfile(path, real, None)
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise _refused(path, "it is not a file")
            if info.st_size > _LARGEST_BYTES:
                raise _refused(path, "it is far too large for a file of settings")
            return Dotfile(path, real, _read_all(fd), info)
        finally:
            os.close(fd)


def _read_all(fd: int) -> bytes:
    parts = []
    while part := os.read(fd, 1 << 20):
        parts.append(part)
    return b"".join(parts)


def _refused(path: str, why: str) -> Refused:
    return Refused(Reason.UNREADABLE, f"Cannot edit '{path}': {why}. It is left as it is.")


@contextlib.contextmanager
def _said(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        why = cause_of(error)
        hint = "Make room first: survivectl hogs shows what is big." if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
        raise SurvivedError(f"Cannot edit '{path}': {why}. It is left as it is.", hint) from error


def missing_folders(file: Dotfile) -> tuple[str, ...]:
    """Return the folders that have to be made for a file, outermost first."""
    missing, folder = [], os.path.dirname(file.real)
    while not os.path.lexists(folder):
        missing.append(folder)
        folder = os.path.dirname(folder)
    return tuple(reversed(missing))


def write_dotfile(file: Dotfile, data: bytes, ballast: Ballast, *, mode: int = 0o644) -> None:
    """
    Put `data` in the file's place in one step, durably; makes missing folders 0700. `mode` is a new file's.

    Raises `Refused` if the file is not ours or changed since it was read, `SurvivedError` for what the disk says.
    """
    _check_ours(file)
    made: list[str] = []
    with _said(file.path):
        try:
            for folder in missing_folders(file):
                _make_folder(folder, ballast)
                made.append(folder)
            with fs.opened(os.path.dirname(file.real)) as folder_fd:
                ballast.with_room(lambda: _prepare(file, data, folder_fd, mode), folder_fd)
                _put_in_place(file, folder_fd)
        except BaseException:
            remove_folders(made)
            raise


def _check_ours(file: Dotfile) -> None:
    if file.info is None:
        return
    if os.geteuid() not in (0, file.info.st_uid):
        owner = f"it belongs to another user (uid {file.info.st_uid})"
        raise Refused(Reason.NOT_OURS, f"Cannot edit '{file.path}': {owner}. It is left as it is.")
    if file.info.st_nlink > 1:
        raise _refused(file.path, f"its file has {file.info.st_nlink} names (hard links), of which we would change one")


def _make_folder(folder: str, ballast: Ballast) -> None:
    with fs.opened(os.path.dirname(folder), follow=True) as above_fd:
        ballast.with_room(lambda: os.mkdir(os.path.basename(folder), 0o700, dir_fd=above_fd), above_fd)
        os.fsync(above_fd)


def _fresh_name(file: Dotfile) -> str:
    return f".{os.path.basename(file.real)[:200]}.survived-edit"


def _prepare(file: Dotfile, data: bytes, folder_fd: int, mode: int) -> None:
    """Write the new content beside the file, with all that the old one has; a half-written one of a crash is replaced."""
    fresh = _fresh_name(file)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(fresh, dir_fd=folder_fd)
    try:
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600, dir_fd=folder_fd)
        try:
            fs.write_all(fd, data)
            if file.info is None:
                os.fchmod(fd, mode)
            else:
                _give_attributes(file, fd, folder_fd)
            os.fsync(fd)
        finally:
            os.close(fd)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=folder_fd)
        raise


def _give_attributes(file: Dotfile, fd: int, folder_fd: int) -> None:
    old_fd = os.open(os.path.basename(file.real), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder_fd)
    try:
        give(old_fd, fd, os.fstat(old_fd), strip=True)
        os.utime(fd)
    except Unkept as error:
        raise _refused(file.path, error.why) from error
    finally:
        os.close(old_fd)


def _put_in_place(file: Dotfile, folder_fd: int) -> None:
    name, fresh = os.path.basename(file.real), _fresh_name(file)
    try:
        if read_dotfile(file.path).data != file.data:
            raise _refused(file.path, "somebody changed it while we worked")
        if file.data is None:
            fs.place(folder_fd, fresh, name)
        else:
            fs.replace(folder_fd, fresh, name)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(fresh, dir_fd=folder_fd)
        raise
    os.fsync(folder_fd)


def remove_dotfile(file: Dotfile, folders: Iterable[str]) -> None:
    """Remove a file that we made, and those of the folders made for it that are empty."""
    _check_ours(file)
    with _said(file.path):
        fs.remove_file(file.real)
    remove_folders(folders)


def remove_folders(folders: Iterable[str]) -> None:
    """Remove folders, innermost first, as long as they are empty."""
    for folder in reversed(list(folders)):
        try:
            os.rmdir(folder)
        except OSError:
            return


def tidy(file: Dotfile) -> None:
    """Remove what a crash left beside a file."""
    with contextlib.suppress(OSError):
        os.unlink(os.path.join(os.path.dirname(file.real), _fresh_name(file)))
