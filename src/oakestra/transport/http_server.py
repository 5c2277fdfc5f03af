"""Serve HTTP: routes from declarations, one boundary for errors, one table from errors to status codes.

A tier declares `Endpoint`s and raises domain errors; nothing above this module builds an error response.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections import defaultdict
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from oakestra.model import errors
from oakestra.model.errors import OakestraError

logger = logging.getLogger(__name__)

BODY_BYTES_MAX = 1 << 20
BODY_S = 30.0
"""A body must have arrived after so long."""

STATUS_OF: tuple[tuple[type[OakestraError], HTTPStatus], ...] = (
    (errors.Invalid, HTTPStatus.BAD_REQUEST),
    (errors.Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (errors.Forbidden, HTTPStatus.FORBIDDEN),
    (errors.NotFound, HTTPStatus.NOT_FOUND),
    (errors.Conflict, HTTPStatus.CONFLICT),
    (errors.Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
    (errors.Rejected, HTTPStatus.UNPROCESSABLE_ENTITY),
)
"""The one table of what a domain error means in HTTP."""

Answer = Callable[[Request], Awaitable[Response]]


class Refusal(Exception):
    """An error whose status and body some client expects to be exactly so."""

    def __init__(
        self, status: int, body: Mapping[str, Any], *, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(body)
        self.status = status
        self.body = body
        self.headers = headers


class TooLarge(OakestraError):
    """A body larger than `BODY_BYTES_MAX`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """A parameter after the question mark."""

    name: str
    about: str
    kind: type = str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A JSON schema under the name it has in the OpenAPI document, for what is no type of ours."""

    name: str
    schema: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One method of one path: what answers it, and what the OpenAPI document says about it.

    A path that ends in a slash is also served without.
    """

    method: str
    path: str
    answer: Answer
    tag: str
    summary: str
    details: str = ""
    secured: bool = True
    status: int = HTTPStatus.OK
    """What it answers when all is well; some only ever refuse."""
    body: Any = None
    """Type or `Schema` of the JSON body; None: it is not looked at."""
    reply: Any = None
    """Type of the answer; None: JSON of any kind."""
    doubled: bool = False
    """The answer is a JSON string that holds the JSON of `reply`."""
    media: str = "application/json"
    integers: tuple[str, ...] = ()
    """Parameters in the path that are whole numbers."""
    query: tuple[Query, ...] = ()


def application(endpoints: Sequence[Endpoint]) -> ASGIApp:
    """Return the ASGI application that serves these endpoints."""
    return _Boundary(_Router(endpoints))


# --- bodies --------------------------------------------------------------------------------------------------


async def read_body(request: Request) -> bytes:
    """Return the request's body. Raises `TooLarge` as soon as it is seen to be, `Invalid` if it does not come."""
    declared = request.headers.get("content-length", "0")
    if declared.isdigit() and int(declared) > BODY_BYTES_MAX:
        raise TooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes")
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_S):
            async for piece in request.stream():
                body += piece
                if len(body) > BODY_BYTES_MAX:
                    raise TooLarge(f"the body is larger than {BODY_BYTES_MAX} bytes")
    except TimeoutError as error:
        raise errors.Invalid(f"the body did not arrive within {BODY_S:.0f} s") from error
    return bytes(body)


async def read_json(request: Request, kind: Any = Any) -> Any:
    """Return the body as a value of `kind`. Raises `Refusal` if it is not JSON, `Invalid` if it is not a `kind`."""
    return decode_json(await read_body(request), kind)


def decode_json(body: bytes, kind: Any = Any) -> Any:
    """Return JSON text as a value of `kind`. Raises as `read_json` does."""
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.ValidationError as error:
        raise errors.Invalid(f"the request's body is not as expected: {error}") from error
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise Refusal(
            HTTPStatus.BAD_REQUEST,
            {
                "code": 400,
                "errors": {"json": ["Invalid JSON body."]},
                "status": "Bad Request",
                "message": f"the request's body is not JSON: {error}",
            },
        ) from error


def json_response(
    value: Any, *, status: int = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return an answer in plain JSON."""
    body = msgspec.json.encode(value)
    return Response(body, status_code=status, media_type="application/json", headers=headers)


class _Streamed(StreamingResponse):
    """Closes what it sends as soon as nobody takes it any more."""

    def __init__(self, pieces: AsyncGenerator[bytes, None], media_type: str) -> None:
        super().__init__(pieces, media_type=media_type)
        self._pieces = pieces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._pieces):
            await super().__call__(scope, receive, send)


def streamed(
    pieces: AsyncGenerator[bytes, None], *, media_type: str = "text/plain; charset=utf-8"
) -> Response:
    """Return an answer that is sent as it comes."""
    return _Streamed(pieces, media_type)


# --- routing -------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Place:
    """A path and the methods it has."""

    pattern: re.Pattern[str]
    methods: dict[str, Answer] = field(default_factory=dict)


class _Router:
    """Finds the endpoint for a request. Fixed paths cost one look-up; others are tried by number of segments."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._fixed: dict[str, dict[str, Answer]] = {}
        self._open: defaultdict[int, dict[str, _Place]] = defaultdict(dict)
        for endpoint in endpoints:
            for path in _spellings(endpoint.path):
                self._methods(path)[endpoint.method] = endpoint.answer

    def _methods(self, path: str) -> dict[str, Answer]:
        if "{" not in path:
            return self._fixed.setdefault(path, {})
        pattern = re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(path)))
        return self._open[path.count("/")].setdefault(path, _Place(pattern)).methods

    def find(self, method: str, path: str) -> tuple[Answer, dict[str, str]]:
        """Return what answers, and the path's parameters. Raises `Refusal` if nothing does."""
        methods, parameters = self._at(path)
        if methods is None:
            raise Refusal(404, error_body(404, f"there is nothing at {path}"))
        found = methods.get("GET" if method == "HEAD" else method)
        if found is None:
            body = error_body(405, f"{path} knows {', '.join(sorted(methods))}")
            raise Refusal(405, body, headers={"allow": self.allowed(path)})
        return found, parameters

    def allowed(self, path: str) -> str:
        """Return the methods there are at a path, as the header `Allow` names them."""
        methods, _ = self._at(path)
        known = set(methods or ()) | {"OPTIONS"}
        return ", ".join(sorted(known | {"HEAD"} if "GET" in known else known))

    def _at(self, path: str) -> tuple[dict[str, Answer] | None, dict[str, str]]:
        fixed = self._fixed.get(path)
        if fixed is not None:
            return fixed, {}
        for place in self._open[path.count("/")].values() if path.count("/") in self._open else ():
            match = place.pattern.fullmatch(path)
            if match is not None:
                return place.methods, match.groupdict()
        return None, {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        answer, scope["path_params"] = self.find(request.method, scope["path"])
        response = await answer(request)
        await response(scope, receive, send)


def _spellings(path: str) -> tuple[str, ...]:
    return (path, path.rstrip("/")) if path.endswith("/") and path != "/" else (path,)


# --- the boundary --------------------------------------------------------------------------------------------

_METHODS = "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"


class _Boundary:
    """Everything that every request passes: cross-origin rules, and what becomes of errors."""

    def __init__(self, router: _Router) -> None:
        self._router = router

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        headers = dict(scope["headers"])
        origin = headers.get(b"origin")
        begun = False

        async def send_on(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun = True
                if origin is not None:
                    message["headers"] = [*message["headers"], *_cross_origin(origin)]
            await send(message)

        if scope["method"] == "OPTIONS":
            allowed = self._router.allowed(scope["path"])
            await _preflight(headers, allowed=allowed)(scope, receive, send_on)
            return
        try:
            await self._router(scope, receive, send_on)
        except ClientDisconnect:
            logger.debug("client went away", extra={"path": scope["path"]})
        except Exception as error:
            if begun:
                raise  # the server cuts the connection: a half answer must not look whole
            await _error_response(error, scope)(scope, receive, send_on)


def _cross_origin(origin: bytes) -> Iterator[tuple[bytes, bytes]]:
    yield b"access-control-allow-origin", origin
    yield b"vary", b"Origin"


def _preflight(headers: Mapping[bytes, bytes], *, allowed: str) -> Response:
    answer = {"access-control-allow-methods": _METHODS, "allow": allowed, "access-control-max-age": "600"}
    asked = headers.get(b"access-control-request-headers")
    if asked is not None:
        answer["access-control-allow-headers"] = asked.decode("latin-1")
    return Response(status_code=HTTPStatus.OK, headers=answer)


def error_body(status: int, message: str) -> dict[str, Any]:
    """Return the body of an error: the original's two keys, and a sentence."""
    return {"code": int(status), "status": HTTPStatus(status).phrase, "message": message}


def _error_response(error: Exception, scope: Scope) -> Response:
    if isinstance(error, Refusal):
        return json_response(dict(error.body), status=error.status, headers=error.headers)
    if isinstance(error, TooLarge):
        status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        return json_response(error_body(status, str(error)), status=status)
    status = status_of(error)
    if status is HTTPStatus.INTERNAL_SERVER_ERROR:
        logger.error(
            "request failed", exc_info=error, extra={"method": scope["method"], "path": scope["path"]}
        )
        message = "something went wrong inside; the log of this process says what"
    else:
        message = str(error)
    return json_response(error_body(status, message), status=status)


def status_of(error: Exception) -> HTTPStatus:
    """Return the status code that an error means."""
    for kind, status in STATUS_OF:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR
