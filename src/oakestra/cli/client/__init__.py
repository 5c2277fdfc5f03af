"""Ask a root over HTTP, as somebody who is logged in. Standard library only: commands must start quickly."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
from collections.abc import Iterator, Mapping
from email.utils import mktime_tz, parsedate_tz
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import SplitResult, urlencode, urlsplit

from oakestra.model.errors import Invalid, OakestraError, Unauthenticated, Unavailable

API_PORT = 10000
CONNECT_S = 5.0
"""Connecting may take so long: it needs no work of root's, only its machine and the way there."""
ANSWER_S = 30.0
"""Every read may take so long."""
PIECE_BYTES = 64 * 1024
_NO_BODY = object()
"""`None` is a document: JSON's null."""

Document = Mapping[str, Any]
"""What root says of one thing, as `wire.api` describes it."""


class Login(Protocol):
    """Proves to a root who asks."""

    def token(self) -> str:
        """Return an access token, the newest there is."""

    def renew(self) -> None:
        """Get a new access token. Raises `Unauthenticated` with what to do if there is none to be had."""


class Root:
    """A root, asked by one person. Raises domain errors with root's own sentences."""

    def __init__(
        self, url: str, login: Login | None, *, timeout_s: float = ANSWER_S, keeps: bool = False
    ) -> None:
        self.url = url
        self.now_wall_s = 0.0
        """Root's time at its last answer: ages are told by the clock that stamped what is shown."""
        self._parts = urlsplit(url)
        self._login = login
        self._timeout_s = timeout_s
        self._keeps = keeps
        self._kept: http.client.HTTPConnection | None = None

    def line(self) -> Root:
        """Return the same root, asked over one connection: for many small requests in a row."""
        return Root(self.url, self._login, timeout_s=self._timeout_s, keeps=True)

    def close(self) -> None:
        """Let go of the connection that is kept, if one is."""
        if self._kept is not None:
            self._kept.close()
            self._kept = None

    def get(self, path: str, **query: str) -> Any:
        """Return what is at `path`."""
        return self._decoded("GET", path, query)

    def post(self, path: str, body: object = _NO_BODY) -> Any:
        """Send `body` as JSON and return the answer."""
        return self._decoded("POST", path, {}, b"" if body is _NO_BODY else json.dumps(body).encode())

    def enter(self, path: str, body: bytes, **query: str) -> Any:
        """Send bytes as they are and return the answer."""
        return self._decoded("POST", path, query, body)

    def put(self, path: str, body: object) -> Any:
        """Put `body` there as JSON and return the answer."""
        return self._decoded("PUT", path, {}, json.dumps(body).encode())

    def delete(self, path: str) -> Any:
        """Delete what is at `path`."""
        return self._decoded("DELETE", path, {})

    def stream(self, path: str, *, endless: bool, body: object = _NO_BODY, **query: str) -> Iterator[bytes]:
        """Yield what is at `path` as it comes, or is answered to `body`; `endless` waits as long as it takes."""
        method, sent = ("GET", b"") if body is _NO_BODY else ("POST", json.dumps(body).encode())
        response = self._ask(method, path, query, sent, endless=endless)
        try:
            while piece := response.read1(PIECE_BYTES):
                yield piece
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error
        finally:
            response.close()

    def reach(self) -> None:
        """Return if somebody listens there. Raises `Unavailable` with what to do if nobody does."""
        self._connected().close()

    def _decoded(self, method: str, path: str, query: Mapping[str, str], body: bytes = b"") -> Any:
        with self._ask(method, path, query, body) as response:
            content = self._content(response)
        try:
            return json.loads(content)
        except ValueError as error:
            raise self._no_root(f"{method} {path} gave something that is not JSON") from error

    def _ask(
        self, method: str, path: str, query: Mapping[str, str], body: bytes, *, endless: bool = False
    ) -> http.client.HTTPResponse:
        """Return a good answer; a token that counts no more is renewed once."""
        renewed = False
        while True:
            response = self._exchange(method, path, query, body, endless=endless)
            if response.status < HTTPStatus.MULTIPLE_CHOICES:
                return response
            with response:
                content = self._content(response)
            if renewed or self._login is None or not _refuses_token(response.status, content):
                raise self._error(response.status, content, path)
            self._login.renew()
            renewed = True

    def _exchange(
        self, method: str, path: str, query: Mapping[str, str], body: bytes, *, endless: bool
    ) -> http.client.HTTPResponse:
        headers = {
            "Connection": "keep-alive" if self._keeps else "close",
            "Content-Type": "application/json",
        }
        if self._login is not None:
            headers["Authorization"] = f"Bearer {self._login.token()}"
        target = self._parts.path + path + (f"?{urlencode(query)}" if query else "")
        connection, self._kept = self._kept or self._connected(), None
        try:
            connection.request(method, target, body or None, headers)
            opened = connection.sock
            response = connection.getresponse()
            if endless:
                opened.settimeout(None)
            if self._keeps:
                self._kept = connection
            else:
                opened.close()  # what is left to read keeps it open until it is read
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise self._unreachable(error) from error
        date = parsedate_tz(response.headers.get("date", ""))
        self.now_wall_s = mktime_tz(date) if date else self.now_wall_s
        return response

    def _connected(self) -> http.client.HTTPConnection:
        within_s = min(CONNECT_S, self._timeout_s)
        connection = _connection(self._parts, within_s)
        try:
            connection.connect()
        except TimeoutError as error:
            raise Unavailable(
                f"no root answers at {self.url}: nothing came back within {within_s:.0f} s, so its machine is off "
                "or cut off, or a firewall is between; is the address right? `oak login ADDRESS` chooses another"
            ) from error
        except OSError as error:
            connection.close()
            raise self._unreachable(error) from error
        connection.sock.settimeout(self._timeout_s)
        return connection

    def _content(self, response: http.client.HTTPResponse) -> bytes:
        try:
            return response.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error) from error

    def _error(self, status: int, content: bytes, path: str) -> OakestraError:
        from oakestra.transport.http_client import ERROR_OF  # slow to import; only errors need it

        found = _json(content)
        sentence = found.get("message") or found.get("msg")
        if not isinstance(sentence, str):
            return self._no_root(f"{path} answers {status}")
        if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            return Unavailable(f"root cannot do this now: {sentence}")
        if status == HTTPStatus.UNAUTHORIZED and self._login is not None:
            reason = found.get("reason") or sentence
            return Unauthenticated(
                f"{self.url} does not accept the login: {reason}; log in: oak login {self.url}"
            )
        return ERROR_OF.get(status, Invalid)(sentence)

    def _no_root(self, seen: str) -> OakestraError:
        return Unavailable(
            f"what answers at {self.url} does not speak like a root: {seen}; is the address right? "
            "`oak login ADDRESS` chooses another"
        )

    def _unreachable(self, error: Exception) -> OakestraError:
        where = self._parts.netloc
        match error:
            case ConnectionRefusedError():
                return Unavailable(
                    f"no root answers at {self.url}: nothing listens there; "
                    + ("start it (sudo oak up)" if _is_here(self._parts.hostname or "") else "start it there")
                    + ", or ask another: oak login ADDRESS"
                )
            case TimeoutError():
                return Unavailable(
                    f"root at {where} said nothing for {self._timeout_s:.0f} s; it is cut off or overloaded: try again"
                )
            case socket.gaierror():
                return Unavailable(f"the name {self._parts.hostname} is unknown here; is {self.url} right?")
            case ssl.SSLError():
                return Unavailable(
                    f"no safe connection to {where}: {error.reason or error}; is {self.url} right?"
                )
            case ConnectionResetError() | BrokenPipeError() | http.client.IncompleteRead():
                return Unavailable(f"root at {where} went away while it answered; try again when it runs")
            case OSError():
                return Unavailable(f"root at {where} cannot be reached: {error.strerror or error}; try again")
            case _:
                return self._no_root(type(error).__name__)


def root_url(text: str) -> str:
    """Return a root's address written out: `host` alone means plain HTTP and the usual port. Raises `Invalid`."""
    try:
        if "://" not in text:
            port = "" if urlsplit(f"//{text}").port else f":{API_PORT}"
            text = f"http://{text.rstrip('/')}{port}"
        parts = urlsplit(text)
        good = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username:
        raise Invalid(f"{text!r} is no address of a root; write it like http://192.0.2.1:{API_PORT}")
    return text.rstrip("/")


def _connection(parts: SplitResult, timeout_s: float) -> http.client.HTTPConnection:
    host = parts.hostname or ""
    if parts.scheme == "https":
        return http.client.HTTPSConnection(host, parts.port, timeout=timeout_s)
    return http.client.HTTPConnection(host, parts.port, timeout=timeout_s)


def _is_here(host: str) -> bool:
    """Tell whether a host is this machine: only its own addresses can be bound to."""
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_DGRAM)
        for family, kind, _, _, address in found:
            with socket.socket(family, kind) as probe:
                probe.bind(address)
    except OSError:
        return False
    return True


def _refuses_token(status: int, content: bytes) -> bool:
    """Tell whether root turned the token down: half of the original's routes say 422 to one they cannot read."""
    return status == HTTPStatus.UNAUTHORIZED or (
        status == HTTPStatus.UNPROCESSABLE_ENTITY and "msg" in _json(content)
    )


def _json(content: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(content)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}
