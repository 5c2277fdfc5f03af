"""What is asked when a command is to run in an instance; how its output travels back, and what it reads: in frames.

    1 byte     what it is
    4 bytes    length of the content, big-endian
    content    of 1 standard output, 2 standard error: what the command wrote
               of 3 the end: JSON, {"exit_code": 3, "reason": ""}
               of 4 the session: JSON, {"session": "..."}
               of 5 standard input: what the command is to read; of 7 its end: nothing
               of 6 the terminal's size: JSON, {"rows": 24, "columns": 80}

1 to 4 come from the command, 5 to 7 go to it. A first frame, often empty, comes as soon as the command runs; before it the
session, if the command reads something. Nothing follows the end; where it does not come, the answer was cut off.
`exit_code` null: how the command ended is not known, `reason` says why. A reason beside an exit code says why the command
was ended before its time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Annotated, TypeVar

import msgspec

from oakestra.model.errors import Invalid
from oakestra.model.terminal import SIDE_MAX, TerminalSize

MEDIA_TYPE = "application/vnd.oakestra.frames"
CONTENT_BYTES_MAX = 1 << 20
TIMEOUT_S = 3600.0
TIMEOUT_S_MIN = 0.1
TIMEOUT_S_MAX = 86400.0
WORDS_MAX = 1000
INPUT_BYTES_MAX = 128 * 1024
"""Frames that are sent at once; on a link of 1 Mbit/s they take a second."""
TERMINAL_NAME_MAX = 100
_HEAD_BYTES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalWish:
    """The terminal that a command is to have."""

    rows: Annotated[int, msgspec.Meta(ge=1, le=SIDE_MAX)] = 24
    columns: Annotated[int, msgspec.Meta(ge=1, le=SIDE_MAX)] = 80
    name: Annotated[str, msgspec.Meta(pattern="^[A-Za-z0-9._+-]*$", max_length=TERMINAL_NAME_MAX)] = "xterm"
    """What kind it is, as the variable TERM says it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Execution:
    """A command that is to run in an instance of a service."""

    command: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=WORDS_MAX)]
    """The program and its arguments; no shell reads it."""
    instance: Annotated[int, msgspec.Meta(ge=0)] | None = None
    """Instance number; null: the lowest there is."""
    timeout_s: Annotated[float, msgspec.Meta(ge=TIMEOUT_S_MIN, le=TIMEOUT_S_MAX)] = TIMEOUT_S
    """It is killed after so long."""
    stdin: bool = False
    """It reads what is posted to the session that the answer's first frame names."""
    terminal: TerminalWish | None = None
    """It runs at a terminal; needs `stdin`."""


class FrameKind(IntEnum):
    """What a frame holds."""

    STDOUT = 1
    STDERR = 2
    END = 3
    SESSION = 4
    STDIN = 5
    SIZE = 6
    END_OF_INPUT = 7


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


@dataclass(frozen=True, slots=True)
class SessionBegun:
    """Where what the command is to read is posted."""

    session: str


@dataclass(frozen=True, slots=True)
class Entered:
    """A piece of what the command is to read."""

    data: bytes


@dataclass(frozen=True, slots=True)
class InputEnd:
    """There is no more to read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InputTaken:
    """The answer to what was posted to a session."""

    next: int
    """The sequence number that is expected next: what was posted under a smaller one will reach the command."""


Answered = Written | CommandEnd | SessionBegun
Input = Entered | TerminalSize | InputEnd
_ANSWERED = frozenset({FrameKind.STDOUT, FrameKind.STDERR, FrameKind.END, FrameKind.SESSION})


def frame(found: Answered | Input) -> bytes:
    """Return the frame of this."""
    kind, content = _content(found)
    assert len(content) <= CONTENT_BYTES_MAX
    return bytes((kind,)) + len(content).to_bytes(4, "big") + content


def _content(found: Answered | Input) -> tuple[FrameKind, bytes]:
    match found:
        case Written():
            return found.kind, found.data
        case CommandEnd():
            return FrameKind.END, msgspec.json.encode(found)
        case SessionBegun():
            return FrameKind.SESSION, msgspec.json.encode(found)
        case Entered():
            return FrameKind.STDIN, found.data
        case TerminalSize():
            return FrameKind.SIZE, msgspec.json.encode(found)
        case InputEnd():
            return FrameKind.END_OF_INPUT, b""


class FrameReader:
    """Puts frames of an answer together from whatever pieces arrive."""

    def __init__(self) -> None:
        self._arrived = bytearray()

    def feed(self, piece: bytes) -> Iterator[Answered]:
        """Take a piece; yield what is whole by now. Raises `Invalid` if these are no frames."""
        self._arrived += piece
        while len(self._arrived) >= _HEAD_BYTES:
            kind, size = self._arrived[0], int.from_bytes(self._arrived[1:_HEAD_BYTES], "big")
            if kind not in _ANSWERED or size > CONTENT_BYTES_MAX:
                raise Invalid("what arrives is not the output of a command")
            if len(self._arrived) < _HEAD_BYTES + size:
                return
            content = bytes(self._arrived[_HEAD_BYTES : _HEAD_BYTES + size])
            del self._arrived[: _HEAD_BYTES + size]
            yield _answered(FrameKind(kind), content)


def _answered(kind: FrameKind, content: bytes) -> Answered:
    match kind:
        case FrameKind.END:
            return _decoded(content, CommandEnd)
        case FrameKind.SESSION:
            return _decoded(content, SessionBegun)
        case _:
            return Written(kind, content)


def decode_input(body: bytes) -> tuple[Input, ...]:
    """Return what is entered by frames that are all whole. Raises `Invalid` if they are not, or no input."""
    found: list[Input] = []
    while body:
        head = body[:_HEAD_BYTES]
        kind, size = head[0], int.from_bytes(head[1:], "big")
        content, body = body[_HEAD_BYTES : _HEAD_BYTES + size], body[_HEAD_BYTES + size :]
        if len(head) < _HEAD_BYTES or len(content) < size:
            raise Invalid("what is entered is not made of whole frames")
        found.append(_input(kind, content))
    return tuple(found)


def _input(kind: int, content: bytes) -> Input:
    match kind:
        case FrameKind.STDIN:
            return Entered(content)
        case FrameKind.SIZE:
            return _size(content)
        case FrameKind.END_OF_INPUT:
            return InputEnd()
        case _:
            raise Invalid(f"a frame of kind {kind} is no input of a command")


def _size(content: bytes) -> TerminalSize:
    size = _decoded(content, TerminalSize)
    if not (1 <= size.rows <= SIDE_MAX and 1 <= size.columns <= SIDE_MAX):
        raise Invalid(f"no terminal has {size.rows} rows and {size.columns} columns")
    return size


T = TypeVar("T")


def _decoded(content: bytes, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(content, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Invalid(f"a frame of a command cannot be read: {error}") from error
