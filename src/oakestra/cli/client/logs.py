"""Read an instance's log as it comes, from a number of lines before its end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from queue import Empty, SimpleQueue
from threading import Thread

from oakestra.cli.client import Root
from oakestra.model.errors import OakestraError

TAIL_BYTES_MIN = 64 << 10
TAIL_BYTES_MAX = 16 << 20
"""Root hands out no more of what was written before."""
_LINE_BYTES = 1024
"""Lines are expected to be no longer than this on average; where they are, fewer of them come."""
QUIET_S = 0.3
"""What was written before comes in one go: after a pause of this, what comes is new."""


def read(root: Root, service: str, number: int | None, *, follow: bool, lines: int | None) -> Iterator[bytes]:
    """Yield pieces of an instance's log; without a number, of the first that runs."""
    tail = TAIL_BYTES_MAX if lines is None else min(TAIL_BYTES_MAX, max(TAIL_BYTES_MIN, lines * _LINE_BYTES))
    query = {"tail": str(tail)}
    if number is not None:
        query["instance"] = str(number)
    if follow:
        query["follow"] = "true"
    pieces = root.stream(f"/api/v1/services/{service}/logs", endless=follow, **query)
    if lines is None:
        return pieces
    return _from_last_lines(pieces, lines) if follow else iter([_last_lines(b"".join(pieces), lines)])


def _from_last_lines(pieces: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yield the last lines of what comes before the first pause, then everything."""
    waiting: SimpleQueue[bytes | OakestraError | None] = SimpleQueue()
    Thread(target=_feed, args=(pieces, waiting), daemon=True).start()
    past = b""
    ended = False
    while not ended:
        try:
            piece = _taken(waiting, QUIET_S)
        except Empty:
            break
        ended = piece is None
        past += piece or b""
    yield _last_lines(past, count)
    while not ended:
        piece = _taken(waiting, None)
        ended = piece is None
        yield piece or b""


def _feed(pieces: Iterable[bytes], waiting: SimpleQueue[bytes | OakestraError | None]) -> None:
    try:
        for piece in pieces:
            waiting.put(piece)
    except OakestraError as error:
        waiting.put(error)
    waiting.put(None)


def _taken(waiting: SimpleQueue[bytes | OakestraError | None], within_s: float | None) -> bytes | None:
    taken = waiting.get(timeout=within_s)
    if isinstance(taken, OakestraError):
        raise taken
    return taken


def _last_lines(text: bytes, count: int) -> bytes:
    return b"".join(text.splitlines(keepends=True)[-count:]) if count > 0 else b""
