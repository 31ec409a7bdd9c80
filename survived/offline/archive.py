"""
The archive inside a bundle: a tar of the manifest and every file it names, in its order, in Zstandard frames.

GNU tar and zstd read it too. Ours is read by hand from headers that `tarfile` parses: its own reader follows links,
and takes extended headers of any size into memory. Only regular files are ever accepted.
"""

from __future__ import annotations

import hashlib
import os
import tarfile
from typing import TYPE_CHECKING, Any

from survived.errors import SurvivedError
from survived.offline import manifest, names

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Protocol

    class Source(Protocol):
        """Something to read bytes from."""

        def read(self, size: int, /) -> bytes:
            """Return up to `size` bytes, none at the end."""


BLOCK = 512
FRAME = 64 * 1024 * 1024
"""Bytes of tar in one Zstandard frame: what an interrupted packing loses at most."""
CHUNK = 1 << 20
LEVEL = 3
_WINDOW_LIMIT = 128 * 1024 * 1024
_EXTENSION_LIMIT = 64 * 1024
_WHAT = {
    tarfile.LNKTYPE: "a hard link",
    tarfile.SYMTYPE: "a symbolic link",
    tarfile.CHRTYPE: "a device node",
    tarfile.BLKTYPE: "a device node",
    tarfile.DIRTYPE: "a directory",
    tarfile.FIFOTYPE: "a named pipe",
}
_GLOBAL = b"g"


# ---- writing --------------------------------------------------------------------------------------------------------


def _header(path: str, size: int, *, executable: bool) -> bytes:
    info = tarfile.TarInfo(path)
    info.size, info.mode = size, 0o755 if executable else 0o644
    return info.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")


def _padding(size: int) -> int:
    return -size % BLOCK


def stream(raw: bytes, listed: manifest.Manifest, folder: str, start: int) -> Iterator[bytes]:
    """
    Yield the bytes of the tar from byte `start` on; `raw` is the manifest, the files are read below `folder`.

    `SurvivedError` if a file has changed since the manifest was made.
    """
    at = 0
    for entry in (manifest.Entry(manifest.NAME, len(raw), ""), *listed.entries):
        header = _header(entry.path, entry.size, executable=entry.executable)
        whole = len(header) + entry.size + _padding(entry.size)
        if at + whole <= start:
            at += whole
            continue
        skip = max(0, start - at)
        at += whole
        if skip < len(header):
            yield header[skip:]
        skip = max(0, skip - len(header))
        if entry.path == manifest.NAME:
            yield (raw + bytes(_padding(len(raw))))[skip:]
            continue
        yield from _content(os.path.join(folder, entry.path), entry, skip)
    yield bytes(2 * BLOCK)[max(0, start - at) :]


def _content(path: str, entry: manifest.Entry, skip: int) -> Iterator[bytes]:
    digest, at = hashlib.sha256(), min(skip, entry.size)
    with open(path, "rb") as file:
        file.seek(at)
        while at < entry.size and (data := file.read(min(CHUNK, entry.size - at))):
            at += len(data)
            digest.update(data)
            yield data
    if at != entry.size or (skip == 0 and digest.hexdigest() != entry.sha256):
        raise SurvivedError(
            f"Cannot pack '{path}': it was changed while it was packed. What was packed is kept.", "Run the same command again."
        )
    yield bytes(_padding(entry.size))[max(0, skip - entry.size) :]


def frames(chunks: Iterator[bytes], stop: Callable[[], None]) -> Iterator[tuple[int, bytes]]:
    """Compress a stream in frames of `FRAME` bytes; yields pieces, each with the bytes that end with it, 0 inside a frame."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=LEVEL, threads=-1, write_checksum=True)
    current, room = compressor.compressobj(), FRAME
    for chunk in chunks:
        stop()
        rest = memoryview(chunk)
        while rest:
            piece, rest = rest[:room], rest[room:]
            room -= len(piece)
            yield 0, current.compress(piece)
            if room == 0:
                yield FRAME, current.flush()
                current, room = compressor.compressobj(), FRAME
    if room < FRAME:
        yield FRAME - room, current.flush()


# ---- reading --------------------------------------------------------------------------------------------------------


class Archive:
    """
    One pass through the tar of a bundle. Everything that is not as its manifest says raises `Refused` (damaged).

    `files()` yields each entry with an iterator of its content, which must be read to its end before the next.
    """

    def __init__(self, packed: Any, bundle: str) -> None:
        """Read the manifest. `packed` is a raw stream of the compressed bytes, `bundle` its name for messages."""
        import zstandard

        self._bundle, self._errors = bundle, zstandard.ZstdError
        self._source: Source = zstandard.ZstdDecompressor(max_window_size=_WINDOW_LIMIT).stream_reader(
            packed, read_size=CHUNK, read_across_frames=True, closefd=False
        )
        name, size = self._member()
        if name != manifest.NAME or size > manifest.SIZE_LIMIT:
            raise self._damaged(f"it does not begin with its manifest but with '{name}'")
        self.raw = b"".join(self._exactly(size))
        self._exact(_padding(size))
        self.manifest = manifest.parse(self.raw, bundle)

    def _damaged(self, why: str) -> Exception:
        return names.damaged(self._bundle, why)

    def _read(self, size: int) -> bytes:
        try:
            return self._source.read(size)
        except self._errors as error:
            raise self._damaged(f"its compressed data is broken ({str(error).removeprefix('zstd decompress error: ')})") from error

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            data = self._read(min(CHUNK, size))
            if not data:
                raise self._damaged("it ends in the middle: it was cut short, or its last part is missing")
            size -= len(data)
            yield data

    def _exact(self, size: int) -> bytes:
        return b"".join(self._exactly(size))

    def _member(self) -> tuple[str, int]:
        """Return name and size of the next member; ("", 0) for the end of the tar."""
        longer: str | None = None
        while True:
            block = self._exact(BLOCK)
            if not any(block):
                return "", 0
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
            except tarfile.HeaderError as error:
                raise self._damaged(f"it holds no tar, or a broken one ({error})") from error
            if info.type in (tarfile.GNUTYPE_LONGNAME, tarfile.XHDTYPE, _GLOBAL, tarfile.GNUTYPE_LONGLINK):
                if info.size > _EXTENSION_LIMIT:
                    raise self._damaged("it has a tar header of an unlikely size")
                data = self._exact(info.size)
                self._exact(_padding(info.size))
                longer = _long_name(info.type, data) or longer
                continue
            name = longer if longer is not None else info.name
            if info.type not in (tarfile.REGTYPE, tarfile.AREGTYPE):
                raise self._damaged(
                    f"'{name}' in it is {_WHAT.get(info.type, 'something else than a file')}, and only files may be"
                )
            if info.size < 0:
                raise self._damaged(f"'{name}' in it has a negative size")
            return name, info.size

    def files(self) -> Iterator[tuple[manifest.Entry, Iterator[bytes]]]:
        """Yield the files in the order of the manifest, and refuse what is missing, more, twice, or has another content."""
        for entry in self.manifest.entries:
            name, size = self._member()
            if name != entry.path:
                raise self._damaged(self._odd(name, entry.path))
            if size != entry.size:
                raise self._damaged(f"'{name}' in it has {size:,} bytes, and its manifest says {entry.size:,}")
            yield entry, self._checked(entry)
            self._exact(_padding(size))
        name, _ = self._member()
        if name:
            raise self._damaged(self._odd(name, None))
        while data := self._read(CHUNK):
            if any(data):
                raise self._damaged("it has more behind its end")

    def _odd(self, name: str, wanted: str | None) -> str:
        if not name:
            return f"'{wanted}' of its manifest is missing"
        if (why := names.why_bad(name)) is not None:
            return f"the name {name!r} is not allowed: {why}"
        if name == manifest.NAME or any(entry.path == name for entry in self.manifest.entries):
            return f"'{name}' stands in it twice, or not where it belongs"
        return f"'{name}' is not in its manifest"

    def _checked(self, entry: manifest.Entry) -> Iterator[bytes]:
        digest = hashlib.sha256()
        for data in self._exactly(entry.size):
            digest.update(data)
            yield data
        if digest.hexdigest() != entry.sha256:
            raise self._damaged(f"'{entry.path}' in it is not what was packed: its SHA-256 differs")


def _long_name(kind: bytes, data: bytes) -> str | None:
    """Return the name that an extended header gives to the next member; None if it gives none."""
    if kind == tarfile.GNUTYPE_LONGNAME:
        return data.split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    found, at = None, 0
    while kind == tarfile.XHDTYPE and at < len(data):
        length, _, _ = data[at:].partition(b" ")
        if not length.isdigit() or not 0 < int(length) <= len(data) - at:
            break
        key, _, value = data[at + len(length) + 1 : at + int(length) - 1].partition(b"=")
        found = value.decode("utf-8", "surrogateescape") if key == b"path" else found
        at += int(length)
    return found
