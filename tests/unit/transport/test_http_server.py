"""Routing, errors, limits and cross-origin rules are the same for every route, and so is a real socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import msgspec
import pytest
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Message

from asgi import AsgiClient
from oakestra.model import errors
from oakestra.transport.http_server import (
    BODY_BYTES_MAX,
    STATUS_OF,
    Endpoint,
    application,
    json_response,
    read_json,
    streamed,
)


class Pair(msgspec.Struct):
    left: int
    right: str = ""


async def echo(request: Request) -> Response:
    return json_response({"body": await read_json(request), **request.path_params})


async def typed(request: Request) -> Response:
    return json_response((await read_json(request, Pair)).left)


async def broken(request: Request) -> Response:
    raise RuntimeError(request.path_params["what"])


async def refused(request: Request) -> Response:
    raise getattr(errors, request.path_params["kind"])("because of this; do that")


async def slow(request: Request) -> Response:
    del request

    async def pieces() -> AsyncGenerator[bytes, None]:
        for number in range(3):
            yield f"{number}\n".encode()
            await asyncio.sleep(0)

    return streamed(pieces())


def endpoint(method: str, path: str, answer: Any) -> Endpoint:
    return Endpoint(method=method, path=path, answer=answer, tag="test", summary="test")


APP = application(
    [
        endpoint("POST", "/api/things/", echo),
        endpoint("POST", "/api/things/{id}/{part}", echo),
        endpoint("PUT", "/api/things/{id}/{part}", typed),
        endpoint("GET", "/api/broken/{what}", broken),
        endpoint("GET", "/api/refused/{kind}", refused),
        endpoint("GET", "/api/slow", slow),
    ]
)


def call(method: str, url: str, **keys: Any) -> Any:
    return asyncio.run(AsgiClient(APP).call(method, url, **keys))


def test_both_spellings_of_a_collection_are_served() -> None:
    for url in ("/api/things", "/api/things/", "/api/things?", "/api/things/?a=b"):
        assert call("POST", url, body=[1]).json() == {"body": [1]}


def test_parts_of_a_path_are_handed_over() -> None:
    assert call("POST", "/api/things/7/wheel", body=None, raw=b"0").json() == {
        "body": 0,
        "id": "7",
        "part": "wheel",
    }


@pytest.mark.parametrize(
    "url", ["/", "/api", "/api/slow/", "/api/things/7", "/api/things/7/wheel/", "//", "/api/things/7//"]
)
def test_what_is_not_there(url: str) -> None:
    reply = call("GET", url)
    assert reply.status == 404
    assert (reply.json()["code"], reply.json()["status"]) == (404, "Not Found")


def test_methods_that_a_path_does_not_have() -> None:
    reply = call("DELETE", "/api/things/7/wheel")
    assert reply.status == 405
    assert reply.json()["message"] == "/api/things/7/wheel knows POST, PUT"
    assert reply.headers["allow"] == "OPTIONS, POST, PUT"
    assert call("OPTIONS", "/api/slow").headers["allow"] == "GET, HEAD, OPTIONS"


def test_a_streamed_answer_is_closed_when_its_reader_left() -> None:
    closed: list[bool] = []

    async def pieces() -> AsyncGenerator[bytes, None]:
        try:
            while True:
                yield b"more\n"
        finally:
            closed.append(True)

    async def story() -> None:
        sent = asyncio.Event()

        async def leave() -> Message:
            await sent.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            if message.get("body"):
                sent.set()
                await asyncio.Event().wait()  # the way to the reader is full

        await streamed(pieces())({"type": "http", "method": "GET", "path": "/"}, leave, send)
        assert closed == [True]

    asyncio.run(story())


@pytest.mark.parametrize("kind", [kind for kind, _ in STATUS_OF])
def test_every_domain_error_has_its_status_and_says_why(kind: type[Exception]) -> None:
    reply = call("GET", f"/api/refused/{kind.__name__}")
    assert reply.status == dict(STATUS_OF)[kind]  # type: ignore[index]
    assert reply.json()["message"] == "because of this; do that"


def test_our_own_bugs_are_not_shown_but_logged(caplog: pytest.LogCaptureFixture) -> None:
    reply = call("GET", "/api/broken/secret")
    assert reply.status == 500
    assert b"secret" not in reply.body
    assert "RuntimeError: secret" in caplog.text


@pytest.mark.parametrize("raw", [b"", b"{", b"nonsense", b"\xff", b"[" * 100_000])
def test_what_is_not_json(raw: bytes) -> None:
    reply = call("POST", "/api/things", raw=raw)
    assert reply.status == 400
    assert reply.json()["errors"] == {"json": ["Invalid JSON body."]}


def test_json_of_the_wrong_shape() -> None:
    reply = call("PUT", "/api/things/1/2", body={"left": "x"})
    assert reply.status == 400
    assert "Expected `int`, got `str` - at `$.left`" in reply.json()["message"]


def test_a_body_that_is_too_large() -> None:
    assert call("POST", "/api/things", raw=b"[" + b" " * BODY_BYTES_MAX + b"]").status == 413
    declared = {"content-length": str(BODY_BYTES_MAX + 1)}
    assert call("POST", "/api/things", raw=b"[]", headers=declared).status == 413


def test_other_origins_are_let_in_on_every_answer_errors_included() -> None:
    for url in ("/api/slow", "/nothing", "/api/broken/x"):
        headers = call("GET", url, headers={"origin": "http://there"}).headers
        assert headers["access-control-allow-origin"] == "http://there"
        assert headers["vary"] == "Origin"
    assert "access-control-allow-origin" not in call("GET", "/api/slow").headers


def test_preflights_are_answered_everywhere() -> None:
    asked = {"origin": "http://there", "access-control-request-headers": "authorization,content-type"}
    reply = call("OPTIONS", "/api/things/1/2", headers=asked)
    assert reply.status == 200
    assert reply.headers["access-control-allow-headers"] == "authorization,content-type"
    assert reply.headers["access-control-allow-methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    assert "access-control-allow-credentials" not in reply.headers
