"""What is asked when a command is to run in an instance, and how its output travels back: in frames.

    1 byte     what it is: 1 standard output, 2 standard error, 3 the end
    4 bytes    length of the content, big-endian
    content    of 1 and 2: what the command wrote; of 3: JSON, {"exit_code": 3, "reason": ""}

A first frame, often empty, comes as soon as the command runs. Nothing follows the end; where it does not come, the answer
was cut off. `exit_code` null: how the command ended is not known, `reason` says why. A reason beside an exit code says
why the command was ended before its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated

import msgspec

from oakestra.model.errors import Invalid

MEDIA_TYPE = "application/vnd.oakestra.frames"
CONTENT_BYTES_MAX = 1 << 20
TIMEOUT_S = 3600.0
TIMEOUT_S_MIN = 0.1
TIMEOUT_S_MAX = 86400.0
WORDS_MAX = 1000
_HEAD_BYTES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A command that is to run in an instance of a service."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=WORDS_MAX)]
    """The program and its arguments; no shell reads it."""
    instance: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Instance number; null: the lowest there is."""
    timeout_s: Annotated[float, msgspec.Meta(ge=TIMEOUT_S_MIN, le=TIMEOUT_S_MAX)] = TIMEOUT_S
    """It is killed after so long."""


class FrameKind(IntEnum):
    """What a frame holds."""

    STDOUT = 1
    STDERR = 2
    END = 3


@dataclass(frozen=True, slots=True)
class Written:
    """A piece of what the command wrote."""

    kind: FrameKind
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnd:
    """How the command ended."""

    exit_code: int | None
    reason: str = ""


def frame(found: Written | CommandEnd) -> bytes:
    """Return the frame of this."""
    kind, content = (
        (FrameKind.END, msgspec.json.encode(found))
        if isinstance(found, CommandEnd)
        else (found.kind, found.data)
    )
    assert len(content) <= CONTENT_BYTES_MAX
    return bytes((kind,)) + len(content).to_bytes(4, "big") + content


class FrameReader:
    """Puts frames together from whatever pieces arrive."""

    def __init__(self) -> None:
        self._arrived = bytearray()

    def feed(self, piece: bytes) -> Iterator[Written | CommandEnd]:
        """Take a piece; yield what is whole by now. Raises `Invalid` if these are no frames."""
        self._arrived += piece
        while len(self._arrived) >= _HEAD_BYTES:
            kind, size = self._arrived[0], int.from_bytes(self._arrived[1:_HEAD_BYTES], "big")
            if kind not in FrameKind.__members__.values() or size > CONTENT_BYTES_MAX:
                raise Invalid("what arrives is not the output of a command")
            if len(self._arrived) < _HEAD_BYTES + size:
                return
            content = bytes(self._arrived[_HEAD_BYTES : _HEAD_BYTES + size])
            del self._arrived[: _HEAD_BYTES + size]
            yield _end(content) if kind == FrameKind.END else Written(FrameKind(kind), content)


def _end(content: bytes) -> CommandEnd:
    try:
        return msgspec.json.decode(content, type=CommandEnd)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Invalid(f"how the command ended cannot be read: {error}") from error
