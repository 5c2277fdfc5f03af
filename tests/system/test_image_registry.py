"""Images from a real registry (Debian's docker-registry): open, with passwords, with tokens, over a bad line."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import http.client
import http.server
import json
import os
import subprocess
import tarfile
import threading
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import ClassVar
from urllib.parse import parse_qs, urlsplit

import pytest

from image_registry import Pusher, RegistryProcess
from oakestra.control.clock import SystemClock
from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images import ImageStore
from oakestra.runtime.images.build import File, Layer, build_archive

pytestmark = pytest.mark.root

USER, PASSWORD = "worker", "pass word:1"
HTPASSWD = "worker:$2y$04$lGNcN/VwAQ1Wp5/CHxkYaOaNDifMFK/XkhXPkU.0lfbCviOCRO71G\n"
SERVICE = "test registry"
LAYERS: tuple[Layer, ...] = (
    {"bin/tool": File(content=b"tool")},
    {"noise": File(content=bytes(range(256)) * 9)},
)
ARM = {"architecture": "arm64", "os": "linux"}
AMD = {"architecture": "amd64", "os": "linux"}


@pytest.fixture(scope="module")
def program(need_program: Callable[[str, str], str]) -> str:
    return need_program("docker-registry", "docker-registry")


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("storage")


@pytest.fixture(scope="module")
def registry(
    program: str, storage: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RegistryProcess]:
    """An open registry that has `web:1` for amd64, `web:arm` for arm64 and `web:both` for both."""
    home = tmp_path_factory.mktemp("registry")
    with RegistryProcess(program, storage, home / "open") as process:
        pusher = Pusher(process.host, "team/web")
        archive = home / "web.tar"
        listed = []
        for tag, architecture, platform in (("1", "amd64", AMD), ("arm", "arm64", ARM)):
            build_archive(archive, "web", [*LAYERS, {architecture: File()}], architecture=architecture)
            listed.append((pusher.push(archive, tag), 0, platform))
        pusher.index("both", *listed, (listed[0][0], 0, {"architecture": "unknown", "os": "unknown"}))
        yield process


def open_store(state: Path, *, credentials_file: Path | None = None) -> ImageStore:
    return ImageStore(
        state,
        image_dirs=[],
        in_use=set,
        clock=SystemClock(),
        architecture="amd64",
        credentials_file=credentials_file,
    )


def run(work: Coroutine[object, object, None]) -> None:
    asyncio.run(work)


def write_credentials(path: Path, host: str, user: str, password: str) -> Path:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}, "psFormat": "x"}))
    return path


def test_an_image_is_fetched_once(registry: RegistryProcess, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    seen: list[tuple[int, int]] = []
    reference = f"{registry.host}/team/web:1"
    run(store.ensure(reference, progress=lambda done, total: seen.append((done, total))))
    image = store.resolve(reference)
    assert image is not None
    assert (image.layers[0] / "bin/tool").read_bytes() == b"tool"
    assert seen[-1][0] == seen[-1][1] > 0
    run(store.ensure(reference, progress=lambda *_: pytest.fail("fetched again")))


def test_the_right_platform_is_fetched(registry: RegistryProcess, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    run(store.ensure(f"{registry.host}/team/web:both"))
    image = store.resolve(f"{registry.host}/team/web:both")
    assert image is not None
    assert (image.layers[-1] / "amd64").exists()
    run(store.ensure(f"{registry.host}/team/web@{image.digest}"))
    assert store.resolve(f"{registry.host}/team/web@{image.digest}") == image


def test_a_wrong_platform_names_those_there_are(registry: RegistryProcess, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    with pytest.raises(Rejected, match="web:arm is for linux/arm64, this worker is linux/amd64"):
        run(store.ensure(f"{registry.host}/team/web:arm"))
    riscv = ImageStore(tmp_path, image_dirs=[], in_use=set, clock=SystemClock(), architecture="riscv64")
    with pytest.raises(
        Rejected, match=r"not available for linux/riscv64.*exists for linux/amd64, linux/arm64"
    ):
        run(riscv.ensure(f"{registry.host}/team/web:both"))


@pytest.mark.parametrize("name", ["team/web:2", "team/nothing:1", f"team/web@sha256:{'1' * 64}"])
def test_a_missing_image_is_rejected(registry: RegistryProcess, tmp_path: Path, name: str) -> None:
    with pytest.raises(Rejected, match=f"{registry.host}/{name} does not exist: .*manifest unknown"):
        run(open_store(tmp_path).ensure(f"{registry.host}/{name}"))


def test_a_registry_that_is_away_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:9 cannot be reached: connection refused"):
        run(open_store(tmp_path).ensure("127.0.0.1:9/web:1"))


def test_a_password_is_asked_for_and_used(
    registry: RegistryProcess, program: str, storage: Path, tmp_path: Path
) -> None:
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(HTPASSWD)
    auth: dict[str, object] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    with RegistryProcess(program, storage, tmp_path / "basic", auth) as closed:
        reference = f"{closed.host}/team/web:1"
        with pytest.raises(Rejected, match=r"without a login.*credentials_file"):
            run(open_store(tmp_path).ensure(reference))
        wrong = write_credentials(tmp_path / "wrong.json", closed.host, USER, "guess")
        with pytest.raises(Rejected, match="does not accept the worker's credentials"):
            run(open_store(tmp_path, credentials_file=wrong).ensure(reference))
        right = write_credentials(tmp_path / "right.json", f"http://{closed.host}", USER, PASSWORD)
        store = open_store(tmp_path, credentials_file=right)
        run(store.ensure(reference))
        assert store.resolve(reference) is not None


def test_unreadable_credentials_are_told(registry: RegistryProcess, tmp_path: Path) -> None:
    broken = tmp_path / "config.json"
    broken.write_text("{")
    with pytest.raises(Unavailable, match=f"credentials for registries in {broken} cannot be read"):
        run(open_store(tmp_path, credentials_file=broken).ensure(f"{registry.host}/team/web:1"))


class TokenServer(http.server.ThreadingHTTPServer):
    """Gives tokens to whoever has the password, signed by openssl, as the registry's documentation describes."""

    def __init__(self, home: Path, *, anonymous: bool = False, lifetime_s: int = 300) -> None:
        super().__init__(("127.0.0.1", 0), _TokenHandler)
        self.key, self.certificate = home / "key.pem", home / "certificate.pem"
        self.anonymous = anonymous
        self.lifetime_s = lifetime_s
        self.asked: list[dict[str, list[str]]] = []
        subprocess.run(
            f"openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=test -keyout {self.key} -out {self.certificate}".split(),
            check=True,
            capture_output=True,
        )

    @property
    def auth(self) -> dict[str, object]:
        realm = f"http://127.0.0.1:{self.server_address[1]}/token"
        return {
            "token": {
                "realm": realm,
                "service": SERVICE,
                "issuer": "test",
                "rootcertbundle": str(self.certificate),
            }
        }

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(SystemClock().wall_s())
        der = base64.b64encode(
            subprocess.run(
                ["openssl", "x509", "-in", self.certificate, "-outform", "DER"],
                check=True,
                capture_output=True,
            ).stdout
        ).decode()
        claims = {
            "iss": "test",
            "sub": USER,
            "aud": SERVICE,
            "exp": now + self.lifetime_s,
            "nbf": now - 100,
            "iat": now - 100,
            "jti": "1",
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        signed = b".".join(_packed(part) for part in ({"typ": "JWT", "alg": "RS256", "x5c": [der]}, claims))
        signature = subprocess.run(
            ["openssl", "dgst", "-sha256", "-sign", self.key], input=signed, check=True, capture_output=True
        ).stdout
        return (signed + b"." + base64.urlsafe_b64encode(signature).rstrip(b"=")).decode()


def _packed(part: object) -> bytes:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=")


class _TokenHandler(http.server.BaseHTTPRequestHandler):
    server: TokenServer

    def do_GET(self) -> None:
        fields = parse_qs(urlsplit(self.path).query)
        self.server.asked.append(fields)
        basic = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.server.anonymous or self.headers.get("Authorization") == basic:
            self._say(200, {"token": self.server.token(fields["scope"][0])})
        else:
            self._say(401, {"errors": [{"code": "UNAUTHORIZED", "message": "no"}]})

    def do_POST(self) -> None:
        fields = parse_qs(self.rfile.read(int(self.headers["Content-Length"])).decode())
        self.server.asked.append(fields)
        if fields["refresh_token"] == ["identity"] and fields["grant_type"] == ["refresh_token"]:
            self._say(200, {"access_token": self.server.token(fields["scope"][0])})
        else:
            self._say(401, {})

    def _say(self, status: int, body: object) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@contextlib.contextmanager
def serving(server: http.server.HTTPServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_tokens_are_fetched_with_the_password_or_without(
    registry: RegistryProcess, program: str, storage: Path, tmp_path: Path
) -> None:
    tokens = TokenServer(tmp_path)
    with serving(tokens), RegistryProcess(program, storage, tmp_path / "token", tokens.auth) as closed:
        reference = f"{closed.host}/team/web:1"
        with pytest.raises(Rejected, match="without a login"):
            run(open_store(tmp_path / "a").ensure(reference))
        right = write_credentials(tmp_path / "right.json", closed.host, USER, PASSWORD)
        store = open_store(tmp_path / "a", credentials_file=right)
        run(store.ensure(reference))
        assert store.resolve(reference) is not None
        assert tokens.asked[-1] == {"service": [SERVICE], "scope": ["repository:team/web:pull"]}

        identity = tmp_path / "identity.json"
        identity.write_text(json.dumps({"auths": {closed.host: {"identitytoken": "identity"}}}))
        run(open_store(tmp_path / "b", credentials_file=identity).ensure(reference))
        assert tokens.asked[-1]["grant_type"] == ["refresh_token"]

        tokens.anonymous = True
        run(open_store(tmp_path / "c").ensure(reference))


class Proxy(http.server.ThreadingHTTPServer):
    """Stands before a registry and spoils its answers to requests for blobs."""

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _ProxyHandler)
        self.upstream = upstream
        self.cut_after: int | None = None
        """Bytes after which a connection is cut."""
        self.ranges = True
        self.flip = False
        self.blobs_asked: list[tuple[str, str]] = []
        """Digest and range of every request for a blob."""
        self.redirect_to = ""
        self.authorizations: list[str] = []

    @property
    def host(self) -> str:
        return f"127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: object) -> None:
        """Stay silent about clients that went away."""


class _ProxyHandler(http.server.BaseHTTPRequestHandler):
    server: Proxy
    passed_on: ClassVar = ("Accept", "Authorization", "Range")

    def do_GET(self) -> None:
        proxy = self.server
        blob = "/blobs/" in self.path
        proxy.authorizations.append(self.headers.get("Authorization", ""))
        if blob and proxy.redirect_to:
            self.send_response(307)
            self.send_header("Location", f"http://{proxy.redirect_to}{self.path}")
            self.end_headers()
            return
        sent = {key: self.headers[key] for key in self.passed_on if key in self.headers}
        if blob:
            proxy.blobs_asked.append((self.path.rpartition("/")[2], sent.get("Range", "")))
        if not proxy.ranges:
            sent.pop("Range", None)
        with contextlib.closing(http.client.HTTPConnection(proxy.upstream)) as connection:
            connection.request("GET", self.path, headers=sent)
            answer = connection.getresponse()
            body = answer.read()
        self.send_response(answer.status)
        for key, value in answer.getheaders():
            if key.lower() in {"content-type", "content-length", "content-range", "etag", "www-authenticate"}:
                self.send_header(key, value)
        self.end_headers()
        if blob and proxy.flip:
            body = body[:-1] + bytes([body[-1] ^ 1])
        if blob and proxy.cut_after is not None and len(body) > proxy.cut_after:
            body = body[: proxy.cut_after]
            self.close_connection = True
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Stay silent."""


@pytest.fixture
def proxy(registry: RegistryProcess) -> Iterator[Proxy]:
    server = Proxy(registry.host)
    with serving(server):
        yield server


@pytest.fixture(scope="module")
def big_layer(registry: RegistryProcess, tmp_path_factory: pytest.TempPathFactory) -> str:
    """`team/big:1` has one layer of about 1 MB; return the layer's digest."""
    archive = tmp_path_factory.mktemp("big") / "big.tar"
    build_archive(archive, "big", [{"noise": File(content=os.urandom(1_000_000))}], architecture="amd64")
    Pusher(registry.host, "team/big").push(archive, "1")
    with tarfile.open(archive) as opened:
        (saved,) = json.loads(opened.extractfile("manifest.json").read())  # type: ignore[union-attr]
    return "sha256:" + str(saved["Layers"][0]).rpartition("/")[2]


@pytest.mark.parametrize("spoiled", ["", "no ranges"])
def test_a_broken_download_goes_on_where_it_was(
    proxy: Proxy, big_layer: str, tmp_path: Path, spoiled: str
) -> None:
    """The line breaks again and again; a server without ranges only delivers after it stops breaking."""
    proxy.cut_after = 300_000
    proxy.ranges = not spoiled
    store = open_store(tmp_path)
    reference = f"{proxy.host}/team/big:1"
    if proxy.ranges:
        run(store.ensure(reference))
        asked = [span for digest, span in proxy.blobs_asked if digest == big_layer]
        assert asked == ["", "bytes=300000-", "bytes=600000-", "bytes=900000-"]
    else:
        with pytest.raises(
            Unavailable, match=r"a layer of .*/team/big:1 could not be fetched whole: .*too early"
        ):
            run(store.ensure(reference))
        proxy.cut_after = None
        run(store.ensure(reference))
    image = store.resolve(reference)
    assert image is not None
    assert (image.layers[0] / "noise").stat().st_size == 1_000_000


def test_a_line_that_brings_nothing_is_given_up(proxy: Proxy, big_layer: str, tmp_path: Path) -> None:
    proxy.cut_after = 0
    with pytest.raises(Unavailable, match=r"too early|could not be fetched|broke off"):
        run(open_store(tmp_path).ensure(f"{proxy.host}/team/big:1"))
    assert list((tmp_path / "images/layers").iterdir()) == []
    assert list((tmp_path / "images/work").iterdir()) == []


def test_wrong_content_is_refused(proxy: Proxy, big_layer: str, tmp_path: Path) -> None:
    proxy.flip = True
    with pytest.raises(Rejected, match="is damaged"):
        run(open_store(tmp_path).ensure(f"{proxy.host}/team/big:1"))
    assert list((tmp_path / "images/layers").iterdir()) == []


def test_three_at_once_fetch_once(proxy: Proxy, big_layer: str, tmp_path: Path) -> None:
    """By one store, and by three stores of one directory, as an agent and its successor may be for a moment."""

    async def together(stores: list[ImageStore], reference: str) -> None:
        await asyncio.gather(*(store.ensure(reference) for store in stores))

    store = open_store(tmp_path / "one")
    run(together([store] * 3, f"{proxy.host}/team/big:1"))
    assert [digest for digest, _ in proxy.blobs_asked].count(big_layer) == 1
    run(together([open_store(tmp_path / "three") for _ in range(3)], f"{proxy.host}/team/big:1"))
    assert [digest for digest, _ in proxy.blobs_asked].count(big_layer) == 2


def test_a_redirect_elsewhere_does_not_carry_the_password(
    registry: RegistryProcess, program: str, storage: Path, tmp_path: Path
) -> None:
    htpasswd = tmp_path / "htpasswd"
    htpasswd.write_text(HTPASSWD)
    auth: dict[str, object] = {"htpasswd": {"realm": "test", "path": str(htpasswd)}}
    with RegistryProcess(program, storage, tmp_path / "basic", auth) as closed:
        front, elsewhere = Proxy(closed.host), Proxy(registry.host)
        front.redirect_to = elsewhere.host
        credentials = write_credentials(tmp_path / "right.json", front.host, USER, PASSWORD)
        with serving(front), serving(elsewhere):
            run(open_store(tmp_path, credentials_file=credentials).ensure(f"{front.host}/team/web:1"))
    assert any(front.authorizations)
    assert elsewhere.authorizations
    assert not any(elsewhere.authorizations)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[Callable[[], str]]:
    """A web server for archives."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: object, **named: object) -> None:
            super().__init__(*arguments, directory=str(tmp_path), **named)  # type: ignore[arg-type]

        def log_message(self, *_: object) -> None:
            """Stay silent."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files)
    with serving(server):
        yield lambda: f"http://127.0.0.1:{server.server_address[1]}"


def test_archives_are_fetched_from_web_servers(files: Callable[[], str], tmp_path: Path) -> None:
    build_archive(tmp_path / "web.tar", "web", LAYERS, architecture="amd64")
    store = open_store(tmp_path / "state")
    url = f"{files()}/web.tar"
    run(store.ensure(url))
    image = store.resolve(url)
    assert image is not None
    assert len(image.layers) == 2
    with pytest.raises(Rejected, match=r"missing\.tar cannot be fetched: .* answers HTTP 404"):
        run(store.ensure(f"{files()}/missing.tar"))
    (tmp_path / "no.tar").write_text("<html>")
    with pytest.raises(Rejected, match=r"no\.tar is not a usable tar archive: it is cut off"):
        run(store.ensure(f"{files()}/no.tar"))
