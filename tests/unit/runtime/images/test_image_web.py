"""What is said about hosts that are away, silent or hostile, and what is never sent to them."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images.reference import RegistryImage
from oakestra.runtime.images.sources.registry import Credentials, Registry, read_credentials
from oakestra.runtime.images.sources.web import CONNECT_TIMEOUT_S, Web, download

Respond = Callable[[http.server.BaseHTTPRequestHandler], None]


class Server(http.server.ThreadingHTTPServer):
    """Answers every request with `respond`."""

    def __init__(self, respond: Respond) -> None:
        super().__init__(("127.0.0.1", 0), _Ask)
        self.respond = respond
        self.seen: list[tuple[str, str]] = []
        """Path and Authorization header of every request."""

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Stay silent about clients that go away."""


class _Ask(http.server.BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self.server.seen.append((self.path, self.headers.get("Authorization", "")))
        self.server.respond(self)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


def answer(
    ask: http.server.BaseHTTPRequestHandler,
    status: int,
    body: bytes = b"",
    length: int | None = None,
    **headers: str,
) -> None:
    ask.send_response(status)
    for key, value in headers.items():
        ask.send_header(key.replace("_", "-"), value)
    ask.send_header("Content-Length", str(len(body) if length is None else length))
    ask.end_headers()
    ask.wfile.write(body)


@pytest.fixture
def serve() -> Iterator[Callable[[Respond], Server]]:
    """A function that starts a server."""
    with contextlib.ExitStack() as running:

        def start(respond: Respond) -> Server:
            server = Server(respond)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            running.callback(server.server_close)
            running.callback(thread.join)
            running.callback(server.shutdown)
            return server

        yield start


@pytest.fixture
def web() -> Web:
    return Web(insecure_hosts=["insecure.example:5000", "plain.example"], pause=lambda _: None)


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("registry.example", "https://registry.example"),
        ("10.0.0.1:5000", "https://10.0.0.1:5000"),
        ("localhost.example", "https://localhost.example"),
        ("insecure.example", "https://insecure.example"),
        ("insecure.example:5000", "http://insecure.example:5000"),
        ("plain.example:1234", "http://plain.example:1234"),
        ("localhost:5000", "http://localhost:5000"),
        ("127.8.8.8", "http://127.8.8.8"),
        ("[::1]:5000", "http://[::1]:5000"),
    ],
)
def test_plain_http_is_for_this_machine_and_named_hosts(web: Web, host: str, url: str) -> None:
    assert web.base_url(host) == url


def test_a_host_that_swallows_connections_is_given_up_in_time(web: Web) -> None:
    with socket.create_server(("127.0.0.1", 0), backlog=0) as full, contextlib.ExitStack() as waiting:
        address = full.getsockname()
        for _ in range(3):  # fills the queue, after which Linux drops further ones without an answer
            filler = waiting.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(address)
        begun = time.monotonic()
        with pytest.raises(Unavailable, match=f"127.0.0.1:{address[1]} cannot be reached: no answer in time"):
            web.get(f"http://127.0.0.1:{address[1]}/", {})
        assert time.monotonic() - begun < CONNECT_TIMEOUT_S + 2


def test_an_unknown_name_is_named(web: Web) -> None:
    with pytest.raises(Unavailable, match=r"nowhere\.invalid cannot be reached: its name has no address"):
        web.get("https://nowhere.invalid/", {})


@pytest.fixture
def tls(tmp_path: Path) -> Iterator[str]:
    """A server whose certificate nobody knows."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    subprocess.run(
        f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}".split(),
        check=True,
        capture_output=True,
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server = Server(lambda ask: answer(ask, 200))
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield f"https://localhost:{server.server_address[1]}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_unknown_certificate_is_not_trusted(web: Web, tls: str) -> None:
    with pytest.raises(Unavailable, match=r"certificate is not trusted \(self-signed certificate\)"):
        web.get(tls, {})


def test_plain_http_where_tls_is_expected_says_what_to_do(
    web: Web, serve: Callable[[Respond], Server]
) -> None:
    server = serve(lambda ask: answer(ask, 200))
    with pytest.raises(Unavailable, match=r"does not speak TLS.*insecure_registries"):
        web.get(f"https://{server.host}/", {})


def test_a_busy_server_is_asked_again_and_then_left_alone(
    web: Web, serve: Callable[[Respond], Server]
) -> None:
    server = serve(lambda ask: answer(ask, 503 if len(server.seen) < 3 else 200))
    assert web.get_patiently(f"http://{server.host}/", {}).status == 200
    always = serve(lambda ask: answer(ask, 503))
    assert web.get_patiently(f"http://{always.host}/", {}).status == 503
    assert len(always.seen) == 3


def test_a_server_that_hangs_up_is_unavailable(web: Web, serve: Callable[[Respond], Server]) -> None:
    server = serve(lambda ask: ask.connection.close())
    with pytest.raises(Unavailable, match=f"{server.host} does not answer properly"):
        web.get_patiently(f"http://{server.host}/", {})


def test_redirects_end(web: Web, serve: Callable[[Respond], Server]) -> None:
    server = serve(lambda ask: answer(ask, 302, Location="/again"))
    with pytest.raises(Rejected, match="redirects more than 5 times"):
        web.get(f"http://{server.host}/", {})


@pytest.mark.parametrize(
    "target", ["ftp://x/", "file:///etc/passwd", "http://:80/", "http://[::1/", "http://x:y/"]
)
def test_redirects_lead_to_the_web_only(web: Web, serve: Callable[[Respond], Server], target: str) -> None:
    server = serve(lambda ask: answer(ask, 302, Location=target))
    with pytest.raises(Rejected, match="no web address"):
        web.get(f"http://{server.host}/", {})


def test_a_password_stays_with_its_host(web: Web, serve: Callable[[Respond], Server]) -> None:
    other = serve(lambda ask: answer(ask, 200))
    server = serve(
        lambda ask: answer(ask, 302, Location="/here" if ask.path == "/" else f"http://{other.host}/there")
    )
    assert web.get(f"http://{server.host}/", {"Authorization": "secret"}).status == 200
    assert server.seen == [("/", "secret"), ("/here", "secret")]
    assert other.seen == [("/there", "")]


def test_an_archive_that_changes_meanwhile_is_not_glued_together(
    web: Web, serve: Callable[[Respond], Server], tmp_path: Path
) -> None:
    server = serve(
        lambda ask: answer(
            ask, 206 if "Range" in ask.headers else 200, b"abc", 6, ETag=f'"{len(server.seen)}"'
        )
    )
    with pytest.raises(Unavailable, match="changed while it was fetched"):
        download(
            web,
            f"http://{server.host}/a.tar",
            tmp_path / "a",
            report=lambda *_: None,
            on_written=lambda _: None,
        )


def test_an_archive_is_resumed(web: Web, serve: Callable[[Respond], Server], tmp_path: Path) -> None:
    def respond(ask: http.server.BaseHTTPRequestHandler) -> None:
        if ask.headers.get("Range") == "bytes=3-":
            answer(ask, 206, b"def", Content_Range="bytes 3-5/6", ETag='"1"')
        else:
            answer(ask, 200, b"abc", 6, ETag='"1"')
            ask.close_connection = True

    server = serve(respond)
    seen: list[tuple[int, int]] = []
    download(
        web,
        f"http://{server.host}/a.tar",
        tmp_path / "a",
        report=lambda *step: seen.append(step),
        on_written=lambda _: None,
    )
    assert (tmp_path / "a").read_bytes() == b"abcdef"
    assert seen == [(3, 6), (6, 6)]


def registry(web: Web, host: str, credentials: Credentials | None = None) -> Registry:
    image = RegistryImage(host=host, repository="team/web", tag="1")
    return Registry(image, web, {host: credentials} if credentials else {})


def test_a_limit_of_pulls_is_waited_out(web: Web, serve: Callable[[Respond], Server]) -> None:
    body = json.dumps({"errors": [{"code": "TOOMANYREQUESTS", "message": "slow down"}]}).encode()
    server = serve(lambda ask: answer(ask, 429, body))
    with pytest.raises(Unavailable, match=r"lets this address fetch no more for now \(slow down\)"):
        registry(web, server.host).image("amd64")


def test_passwords_are_not_sent_unencrypted_to_strangers(
    web: Web, serve: Callable[[Respond], Server]
) -> None:
    challenge = 'Bearer realm="http://auth.example/token",service="x"'
    server = serve(lambda ask: answer(ask, 401, WWW_Authenticate=challenge))
    with pytest.raises(Rejected, match=r"password sent unencrypted to auth\.example"):
        registry(web, server.host, Credentials(user="a", password="b")).image("amd64")


@pytest.mark.parametrize(
    ("challenge", "says"),
    [
        ("Digest realm=x", "way to log in that this worker does not know"),
        ("", "Basic and Bearer"),
        ('Bearer realm="file:///etc/passwd"', "no web address"),
        ("Bearer", "no web address"),
    ],
)
def test_odd_challenges_are_refused(
    web: Web, serve: Callable[[Respond], Server], challenge: str, says: str
) -> None:
    server = serve(lambda ask: answer(ask, 401, WWW_Authenticate=challenge))
    with pytest.raises(Rejected, match=says):
        registry(web, server.host).image("amd64")


def test_an_endless_document_is_not_read(web: Web, serve: Callable[[Respond], Server]) -> None:
    server = serve(lambda ask: answer(ask, 200, b" " * (9 << 20)))
    with pytest.raises(Rejected, match="more than 8 MiB"):
        registry(web, server.host).image("amd64")


def test_credentials_are_found_under_the_names_docker_uses(tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    entries = {
        "https://index.docker.io/v1/": {"auth": "YTpiOmM="},
        "ghcr.io": {"username": "u", "password": "p"},
        "https://registry.example:5000": {"identitytoken": "t"},
        "helper.example": {},
    }
    config.write_text(json.dumps({"auths": entries, "credsStore": "x", "HttpHeaders": {}}))
    found = read_credentials(config)
    assert found["docker.io"] == Credentials(user="a", password="b:c")
    assert found["ghcr.io"] == Credentials(user="u", password="p")
    assert found["registry.example:5000"] == Credentials(identity_token="t")


@pytest.mark.parametrize("text", ["", "[]", '{"auths": 1}', '{"auths": {"x": {"auth": "!"}}}'])
def test_broken_credentials_are_told(tmp_path: Path, text: str) -> None:
    config = tmp_path / "config.json"
    config.write_text(text)
    with pytest.raises(Unavailable, match=r"config\.json cannot be read"):
        read_credentials(config)
