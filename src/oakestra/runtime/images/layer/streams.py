"""Bytes on their way from a registry or an archive to a layer: counted, checked against digests, decompressed."""

from __future__ import annotations

import hashlib
import io
import zlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

from oakestra.model.errors import Rejected

CHUNK_BYTES = 128 * 1024

_GZIP_MAGIC = b"\x1f\x8b"
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_GZIP_WINDOW = 31  # zlib's number for "a gzip header, the largest window"


class Stream(Protocol):
    """Something to read once, from the front."""

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes, at least one unless the stream is at its end."""


class Damaged(Rejected):
    """Content is not what its format or its digest says."""


class Watched:
    """Passes a stream on, telling `on_bytes` how many went through; that one may raise to stop it all."""

    def __init__(self, stream: Stream, on_bytes: Callable[[int], None]) -> None:
        self._stream = stream
        self._on_bytes = on_bytes

    def read(self, size: int, /) -> bytes:
        chunk = self._stream.read(size)
        self._on_bytes(len(chunk))
        return chunk


class Checked:
    """Passes a stream on while computing its digest, for `verify` at the end.

    Reads no more than `size` bytes when that is given, so that a lying server cannot fill the disk.
    """

    def __init__(self, stream: Stream, digest: str, *, what: str, size: int | None = None) -> None:
        self._stream = stream
        self._digest = digest
        self._what = what
        self._size = size
        self._hash = hashlib.new(digest.partition(":")[0])
        self._count = 0

    def read(self, size: int, /) -> bytes:
        chunk = self._stream.read(size)
        self._count += len(chunk)
        if self._size is not None and self._count > self._size:
            raise Damaged(f"{self._what} is longer than the {self._size} bytes its manifest announces")
        self._hash.update(chunk)
        return chunk

    def verify(self) -> None:
        """Read to the end, then raise `Damaged` unless the content has its digest."""
        while self.read(CHUNK_BYTES):
            pass
        algorithm = self._digest.partition(":")[0]
        seen = f"{algorithm}:{self._hash.hexdigest()}"
        if seen != self._digest:
            raise Damaged(
                f"{self._what} is damaged: its content has the digest {seen} and not {self._digest}; "
                "it was changed after it was built, or broken on the way"
            )


def decompressed(stream: Stream, *, what: str) -> Stream:
    """Return the content of `stream`, which may be gzipped; told by its first bytes, not by a media type."""
    start = _read_up_to(stream, len(_ZSTD_MAGIC))
    rest = _Prefixed(start, stream)
    if start == _ZSTD_MAGIC:
        raise Rejected(
            f"{what} is compressed with zstd, which this worker cannot read; "
            "build the image with gzip (docker buildx build --output type=image,compression=gzip,force-compression=true)"
        )
    return _Gunzipped(rest, what=what) if start.startswith(_GZIP_MAGIC) else rest


def buffered(stream: Stream) -> io.BufferedReader:
    """Return `stream` behind a buffer, so that reading it in small pieces is cheap."""
    return io.BufferedReader(_Raw(stream), CHUNK_BYTES)


class _Raw(io.RawIOBase):
    def __init__(self, stream: Stream) -> None:
        super().__init__()
        self._stream = stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer)
        chunk = self._stream.read(len(view))
        view[: len(chunk)] = chunk
        return len(chunk)


def _read_up_to(stream: Stream, size: int) -> bytes:
    start = b""
    while len(start) < size and (chunk := stream.read(size - len(start))):
        start += chunk
    return start


class _Prefixed:
    def __init__(self, start: bytes, stream: Stream) -> None:
        self._start = start
        self._stream = stream

    def read(self, size: int, /) -> bytes:
        if not self._start:
            return self._stream.read(size)
        chunk, self._start = self._start[:size], self._start[size:]
        return chunk


class _Gunzipped:
    """Any number of gzip members after one another, as parallel compressors write them; zeros may pad the end."""

    def __init__(self, stream: Stream, *, what: str) -> None:
        self._stream = stream
        self._what = what
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._waiting = b""
        self._ended = False

    def read(self, size: int, /) -> bytes:
        while not self._ended:
            if self._member.eof and not self._next_member():
                break
            compressed = self._waiting or self._stream.read(CHUNK_BYTES)
            if not compressed and not self._member.unconsumed_tail:
                raise Damaged(f"{self._what} is cut off: its gzip stream ends too early")
            try:
                chunk = self._member.decompress(compressed, size)
            except zlib.error as error:
                raise Damaged(f"{self._what} is damaged: {error}") from error
            self._waiting = self._member.unconsumed_tail
            if chunk:
                return chunk
        return b""

    def _next_member(self) -> bool:
        following = self._member.unused_data.lstrip(b"\0")
        while not following and (chunk := self._stream.read(CHUNK_BYTES)):
            following = chunk.lstrip(b"\0")
        self._ended = not following
        self._member = zlib.decompressobj(_GZIP_WINDOW)
        self._waiting = following
        return not self._ended
