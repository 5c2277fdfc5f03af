"""Fetch over HTTP with nothing but the standard library: quick to notice an absent host, patient with a bad line."""

from __future__ import annotations

import http.client
import ipaddress
import socket
import ssl
import threading
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import SplitResult, quote, urljoin, urlsplit

from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images.layer.streams import CHUNK_BYTES

CONNECT_TIMEOUT_S = 5.0
"""For finding the host's address, and again for reaching it, however many addresses it has."""
SILENCE_TIMEOUT_S = 30.0
RESUMES_WITHOUT_PROGRESS_MAX = 4
REDIRECTS_MAX = 5
TRIES = 3
"""For short answers when the server is busy or the line breaks."""
BODY_BYTES_MAX = 8 << 20

_ADDRESSES_MAX = 4
_URL_CHARACTERS: Final = "%;/?:@&=+$,~*'()!-._[]"
_USER_AGENT: Final = "oakestra-worker"
_REDIRECTS = {301, 302, 303, 307, 308}
BUSY: Final = frozenset({408, 500, 502, 503, 504})
TOO_MANY_REQUESTS: Final = 429
OK: Final = 200
PARTIAL: Final = 206


class Unreachable(Unavailable):
    """No connection could be made."""


class LineBroke(Exception):
    """The connection failed after it stood; the message says how. Trying again may help."""


@dataclass(slots=True)
class Answer:
    """A server's answer whose body is still to be read; to be closed."""

    status: int
    headers: http.client.HTTPMessage
    host: str
    left: int | None
    """Bytes of the body still to come, if the server says so."""
    _response: http.client.HTTPResponse
    _connection: http.client.HTTPConnection

    def read(self, size: int, /) -> bytes:
        """Return up to `size` bytes of the body. Raises `LineBroke`, also when the body ends too early."""
        wanted = size if self.left is None else min(size, self.left)
        try:
            chunk = self._response.read1(wanted) if wanted else b""
        except (OSError, http.client.HTTPException) as error:
            raise LineBroke(_cause(error)) from error
        if (
            self.left is not None
        ):  # not left to http.client, which forgets to count here (python/cpython#113199)
            if wanted and not chunk:
                raise LineBroke(f"the connection closed {self.left} bytes too early")
            self.left -= len(chunk)
        return chunk

    def body(self) -> bytes:
        """Return the whole body, of documents and error messages."""
        data = b""
        while len(data) <= BODY_BYTES_MAX and (chunk := self.read(CHUNK_BYTES)):
            data += chunk
        if len(data) > BODY_BYTES_MAX:
            raise Rejected(
                f"{self.host} answers with more than {BODY_BYTES_MAX >> 20} MiB where a document should be"
            )
        return data

    def close(self) -> None:
        self._response.close()
        self._connection.close()


class Web:
    """Makes requests. Plain HTTP with registries is for this machine and `insecure_hosts` (`host` or `host:port`).

    `pause` waits between tries.
    """

    def __init__(self, *, insecure_hosts: Collection[str], pause: Callable[[float], None]) -> None:
        self._insecure_hosts = frozenset(insecure_hosts)
        self._tls: ssl.SSLContext | None = None
        self._tls_lock = threading.Lock()
        self.pause = pause

    def base_url(self, host: str) -> str:
        """Return how to speak with the registry at `host`."""
        return f"{'http' if self.may_be_plain(host) else 'https'}://{host}"

    def may_be_plain(self, host: str) -> bool:
        """Return whether `host` (with or without port) may be spoken with unencrypted."""
        name = urlsplit(f"//{host}").hostname or ""
        return host in self._insecure_hosts or name in self._insecure_hosts or _is_loopback(name)

    def get(self, url: str, headers: Mapping[str, str], *, body: bytes | None = None) -> Answer:
        """Ask once, following redirects; with `body` it is a POST. The Authorization header goes to the first host only.

        Raises `Unreachable` within seconds when it is, `LineBroke` when it does not answer properly.
        """
        sent = {"User-Agent": _USER_AGENT, **headers}
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._ask(url, sent, body)
            target = answer.headers.get("Location")
            if answer.status not in _REDIRECTS or not target:
                return answer
            answer.close()
            before, after = urlsplit(url), split(target, base=url, who=answer.host)
            self._check_redirect(before, after)
            url = after.geturl()
            if (before.scheme, before.netloc) != (after.scheme, after.netloc):
                sent.pop("Authorization", None)
        raise Rejected(f"{urlsplit(url).netloc} redirects more than {REDIRECTS_MAX} times")

    def get_patiently(self, url: str, headers: Mapping[str, str]) -> Answer:
        """Ask, and ask again while the server is busy or the line breaks; then raise `Unavailable`."""
        for attempt in range(1, TRIES + 1):
            last = attempt == TRIES
            try:
                answer = self.get(url, headers)
            except LineBroke as error:
                if last:
                    raise Unavailable(f"{urlsplit(url).netloc} does not answer properly: {error}") from error
            else:
                if answer.status not in BUSY or last:
                    return answer
                answer.close()
            self.pause(0.5 * attempt)
        raise AssertionError

    def _check_redirect(self, before: SplitResult, after: SplitResult) -> None:
        if before.scheme == "https" and after.scheme == "http" and not self.may_be_plain(after.netloc):
            raise Rejected(
                f"{before.netloc} redirects from HTTPS to plain HTTP at {after.netloc}; "
                "if that is meant, add it to the worker's insecure_registries"
            )

    def _ask(self, url: str, headers: Mapping[str, str], body: bytes | None) -> Answer:
        parts = urlsplit(url)
        connection = self._connect(parts)
        path = quote((parts.path or "/") + (f"?{parts.query}" if parts.query else ""), safe=_URL_CHARACTERS)
        try:
            connection.request("GET" if body is None else "POST", path, body=body, headers=dict(headers))
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            connection.close()
            raise LineBroke(_cause(error)) from error
        return Answer(response.status, response.headers, parts.netloc, response.length, response, connection)

    def _connect(self, parts: SplitResult) -> http.client.HTTPConnection:
        host = parts.hostname or ""
        port = parts.port or (443 if parts.scheme == "https" else 80)
        connection = http.client.HTTPConnection(host, port)
        try:
            plain = _reach(host, port)
            plain.settimeout(SILENCE_TIMEOUT_S)
            connection.sock = plain
            if parts.scheme == "https":
                plain.settimeout(CONNECT_TIMEOUT_S)
                connection.sock = self._tls_context().wrap_socket(plain, server_hostname=host)
                connection.sock.settimeout(SILENCE_TIMEOUT_S)
        except OSError as error:
            connection.close()
            raise Unreachable(f"{parts.netloc} cannot be reached: {_cause(error)}") from error
        return connection

    def _tls_context(self) -> ssl.SSLContext:
        with self._tls_lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
            return self._tls


class Resuming:
    """A body read through breaks of the line: each time it goes on from where it was, while that brings anything.

    `ask` makes the request with the headers it is given. Content that is not `immutable` must have the same ETag or
    date each time. To be closed.
    """

    def __init__(
        self, web: Web, ask: Callable[[Mapping[str, str]], Answer], *, what: str, immutable: bool = False
    ) -> None:
        self._web = web
        self._ask = ask
        self._what = what
        self._immutable = immutable
        self._offset = 0
        self._validator = ""
        self._answer: Answer | None = None
        self._fruitless = 0

    def open(self) -> int | None:
        """Ask for the body; return its length if the server says so. Raises `Unavailable` or `Rejected`."""
        while self._answer is None:
            try:
                self._answer = self._ask({})
            except LineBroke as error:
                self._count_break(error)
        self._validator = _validator(self._answer)
        return self._answer.left

    def read(self, size: int, /) -> bytes:
        while True:
            try:
                if self._answer is None:
                    self._answer = self._ask_for_rest()
                chunk = self._answer.read(size)
            except (LineBroke, Unreachable) as error:
                self.close()
                self._count_break(error)
                continue
            if chunk:
                self._offset += len(chunk)
                self._fruitless = 0
            return chunk

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()
            self._answer = None

    def _ask_for_rest(self) -> Answer:
        answer = self._ask({"Range": f"bytes={self._offset}-"} if self._offset else {})
        if not self._immutable and _validator(answer) != self._validator:
            answer.close()
            raise Unavailable(
                f"{self._what} changed while it was fetched; it will be fetched again from the start"
            )
        if answer.status == PARTIAL:
            start = answer.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")[0]
            if start != str(self._offset):
                answer.close()
                raise Unavailable(
                    f"{answer.host} resumes {self._what} at '{start}' instead of {self._offset}"
                )
            return answer
        self._skip(answer)
        return answer

    def _skip(self, answer: Answer) -> None:
        """Read over what is known, because this server cannot start in the middle."""
        left = self._offset
        try:
            while left and (chunk := answer.read(min(left, CHUNK_BYTES))):
                left -= len(chunk)
        except LineBroke:
            answer.close()
            raise
        if left:
            answer.close()
            raise LineBroke("the second answer is shorter than the first")

    def _count_break(self, error: LineBroke | Unreachable) -> None:
        self._fruitless += 1
        if self._fruitless > RESUMES_WITHOUT_PROGRESS_MAX:
            raise Unavailable(f"{self._what} could not be fetched whole: {error}") from error
        self._web.pause(min(0.25 * 2**self._fruitless, 3.0))


def split(url: str, *, who: str, base: str = "") -> SplitResult:
    """Return the parts of a web address that `who` sends us to. Raises `Rejected` if it is none."""
    try:
        parts = urlsplit(urljoin(base, url))
        usable = parts.scheme in {"http", "https"} and parts.hostname and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise Rejected(f"{who} sends us to '{url[:200]}', which is no web address")
    return parts


def download(
    web: Web, url: str, target: Path, *, report: Callable[[int, int], None], on_written: Callable[[int], None]
) -> None:
    """Fetch `url` into the file `target`, telling (bytes done, bytes in all or 0) and the bytes of each write.

    Raises `Unavailable` or `Rejected`.
    """

    def ask(headers: Mapping[str, str]) -> Answer:
        answer = web.get(url, headers)
        if answer.status in {OK, PARTIAL}:
            return answer
        answer.close()
        if answer.status in BUSY or answer.status == TOO_MANY_REQUESTS:
            raise LineBroke(f"{answer.host} is busy (HTTP {answer.status})")
        raise Rejected(f"{url} cannot be fetched: {answer.host} answers HTTP {answer.status}")

    body = Resuming(web, ask, what=url)
    done = 0
    try:
        total = body.open() or 0
        with target.open("wb") as file:
            while chunk := body.read(CHUNK_BYTES):
                file.write(chunk)
                on_written(len(chunk))
                done += len(chunk)
                report(done, total)
    finally:
        body.close()


def _reach(host: str, port: int) -> socket.socket:
    """Connect to one of the host's addresses, the time for all together being bounded."""
    addresses = _look_up(host, port)[:_ADDRESSES_MAX]
    failure = OSError()
    for family, kind, protocol, _, address in addresses:
        attempt = socket.socket(family, kind, protocol)
        attempt.settimeout(CONNECT_TIMEOUT_S / len(addresses))
        try:
            attempt.connect(address)
        except OSError as error:
            attempt.close()
            failure = error
        else:
            return attempt
    raise failure


def _validator(answer: Answer) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


_Address = tuple[socket.AddressFamily, socket.SocketKind, int, str, Any]


def _look_up(host: str, port: int) -> list[_Address]:
    """Find a host's addresses. A thread, because the resolver's own time limits add up to a minute."""
    found: list[_Address] = []
    failures: list[OSError] = []

    def ask_resolver() -> None:
        try:
            found.extend(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except OSError as error:
            failures.append(error)
        except UnicodeError:
            failures.append(OSError("it is no possible host name"))

    thread = threading.Thread(target=ask_resolver, name="resolver", daemon=True)
    thread.start()
    thread.join(CONNECT_TIMEOUT_S)
    if failures:
        raise failures[0]
    if not found:
        raise TimeoutError(f"no name server told its address within {CONNECT_TIMEOUT_S:.0f} s")
    return found


def _cause(error: Exception) -> str:
    """Say in a few words why a connection failed."""
    match error:
        case ssl.SSLCertVerificationError():
            return f"its certificate is not trusted ({error.verify_message}); install the CA it was issued by"
        case ssl.SSLError():
            return (
                f"it does not speak TLS ({error.reason or 'no TLS answer'}); if it serves plain HTTP, "
                "add it to the worker's insecure_registries"
            )
        case socket.gaierror():
            return f"its name has no address ({error.strerror})"
        case TimeoutError() if not error.args or error.errno or error.args == ("timed out",):
            return "no answer in time"
        case OSError() if error.strerror:
            return error.strerror.lower()
    return str(error) or type(error).__name__


def _is_loopback(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False
