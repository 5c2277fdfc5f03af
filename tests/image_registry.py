"""Debian's docker-registry on this machine, or in a network namespace of it, and how images get into it."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import socket
import subprocess
import tarfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self
from urllib.parse import urlsplit


@dataclass
class RegistryProcess:
    """docker-registry on a port of its own; to be entered."""

    program: str
    storage: Path
    home: Path
    auth: dict[str, object] = field(default_factory=dict)
    netns: str = ""
    """Path of the network namespace on whose loopback it listens; empty: this one. Nobody else reaches it there."""
    host: str = ""
    _process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.host = f"127.0.0.1:{probe.getsockname()[1]}"
        self.home.mkdir()
        settings = {
            "version": "0.1",
            "log": {"level": "error", "accesslog": {"disabled": True}},
            "storage": {"filesystem": {"rootdirectory": str(self.storage)}},
            "http": {"addr": self.host},
            **({"auth": self.auth} if self.auth else {}),
        }
        config = self.home / "config.yml"
        config.write_text(json.dumps(settings))  # JSON is YAML
        with (self.home / "log").open("wb") as log:
            inside = ("nsenter", f"--net={self.netns}", "--") if self.netns else ()
            command = (*inside, self.program, "serve", str(config))
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not self._answers():
            assert self._process.poll() is None, (self.home / "log").read_text()
            assert time.monotonic() < deadline, "the registry does not answer"
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        if self.netns:  # nobody here reaches it, but the kernel tells who listens there
            address, _, port = self.host.partition(":")
            listening = f"{socket.inet_aton(address)[::-1].hex().upper()}:{int(port):04X} 00000000:0000 0A"
            return listening in Path(f"/proc/{self._process.pid}/net/tcp").read_text()
        with (
            contextlib.suppress(OSError),
            contextlib.closing(http.client.HTTPConnection(self.host)) as connection,
        ):
            connection.request("GET", "/v2/")
            return connection.getresponse().status in {200, 401}
        return False


class Pusher:
    """Puts content into a registry that lets everybody."""

    def __init__(self, host: str, repository: str) -> None:
        self._host = host
        self._repository = repository

    def push(self, archive: Path, tag: str) -> str:
        """Push the image in an OCI archive; return its digest."""
        with tarfile.open(archive) as opened:
            contents = {member.name: opened.extractfile(member).read() for member in opened}  # type: ignore[union-attr]
        (listed,) = json.loads(contents["index.json"])["manifests"]
        for name, content in contents.items():
            if name.startswith("blobs/"):
                self.blob(content)
        return self.manifest(contents["blobs/" + listed["digest"].replace(":", "/")], tag)

    def blob(self, content: bytes) -> str:
        digest = digest_of(content)
        location = self._ask("POST", f"/v2/{self._repository}/blobs/uploads/").getheader("Location") or ""
        parts = urlsplit(location)
        self._ask("PUT", f"{parts.path}?{parts.query}&digest={digest}", content)
        return digest

    def manifest(
        self, content: bytes, tag: str, media_type: str = "application/vnd.oci.image.manifest.v1+json"
    ) -> str:
        self._ask("PUT", f"/v2/{self._repository}/manifests/{tag}", content, {"Content-Type": media_type})
        return digest_of(content)

    def index(self, tag: str, *entries: tuple[str, int, dict[str, str]]) -> str:
        listed = [
            {
                "mediaType": "application/vnd.oci.image.manifest.v1+json",
                "digest": digest,
                "size": size,
                "platform": platform,
            }
            for digest, size, platform in entries
        ]
        media_type = "application/vnd.oci.image.index.v1+json"
        body = json.dumps({"schemaVersion": 2, "mediaType": media_type, "manifests": listed}).encode()
        return self.manifest(body, tag, media_type)

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> http.client.HTTPResponse:
        with contextlib.closing(http.client.HTTPConnection(self._host)) as connection:
            connection.request(method, path, body=body, headers=headers or {})
            answer = connection.getresponse()
            said = answer.read()
        assert answer.status in {201, 202}, said
        return answer


def digest_of(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"
