"""Answers, refusals and silence of an HTTP server become values and domain errors."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from oakestra.model import errors
from oakestra.model.errors import Invalid, OakestraError, Unavailable
from oakestra.transport.http_client import Answer, post


class Answering(BaseHTTPRequestHandler):
    """Answers with the status named by the path, and what it was sent."""

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        name = self.path.rpartition("/")[2]
        if name == "slow":
            stopped.wait(5)
        if name in {"hangs-up", "slow"}:
            self.close_connection = True
            return
        self.send_response(int(name) if name.isdigit() else 200)
        self.end_headers()
        self.wfile.write(body + self.headers.get("x-token", "").encode())

    def log_message(self, format: str, *args: object) -> None:
        del format, args


stopped = threading.Event()


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    stopped.clear()
    with ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        stopped.set()
        server.shutdown()
        thread.join()


def posted(url: str, body: bytes = b"", *, timeout_s: float = 5.0, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return asyncio.run(post(url, body, headers=named, timeout_s=timeout_s))


def test_an_answer_is_a_value(url: str) -> None:
    assert posted(f"{url}/api/201", b"hello ", x_token="secret") == Answer(status=201, body=b"hello secret")


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.Invalid),
        (401, errors.Unauthenticated),
        (403, errors.Forbidden),
        (404, errors.NotFound),
        (409, errors.Conflict),
        (418, errors.Invalid),
        (422, errors.Rejected),
        (429, errors.Unavailable),
        (500, errors.Unavailable),
        (503, errors.Unavailable),
    ],
)
def test_a_refusal_is_a_domain_error_with_the_servers_sentence(
    url: str, status: int, kind: type[OakestraError]
) -> None:
    with pytest.raises(kind, match="the token has expired") as caught:
        posted(f"{url}/{status}", b'{"message": "the token has expired"}')
    assert type(caught.value) is kind


def test_a_refusal_without_a_sentence_names_the_status_and_the_path(url: str) -> None:
    with pytest.raises(errors.NotFound, match="404 to /api/404"):
        posted(f"{url}/api/404", b"<html>")


def test_a_host_that_is_away_is_named() -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1 .*refused"):
        posted("http://127.0.0.1:1/x")


def test_a_host_that_hangs_up_or_says_nothing_is_named(url: str) -> None:
    with pytest.raises(Unavailable, match="127"):
        posted(f"{url}/hangs-up")
    with pytest.raises(Unavailable, match="no answer for"):
        posted(f"{url}/slow", timeout_s=0.2)


def test_what_is_no_address_is_invalid() -> None:
    for address in ("cluster:10100", "ftp://cluster/x", "http://"):
        with pytest.raises(Invalid, match="not an http"):
            posted(address)
