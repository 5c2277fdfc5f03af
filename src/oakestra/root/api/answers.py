"""Answers that several routes give."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass

from starlette.responses import Response

from oakestra.model.errors import OakestraError
from oakestra.wire.rest import doubled

DOUBLED = "The answer is a JSON string that holds JSON: parse it twice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A word about what was done."""

    message: str


def doubled_response(value: object) -> Response:
    """Return an answer that must be parsed twice."""
    return Response(doubled(value), media_type="application/json")


async def with_end(
    first: bytes, pieces: AsyncGenerator[bytes, None], end: Callable[[OakestraError], bytes]
) -> AsyncGenerator[bytes, None]:
    """Yield what a worker answers, whose first piece is there already; `end` says why the rest is missing."""
    try:
        yield first
        async for piece in pieces:
            yield piece
    except OakestraError as error:
        yield end(error)
    finally:
        await pieces.aclose()  # the worker is told that nobody reads on, and ends what it does for that
