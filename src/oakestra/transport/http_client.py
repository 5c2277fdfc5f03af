"""Ask over HTTP with the standard library, in a thread: for the few requests that a worker or the command line makes."""

from __future__ import annotations

import asyncio
import http.client
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from urllib.parse import SplitResult, urlsplit

from oakestra.model import errors
from oakestra.model.errors import Invalid, OakestraError, Unavailable

ANSWER_BYTES_MAX = 8 << 20

ERROR_OF: Mapping[int, type[OakestraError]] = {
    HTTPStatus.BAD_REQUEST: errors.Invalid,
    HTTPStatus.UNAUTHORIZED: errors.Unauthenticated,
    HTTPStatus.FORBIDDEN: errors.Forbidden,
    HTTPStatus.NOT_FOUND: errors.NotFound,
    HTTPStatus.CONFLICT: errors.Conflict,
    HTTPStatus.UNPROCESSABLE_ENTITY: errors.Rejected,
    HTTPStatus.TOO_MANY_REQUESTS: errors.Unavailable,
}
"""What a status of the 4xx kind means here; every other one is `Invalid`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status below 400, and what came with it."""

    status: int
    body: bytes


async def post(
    url: str,
    body: bytes,
    *,
    headers: Mapping[str, str],
    timeout_s: float,
    tls: ssl.SSLContext | None = None,
) -> Answer:
    """Send `body` and return the answer.

    `timeout_s` bounds each step: connecting, and every read. Raises `Unavailable` naming the host and the cause, or
    the domain error of a 4xx answer with the server's sentence.
    """
    return await asyncio.to_thread(_post, url, body, headers, timeout_s, tls)


def _post(
    url: str, body: bytes, headers: Mapping[str, str], timeout_s: float, tls: ssl.SSLContext | None
) -> Answer:
    parts = urlsplit(url)
    connection = _connection(parts, timeout_s, tls)
    try:
        connection.request("POST", parts._replace(scheme="", netloc="").geturl() or "/", body, dict(headers))
        with connection.getresponse() as response:
            answer = response.read(ANSWER_BYTES_MAX + 1)
    except (OSError, http.client.HTTPException) as error:
        raise Unavailable(f"{parts.netloc} cannot be asked: {_cause(error, timeout_s)}") from error
    finally:
        connection.close()
    if len(answer) > ANSWER_BYTES_MAX:
        raise Unavailable(f"{parts.netloc} answers with more than {ANSWER_BYTES_MAX >> 20} MiB")
    if response.status >= HTTPStatus.BAD_REQUEST:
        raise _error(response.status, answer, parts)
    return Answer(status=response.status, body=answer)


def _connection(
    parts: SplitResult, timeout_s: float, tls: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise Invalid(f"{parts.geturl()!r} is not an http:// or https:// address")
    if parts.scheme == "http":
        return http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout_s)
    return http.client.HTTPSConnection(parts.hostname, parts.port, timeout=timeout_s, context=tls)


def _cause(error: Exception, timeout_s: float) -> str:
    if isinstance(error, TimeoutError):
        return f"no answer for {timeout_s:.0f} s"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return f"it does not speak HTTP ({type(error).__name__})"


def _error(status: int, body: bytes, parts: SplitResult) -> OakestraError:
    sentence = _sentence(body) or f"{parts.netloc} answers {status} to {parts.path}"
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Unavailable(f"{parts.netloc} cannot answer now: {sentence}")
    return ERROR_OF.get(status, Invalid)(sentence)


def _sentence(body: bytes) -> str:
    """Return the `message` of an error's JSON body; empty if it has none."""
    try:
        decoded = json.loads(body)
    except ValueError:
        return ""
    return str(decoded.get("message", "")) if isinstance(decoded, dict) else ""
