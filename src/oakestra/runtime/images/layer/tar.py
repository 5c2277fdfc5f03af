"""Read a tar stream: ustar, GNU long names, pax headers with extended attributes. Trusts nothing in it.

Python's own `tarfile` keeps every member in memory, reads headers of any size, and takes a broken header in the
middle for the end; images come from strangers. Formats: POSIX.1-2017 pax, section "ustar Interchange Format".
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from oakestra.runtime.images.layer.streams import CHUNK_BYTES, Damaged, Stream

BLOCK_BYTES = 512
EXTENSION_BYTES_MAX = 1 << 20
"""A pax header or long name larger than this is an attack: Linux allows 64 KiB per attribute, 4 KiB per path."""
_MTIME_S_MAX = 1 << 33
_XATTR_PREFIX: Final = "SCHILY.xattr."
_ZEROS = bytes(BLOCK_BYTES)


class Kind(Enum):
    """What a member of an archive is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symbolic link"
    HARD_LINK = "hard link"
    FIFO = "fifo"
    DEVICE = "device node"
    OTHER = "unknown kind"


_KINDS: Mapping[bytes, Kind] = {
    b"0": Kind.FILE,
    b"\0": Kind.FILE,
    b"7": Kind.FILE,
    b"1": Kind.HARD_LINK,
    b"2": Kind.SYMLINK,
    b"3": Kind.DEVICE,
    b"4": Kind.DEVICE,
    b"5": Kind.DIRECTORY,
    b"6": Kind.FIFO,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One entry as its headers describe it; nothing about it is safe yet."""

    name: str
    kind: Kind
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    mtime_ns: int = 0
    size: int = 0
    link: str = ""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class TarReader:
    """Yields members in order; between two, `read` gives the content of the last one.

    Raises `Damaged`, naming `what`, for anything that is not a tar archive.
    """

    def __init__(self, stream: Stream, *, what: str) -> None:
        self._stream = stream
        self._what = what
        self._content_left = 0
        self._padding_left = 0
        self._defaults: dict[str, bytes] = {}
        self.offset = 0
        """Bytes read so far: after `next`, where the member's content starts."""

    def next(self, skip: Callable[[int], None] | None = None) -> Member | None:
        """Return the next member, None at the end. `skip` may seek over content instead of reading it."""
        self._leave(skip)
        extensions: dict[str, bytes] = {}
        while (block := self._header()) is not None:
            kind = block[156:157]
            size = self._number(block[124:136], "size")
            if kind == b"x":
                extensions.update(self._pax_records(size))
            elif kind == b"g":
                self._defaults.update(self._pax_records(size))
            elif kind in b"LK":
                key = "path" if kind == b"L" else "linkpath"
                extensions[key] = self._extension(size).partition(b"\0")[0]
            else:
                return self._member(block, kind, size, {**self._defaults, **extensions})
        return None

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the current member's content, nothing at its end."""
        chunk = self._stream.read(min(size, self._content_left)) if self._content_left else b""
        if not chunk and self._content_left and size:
            raise self._broken("it ends in the middle of a file")
        self._content_left -= len(chunk)
        self.offset += len(chunk)
        return chunk

    def _leave(self, skip: Callable[[int], None] | None) -> None:
        left = self._content_left + self._padding_left
        self._content_left = self._padding_left = 0
        if skip is not None and left:
            skip(left)
            self.offset += left
            return
        while left:
            left -= len(self._some(min(left, CHUNK_BYTES)))

    def _header(self) -> bytes | None:
        """Return the next header block; None at the end, marked by a block of zeros or simply reached."""
        block = self._stream.read(BLOCK_BYTES)
        self.offset += len(block)
        if not block:
            return None
        if len(block) < BLOCK_BYTES:
            block += self._exactly(BLOCK_BYTES - len(block))
        if block == _ZEROS:
            return None
        unsigned = sum(block) - sum(block[148:156]) + 8 * ord(" ")
        stated = self._number(block[148:156], "checksum")
        if stated not in {unsigned, unsigned - 256 * sum(byte > 127 for byte in block[:148] + block[156:])}:  # noqa: PLR2004 - signed sums of old writers
            raise self._broken("a header has a wrong checksum")
        return block

    def _member(self, block: bytes, kind: bytes, size: int, pax: Mapping[str, bytes]) -> Member:
        if kind == b"S" or any(key.startswith("GNU.sparse.") for key in pax):
            raise self._broken("it holds a sparse file; write it without (tar: leave out --sparse)")
        name = pax.get("path", b"") or _ustar_name(block)
        found = _KINDS.get(kind, Kind.OTHER)
        if found is Kind.FILE and name.endswith(b"/"):
            found = Kind.DIRECTORY
        size = self._pax_number(pax, "size", size)
        has_content = found in {Kind.FILE, Kind.OTHER}
        self._content_left = size if has_content else 0
        self._padding_left = -self._content_left % BLOCK_BYTES
        return Member(
            name=os.fsdecode(name),
            kind=found,
            mode=self._number(block[100:108], "mode") & 0o7777,
            uid=self._pax_number(pax, "uid", self._number(block[108:116], "owner")),
            gid=self._pax_number(pax, "gid", self._number(block[116:124], "group")),
            mtime_ns=self._mtime_ns(block, pax),
            size=self._content_left,
            link=os.fsdecode(pax.get("linkpath", b"") or block[157:257].partition(b"\0")[0]),
            xattrs={
                key.removeprefix(_XATTR_PREFIX): value
                for key, value in pax.items()
                if key.startswith(_XATTR_PREFIX)
            },
        )

    def _mtime_ns(self, block: bytes, pax: Mapping[str, bytes]) -> int:
        text = pax.get("mtime")
        if text is None:
            return min(self._number(block[136:148], "time", signed=True), _MTIME_S_MAX) * 10**9
        whole, _, fraction = text.partition(b".")
        try:
            seconds, nanoseconds = int(whole or b"0"), int((fraction + b"000000000")[:9])
        except ValueError as error:
            raise self._broken("a pax header has an unreadable time") from error
        return max(-_MTIME_S_MAX, min(seconds, _MTIME_S_MAX)) * 10**9 + nanoseconds

    def _pax_records(self, size: int) -> dict[str, bytes]:
        data = self._extension(size)
        records: dict[str, bytes] = {}
        while data.rstrip(b"\0"):
            digits, _, _ = data[:20].partition(b" ")
            length = int(digits) if digits.isdigit() else 0
            record = data[len(digits) + 1 : length]
            key, equals, value = record.partition(b"=")
            if not equals or not value.endswith(b"\n") or length > len(data):
                raise self._broken("a pax header is malformed")
            records[os.fsdecode(key)] = value[:-1]
            data = data[length:]
        return records

    def _extension(self, size: int) -> bytes:
        if size > EXTENSION_BYTES_MAX:
            raise self._broken(f"a header of {size} bytes is more than any file needs")
        data = self._exactly(size)
        self._exactly(-size % BLOCK_BYTES)
        return data

    def _number(self, text: bytes, what: str, *, signed: bool = False) -> int:
        """Read octal digits, or GNU's base 256 for large and negative numbers."""
        if text[0] & 0x80:
            number = int.from_bytes(text, "big", signed=True)
            number = number if text[0] == 0xFF else number + (1 << (8 * len(text) - 1))  # noqa: PLR2004 - GNU's marks
        else:
            digits = text.partition(b"\0")[0].strip()
            try:
                number = int(digits or b"0", 8)
            except ValueError as error:
                raise self._broken(f"a header has an unreadable {what}") from error
        if number < 0 and not signed:
            raise self._broken(f"a header has a negative {what}")
        return max(number, -_MTIME_S_MAX)

    def _pax_number(self, pax: Mapping[str, bytes], key: str, otherwise: int) -> int:
        text = pax.get(key)
        if text is None:
            return otherwise
        if not text.isdigit() or len(text) > 20:  # noqa: PLR2004 - 64 bits
            raise self._broken(f"a pax header has an unreadable {key}")
        return int(text)

    def _exactly(self, size: int) -> bytes:
        parts: list[bytes] = []
        while size:
            parts.append(self._some(size))
            size -= len(parts[-1])
        return b"".join(parts)

    def _some(self, size: int) -> bytes:
        chunk = self._stream.read(size)
        if not chunk:
            raise self._broken("it is cut off")
        self.offset += len(chunk)
        return chunk

    def _broken(self, why: str) -> Damaged:
        return Damaged(f"{self._what} is not a usable tar archive: {why}")


def _ustar_name(block: bytes) -> bytes:
    name = block[:100].partition(b"\0")[0]
    if block[257:263] != b"ustar\0":
        return name
    prefix = block[345:500].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name
