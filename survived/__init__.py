"""
survived keeps shared Linux servers alive when the root disk is full.

A walk through the house; data flows one way, what must last is kept in the store:

    settings  what the user chose: TOML + environment, the catalogue of caches, the paths we use ourselves
       ↓
    observe   reads the machine and changes nothing: disks, trees, holders, inotify as a wake-up
       ↓
    decide    pure functions: pressure, forecast, the plan with a reason for every cache, what to tell
       ↓
    act       the only code that changes a user's files: copy, exchange, reconcile, remove, recover
       ↓
    tell      notices through Apprise in a child process, the control socket, status, systemd

    store     on the data disk: marker, trees, staging, and the SQLite journal, history and outbox
    offline   bundles: packed where there is network, verified, unpacked and installed where there is none

    machine   one user's settings, paths, caches and stores together, for the daemon and survivectl alike
    readings  its caches, read again by what is known of them
    levels    how full the watched filesystems are and were: gauges, rates, samples;  growth  inotify's wake-up
    errands   relocate, restore, recover, by id or path: what the plan or a person asks for
    guard     looks at our links every few seconds;  orphans  trees that lost theirs;  standins  until a disk is back
    purges    emptying a cache by its tool's own command;  deeds  what the daemon does besides relocating
    records   what all journals say, and what is remembered at home of a disk that is away
    worker    the one thread that measures and moves;  requests  what the control socket can be asked
    post      from events to notices in the outbox;  postman  from there to who is told
    troubles  what is wrong now, and what failed;  signals  SIGTERM and SIGHUP as flags
    daemon    the loop over all of it;  storekeeper  its stores: opened as disks come, closed as they go, recovered
    ctl       is `survivectl`, one file for a group of verbs

Who may import whom is a table in `tests/unit/test_layers.py`, and so are the single users of pydantic, psutil,
pyinotify, sqlite3, apprise, Pillow, ctypes and os.rename.

What always holds:

1. `decide/` and the words (`model`, `errors`, `units`) touch no file, clock, environment or log.
2. Only `act/` changes a user's files, and only through `act/fs.py`.
3. One commit point: the exchange. Intent is durable before the first byte, the journal may lag the disk by one
   stage and never leads it.
4. One act, then observe again.
5. If the world looks impossible, refuse and say so.
6. Whatever we changed, one command undoes, byte for byte.
7. A path the user knows resolves to complete content at every instant; no acknowledged write is lost.
8. A quiet day is a quiet log; a failure is logged once, by the module that handles it.
"""

__version__ = "0.1.0"
