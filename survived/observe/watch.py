"""
Watch the known caches by inotify: "wake up, something grew here".

It may only wake the loop and is never the truth: watches are bounded, the kernel's queue overflows, network filesystems
say nothing. Whoever listens looks for himself, and a slow timer finds what was missed. The consumer debounces: during a
download the descriptor is readable all the time, so it is best left out of the selector for a while after `drain`.
"""

from __future__ import annotations

import logging
import os
import stat
import struct
import time
import warnings
from typing import TYPE_CHECKING

from survived.observe.disks import is_below, resolve_parents
from survived.observe.roots import Root

with warnings.catch_warnings():
    # pyinotify 0.9.6 imports asyncore (deprecated in 3.11) and has invalid escapes (SyntaxWarning since 3.12).
    warnings.simplefilter("ignore")
    import pyinotify

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)

# pyinotify puts a handler of its own on stderr; what it has to say reaches us as WatchManagerError.
pyinotify.log.handlers.clear()
pyinotify.log.addHandler(logging.NullHandler())
pyinotify.log.propagate = False

_GREW: int = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO | pyinotify.IN_MODIFY
"""IN_MODIFY for a big file that grows: the kernel merges equal events that follow each other, so a download queues one
and not thousands. Not IN_CLOSE_WRITE, an event more for each file and no news, and nothing of deleting: that frees."""
_SAFE: int = pyinotify.IN_ONLYDIR | pyinotify.IN_DONT_FOLLOW | pyinotify.IN_MASK_ADD
"""IN_MASK_ADD, since a folder may be watched as a cache's and as the parent of a cache that is missing."""
_AWAIT: int = pyinotify.IN_CREATE | pyinotify.IN_MOVED_TO
_EVENT = struct.Struct("iIII")  # struct inotify_event: wd, mask, cookie, length of the name that follows
_READ_BYTES = 1 << 18
_READS_A_DRAIN = 64  # 16 MiB, more than a full queue of the kernel's default length
_RETRY_SECONDS = 600.0
_MOST_CHANGED = 5000
_FOLDERS_A_DRAIN = 256
"""New folders taken up in one drain, the rest in the next: an unpacking wheel must not keep the loop from its work."""


class Watcher:
    """
    A bounded set of inotify watches on caches and the folders below them.

    Without inotify (EMFILE: fs.inotify.max_user_instances) it still constructs, `fileno()` is -1 and nothing is ever
    seen. For one thread.
    """

    def __init__(self, max_watches: int) -> None:
        self._max = self._limit = max_watches
        self._trouble: str | None = None  # what the kernel refused
        self._tried = time.monotonic()
        self._roots: dict[str, Root] = {}
        self._folders: dict[int, tuple[Root, str]] = {}  # watch -> whose it is, its path
        self._awaited: dict[str, tuple[int, bytes]] = {}  # missing cache -> watch on its nearest parent, next name
        self._overflowed = False
        self._changed: set[str] = set()
        self._has_lost = False  # changes, and cannot tell which
        self._manager: pyinotify.WatchManager | None = None
        try:
            self._manager = pyinotify.WatchManager()
        except (OSError, pyinotify.PyinotifyError) as error:
            self._tell("fs.inotify.max_user_instances is reached" if "(EMFILE)" in str(error) else str(error))
        else:
            os.set_blocking(self.fileno(), False)
            os.set_inheritable(self.fileno(), False)  # noqa: FBT003 - pyinotify does not ask for IN_CLOEXEC

    def fileno(self) -> int:
        """Return the descriptor to select on, -1 if there is none."""
        return self._manager.get_fd() if self._manager is not None else -1

    @property
    def degraded(self) -> str | None:
        """Why we see less than everything, in words; None when we see all."""
        if self._trouble is not None and (self._manager is None or self._is_partial()):
            return f"{self._trouble}; growth is seen by the timer only"
        if self._is_partial():
            return f"the limit of {self._max} watches is reached; deeper folders are seen by the timer only"
        return None

    @property
    def watches(self) -> int:
        """How many watches are in use."""
        return len(self._folders.keys() | {watch for watch, _ in self._awaited.values()})

    def watch(self, paths: Iterable[str]) -> None:
        """
        Replace the set of watched caches; cheap when nothing changed.

        A cache that is missing or a link is awaited: its nearest parent is watched for the name that has to come.
        Watches are shared fairly; when they run out the folders nearest to each cache have them.
        """
        if self._manager is None:
            return
        self._limit = self._max
        wanted = dict.fromkeys(resolve_parents(path) for path in paths)
        now = time.monotonic()
        if self._overflowed or (self._is_partial() and not self._is_full() and now - self._tried >= _RETRY_SECONDS):
            # Folders and removals went unseen, or others have given watches back: begin anew.
            self._forget(list(self._roots))
            self.drain()  # else what the kernel says of each removed watch makes it overflow again
            self._overflowed, self._tried = False, now
        changed = [path for path, root in self._roots.items() if path not in wanted or not root.is_still_there()]
        # A nested cache's folders may be the watches of the one that goes.
        for gone in changed:
            self._forget([path for path in self._roots if is_below(path, gone) or is_below(gone, path)])
        for path in [path for path in self._awaited if path not in wanted]:
            self._stop_awaiting(path)
        for path in [path for path in wanted if path not in self._roots]:
            self._begin(path)
        self._fill(None)

    def drain(self) -> bool:
        """Read and drop everything in the queue; return whether something grew, which a lost event counts as."""
        if self._manager is None:
            return False
        grew = False
        for _ in range(_READS_A_DRAIN):
            try:
                data = os.read(self.fileno(), _READ_BYTES)
            except BlockingIOError:
                break
            except OSError as error:
                log.debug("Cannot read inotify events: %s, ignoring.", error.strerror)
                break
            grew |= self._take(data)
        self._fill(_FOLDERS_A_DRAIN)
        return grew

    def take_changed(self) -> frozenset[str] | None:
        """Return the folders in which something grew since the last call, links resolved; None if some are not known."""
        self.drain()
        changed = None if self._has_lost else frozenset(self._changed)
        self._changed, self._has_lost = set(), False
        return changed

    def give_back(self, changed: frozenset[str] | None) -> None:
        """Undo a `take_changed` that came to nothing."""
        self._has_lost |= changed is None
        self._changed |= changed or frozenset()

    def close(self) -> None:
        """Give all watches and the descriptor back; once is enough, more do no harm."""
        if self._manager is not None:
            self._manager.close()
            self._manager = None
        self._roots.clear()
        self._folders.clear()
        self._awaited.clear()

    def _take(self, data: bytes) -> bool:
        """Return whether one read's events mean growth. Parsed here: pyinotify makes a slow object of each event."""
        grew = False
        position, end, header = 0, len(data), _EVENT.size
        awaiting = {watch for watch, _ in self._awaited.values()}
        while position + header <= end:
            watch, mask, _, length = _EVENT.unpack_from(data, position)
            name = data[position + header : position + header + length]  # padded with NUL
            position += header + length
            owner = self._folders.get(watch)
            if mask & _GREW and owner is not None:
                grew = True
                self._note(owner[1])
                if mask & pyinotify.IN_ISDIR and mask & _AWAIT and len(owner[0].pending) < self._max:
                    owner[0].pending.append(os.path.join(owner[1], os.fsdecode(name.rstrip(b"\0"))))
            elif mask & pyinotify.IN_Q_OVERFLOW:
                grew = self._overflowed = self._has_lost = True
            if watch in awaiting and mask & _AWAIT:
                grew |= self._arrive(watch, name.rstrip(b"\0"))
                awaiting = {watch for watch, _ in self._awaited.values()}
            if mask & pyinotify.IN_IGNORED:  # deleted or unmounted: the kernel has taken the watch back
                self._lose(watch)
        return grew

    def _note(self, folder: str) -> None:
        if len(self._changed) < _MOST_CHANGED:
            self._changed.add(folder)
        elif folder not in self._changed:
            self._has_lost = True

    def _arrive(self, watch: int, name: bytes) -> bool:
        """Take up the missing caches whose next folder has this name; return whether one is there now."""
        there = False
        for path in [path for path, awaited in self._awaited.items() if awaited == (watch, name)]:
            there |= self._begin(path)
        return there

    def _begin(self, path: str) -> bool:
        """Make a directory a root, or await it; return whether it is there."""
        try:
            found = os.lstat(path)
        except OSError:
            found = None
        if found is None or not stat.S_ISDIR(found.st_mode):
            self._await(path)
            return False
        self._stop_awaiting(path)
        self._roots[path] = Root(path, found)
        return True

    def _await(self, path: str) -> None:
        """Watch the nearest directory above a missing cache for the next name on the way to it."""
        name, parent = os.path.basename(path), os.path.dirname(path)
        while parent != "/" and not os.path.isdir(parent):
            name, parent = os.path.basename(parent), os.path.dirname(parent)
        old = self._awaited.get(path)
        watch = self._add_watch(parent, _AWAIT)
        if watch is None:
            self._stop_awaiting(path)
        else:
            self._awaited[path] = (watch, os.fsencode(name))
            if old is not None and old[0] != watch:
                self._release(old[0])

    def _stop_awaiting(self, path: str) -> None:
        """Give a parent's watch back unless something else needs it."""
        if (old := self._awaited.pop(path, None)) is not None:
            self._release(old[0])

    def _fill(self, most: int | None) -> None:
        """Watch pending folders, one of each root in turn, until none is left, `most` are done or no watch is."""
        done = 0
        while roots := [root for root in self._roots.values() if root.pending]:
            for root in roots:
                if most is not None and done >= most:
                    return
                if self._is_full() and not self._take_from_richer(root):
                    root.pending.clear()
                    root.is_partial = True
                    continue
                self._watch_folder(root, root.pending.popleft())
                done += 1

    def _is_full(self) -> bool:
        """Return whether no further watch may be used."""
        return len(self._folders) + len(self._awaited) >= self._limit

    def _take_from_richer(self, root: Root) -> bool:
        """Take the deepest watch from the root that has most, if both have to come to a fair share."""
        share = max(1, self._limit // max(1, len(self._roots)))
        richest = max(self._roots.values(), key=lambda other: len(other.watches))
        if len(root.watches) >= share or len(richest.watches) <= share:
            return False
        watch = next(reversed(richest.watches))
        del richest.watches[watch], self._folders[watch]
        self._release(watch)
        richest.is_partial = True
        return True

    def _watch_folder(self, root: Root, path: str) -> None:
        """Watch one folder and queue its sub-folders of the same filesystem."""
        watch = self._add_watch(path, _GREW)
        if watch is None:
            if self._is_full():  # ENOSPC: the next turn may take a watch from a richer root
                root.pending.appendleft(path)
            return
        if watch in self._folders:
            root.is_nested |= path == root.path
            return  # its sub-folders are watched too
        self._folders[watch] = (root, path)
        root.watches[watch] = None
        root.list_below(path, self._max)  # after the watch: nothing falls between

    def _add_watch(self, path: str, mask: int) -> int | None:
        """Return the watch on one directory, None if there is none; ENOSPC lowers the limit to what we have."""
        if self._manager is None:
            return None
        descriptor = -1
        try:
            name, flags = path, mask | _SAFE
            if not path.isascii():
                # pyinotify encodes strictly and cannot name what is not UTF-8: go through a descriptor instead.
                descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
                name, flags = f"/proc/self/fd/{descriptor}", flags & ~pyinotify.IN_DONT_FOLLOW
            added: dict[str, int] = self._manager.add_watch(name, flags, rec=False, quiet=False)
            return next(iter(added.values()))
        except pyinotify.WatchManagerError as error:
            if str(error).endswith("(ENOSPC)"):
                self._limit = len(self._folders) + len(self._awaited)
                self._tell("fs.inotify.max_user_watches is reached")
            else:
                log.debug("Cannot watch '%s': %s, ignoring.", path, error)
        except OSError as error:
            log.debug("Cannot watch '%s': %s, ignoring.", path, error.strerror)
        finally:
            if descriptor >= 0:
                os.close(descriptor)
        return None

    def _forget(self, paths: list[str]) -> None:
        """Drop roots and give their watches back."""
        for path in paths:
            root = self._roots.pop(path)
            for watch in root.watches:
                del self._folders[watch]
                self._release(watch)

    def _lose(self, watch: int) -> None:
        """Drop our knowledge of a watch that the kernel took back."""
        if (owner := self._folders.pop(watch, None)) is not None:
            owner[0].watches.pop(watch, None)
        for path in [path for path, awaited in self._awaited.items() if awaited[0] == watch]:
            del self._awaited[path]
        if self._manager is not None and watch in self._manager.watches:
            self._manager.del_watch(watch)

    def _release(self, watch: int) -> None:
        """Give a watch back to the kernel if nothing needs it any more."""
        if watch in self._folders or any(awaited[0] == watch for awaited in self._awaited.values()):
            return
        if self._manager is not None:
            try:
                self._manager.rm_watch(watch, quiet=False)
            except pyinotify.WatchManagerError:  # EINVAL: the kernel was first
                self._manager.watches.pop(watch, None)

    def _is_partial(self) -> bool:
        """Return whether a cache has folders without a watch."""
        return any(root.is_partial for root in self._roots.values())

    def _tell(self, trouble: str) -> None:
        """Remember what the kernel refuses and log it, the first time."""
        if self._trouble is None:
            log.warning("Cannot watch all caches: %s. We go on with what we have.", trouble)
        self._trouble = trouble
