"""Answers that several routes give."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from oakestra.wire.rest import doubled

DOUBLED = "The answer is a JSON string that holds JSON: parse it twice."


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """A word about what was done."""

    message: str


def doubled_response(value: object) -> Response:
    """Return an answer that must be parsed twice."""
    return Response(doubled(value), media_type="application/json")
