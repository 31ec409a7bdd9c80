"""
The words that have a fixed set of values. Apart from `model.py` because a client that only prints needs nothing more.
"""

from __future__ import annotations

from enum import StrEnum


class Kind(StrEnum):
    """What a path holds: a cache its tool can rebuild; an environment or state it cannot."""

    CACHE = "cache"
    ENVIRONMENT = "environment"
    STATE = "state"
    TEMPORARY = "temporary"


class Pressure(StrEnum):
    """How full a filesystem counts as; see `decide/pressure.py` for how it changes."""

    NORMAL = "normal"
    HIGH = "high"
    FLOOD = "flood"

    @property
    def rank(self) -> int:
        """0 for normal, 1 for high, 2 for flood: for comparing."""
        return list(Pressure).index(self)


class CacheState(StrEnum):
    """Where a cache is: a directory at its own path, on its way, behind a link, behind a broken link, nowhere."""

    HOME = "home"
    MOVING = "moving"
    RELOCATED = "relocated"
    DANGLING = "dangling"
    ABSENT = "absent"


class Standing(StrEnum):
    """What stands at the path of something relocated."""

    OUR_LINK = "our link"
    NOTHING = "nothing"
    DIRECTORY = "directory"
    OTHER_LINK = "other link"
    OTHER = "other"  # a file, a socket


class LinkState(StrEnum):
    """How the link of something relocated stands: the guardian's verdict."""

    OK = "ok"
    EATEN = "eaten"  # a real directory stands there again
    GONE = "gone"  # nothing stands there
    ELSEWHERE = "elsewhere"  # it is a link to another place, or a file
    DANGLING = "dangling"  # the link is ours and its tree is gone, although the disk is there
    DISK_MISSING = "disk_missing"
    STANDIN = "standin"  # an empty directory took its place until the disk is back, because somebody asked for it


class Reason(StrEnum):
    """Why something is not moved. The code is for scripts; every refusal carries a sentence beside it."""

    ABSENT = "absent"
    ALREADY_LINK = "already_link"
    BUSY = "busy"
    COOLDOWN = "cooldown"
    DAMAGED = "damaged"
    DANGLING = "dangling"
    DEVICE_NODE = "device_node"
    DISK_THERE = "disk_there"
    ENOUGH = "enough"
    EXPOSED = "exposed"
    FAILED_BEFORE = "failed_before"
    GROWS_LATER = "grows_later"
    HOME_ITSELF = "home_itself"
    IMMUTABLE = "immutable"
    INTERPRETER = "interpreter"
    LEAVING_LINK = "leaving_link"
    MOUNT_POINT = "mount_point"
    NOTHING_FREED = "nothing_freed"
    NOT_A_DIRECTORY = "not_a_directory"
    NOT_EMPTY = "not_empty"
    NOT_NEEDED = "not_needed"
    NOT_OPTED_IN = "not_opted_in"
    NO_ORPHAN = "no_orphan"
    NOT_OURS = "not_ours"
    NOT_PURGED = "not_purged"
    NOT_RELOCATED = "not_relocated"
    NO_EXCHANGE = "no_exchange"
    NO_INODE = "no_inode"
    NO_MIRROR = "no_mirror"
    NO_ROOM = "no_room"
    NO_STORE = "no_store"
    OTHER_FILESYSTEM = "other_filesystem"
    OTHER_PLATFORM = "other_platform"
    OURS = "ours"
    PAUSED = "paused"
    PINNED = "pinned"
    QUIET_HOURS = "quiet_hours"
    RECENT = "recent"
    REPORT_ONLY = "report_only"
    SOCKET = "socket"
    STALE = "stale"
    SWITCHED_OFF = "switched_off"
    SYSTEM = "system"
    TOO_SMALL = "too_small"
    UNFAITHFUL = "unfaithful"
    UNREADABLE = "unreadable"
    UNSETTLED = "unsettled"
    WOULD_FILL = "would_fill"
    WRONG_LEVEL = "wrong_level"


class Stage(StrEnum):
    """How far one operation is known to have come; each is recorded after it is synced."""

    INTENT = "intent"
    COPIED = "copied"
    EXCHANGED = "exchanged"
    DONE = "done"
    UNDONE = "undone"  # rolled back


class Verb(StrEnum):
    """The operations of the engine."""

    RELOCATE = "relocate"
    RESTORE = "restore"
    REHOME = "rehome"


class Level(StrEnum):
    """How loud a notice is; the values are Apprise's notification types."""

    INFO = "info"
    SUCCESS = "success"
    WARNING = "warning"
    FAILURE = "failure"


class Topic(StrEnum):
    """What a notice is about; beside the levels, the tags that [notify] urls can have."""

    PRESSURE = "pressure"  # it begins
    FLOOD = "flood"
    WORSE = "worse"  # a point or more since it was told
    STILL = "still"  # told again after [notify] repeat
    STUCK = "stuck"  # nothing can be moved
    RECOVERED = "recovered"
    RELOCATED = "relocated"
    RESTORED = "restored"
    REHOMED = "rehomed"
    PURGED = "purged"
    FAILED = "failed"
    TROUBLE = "trouble"
    DISK = "disk"
    EATEN = "eaten"
    GONE = "gone"
    ELSEWHERE = "elsewhere"
    DANGLING = "dangling"
    STANDIN = "standin"
    TEST = "test"
