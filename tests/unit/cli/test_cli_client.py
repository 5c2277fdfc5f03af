"""What goes wrong between `oak` and root, and what is said about it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from oakestra.cli.client import Root, root_url
from oakestra.model import errors
from oakestra.model.errors import Invalid, OakestraError, Unauthenticated, Unavailable


class Token:
    """A login that can be renewed so often."""

    def __init__(self, *tokens: str) -> None:
        self._tokens = list(tokens)
        self.given: list[str] = []

    def token(self) -> str:
        self.given.append(self._tokens[0])
        return self._tokens[0]

    def renew(self) -> None:
        del self._tokens[0]
        if not self._tokens:
            raise Unauthenticated("log in again")


@contextmanager
def answering(*answers: bytes) -> Iterator[str]:
    """Answer each connection with the next of these bytes, then hang up; give the address."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        for answer in answers:
            connection, _ = listener.accept()
            with connection:
                request = b""
                while b"\r\n\r\n" not in request:
                    request += connection.recv(65536)
                connection.sendall(answer)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        thread.join()
        listener.close()


def answer(status: int, body: bytes, headers: bytes = b"") -> bytes:
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n%s\r\n%s" % (status, len(body), headers, body)


def test_an_answer_and_the_time_of_root() -> None:
    with answering(answer(200, b'{"a": 1}', b"Date: Tue, 14 Nov 2023 22:13:20 GMT\r\n")) as url:
        root = Root(url, None)
        assert root.get("/x") == {"a": 1}
        assert root.now_wall_s == 1_700_000_000.0


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, errors.Invalid), (403, errors.Forbidden), (404, errors.NotFound), (409, errors.Conflict),
        (413, errors.Invalid), (422, errors.Rejected), (500, errors.Unavailable), (503, errors.Unavailable),
    ],
)  # fmt: skip
def test_roots_own_sentence_is_what_is_said(status: int, kind: type[OakestraError]) -> None:
    sentence = answer(status, b'{"message": "a sentence"}')
    with answering(sentence) as url, pytest.raises(kind, match="a sentence"):
        Root(url, None).get("/x")


@pytest.mark.parametrize(
    "refusal",
    [answer(401, b'{"message": "Token has expired"}'), answer(422, b'{"msg": "Not enough segments"}')],
)
def test_a_token_that_counts_no_more_is_renewed_once_and_the_request_repeated(refusal: bytes) -> None:
    login = Token("old", "new")
    with answering(refusal, answer(200, b"[]")) as url:
        assert Root(url, login).get("/x") == []
    assert login.given == ["old", "new"]


def test_a_refused_login_says_how_to_log_in() -> None:
    refusal = answer(401, b'{"message": "Missing authentication token", "reason": "revoked"}')
    said = r"does not accept the login: revoked; log in: oak login http://127"
    with answering(refusal, refusal) as url, pytest.raises(Unauthenticated, match=said):
        Root(url, Token("old", "new", "newer")).get("/x")


def test_a_document_that_is_refused_is_no_refused_token() -> None:
    refusal = answer(422, b'{"message": "the SLA cannot be accepted"}')
    with answering(refusal) as url, pytest.raises(errors.Rejected):
        Root(url, Token("good")).post("/x", {})


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(Unavailable, match=f"no root answers at http://127.0.0.1:{port}: .*sudo oak up"):
        Root(f"http://127.0.0.1:{port}", None).get("/x")


def test_what_starts_a_root_is_advised_on_its_own_machine_only(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_keys: object) -> None:
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "create_connection", refuse)
    with pytest.raises(
        Unavailable, match=r"no root answers at http://192\.0\.2\.9:10000: .*start it there, or ask"
    ):
        Root("http://192.0.2.9:10000", None).get("/x")


def test_a_root_that_lets_no_connection_be_made_is_not_waited_for_as_long_as_an_answer() -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        url = f"http://127.0.0.1:{full.getsockname()[1]}"
        queued = [socket.socket() for _ in range(4)]
        for one in queued:
            one.setblocking(False)
            one.connect_ex(full.getsockname())
        with pytest.raises(Unavailable, match=r"nothing came back within 0 s, so its machine is off"):
            Root(url, None, timeout_s=0.05).get("/x")
        for one in queued:
            one.close()


def test_an_answer_that_does_not_come() -> None:
    said = r"said nothing for 0 s; it is cut off or overloaded"
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(Unavailable, match=said):
        Root(f"http://127.0.0.1:{silent.getsockname()[1]}", None, timeout_s=0.05).get("/x")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (b"", "went away while it answered"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n{", "went away while it answered"),
        (b"SSH-2.0-OpenSSH\r\n\r\n", "does not speak like a root"),
        (answer(200, b"<html>"), "does not speak like a root: GET /x gave something that is not JSON"),
        (answer(404, b"<html>"), "does not speak like a root: /x answers 404"),
        (answer(404, b'["message"]'), "does not speak like a root: /x answers 404"),
        (answer(302, b"", b"Location: /login\r\n"), "does not speak like a root: /x answers 302"),
    ],
)
def test_what_answers_is_no_root(wrong: bytes, said: str) -> None:
    with answering(wrong) as url, pytest.raises(Unavailable, match=said):
        Root(url, None).get("/x")


def test_a_stream_that_is_cut_says_so() -> None:
    cut = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\none\n\r\n"
    with answering(cut) as url:
        pieces = Root(url, None).stream("/x", endless=False)
        assert next(pieces) == b"one\n"
        with pytest.raises(Unavailable, match="went away while it answered"):
            next(pieces)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("edge", "http://edge:10000"),
        ("192.0.2.1", "http://192.0.2.1:10000"),
        ("192.0.2.1:8080", "http://192.0.2.1:8080"),
        ("[::1]", "http://[::1]:10000"),
        ("http://edge/", "http://edge"),
        ("https://edge.example/oak/", "https://edge.example/oak"),
    ],
)
def test_addresses_are_written_out(text: str, url: str) -> None:
    assert root_url(text) == url


@pytest.mark.parametrize(
    "text", ["", "ftp://x", "http://", "http://x:port", "http://x:99999", "a:b@c", "http://x?y=1", "::1"]
)
def test_what_is_no_address_is_told_with_one(text: str) -> None:
    with pytest.raises(Invalid, match="is no address of a root; write it like http://192"):
        root_url(text)
