"""A lab that published clients can use: Admin has the password they know, and the images of their demos are there."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from foreign_client import Client
from lab_fixture import Oak, until
from oakestra.runtime.images.build import build_busybox_image

PUBLISHED_PASSWORD = "Admin"
"""Published clients know no other."""
WORKERS = 3
PAGE = "Welcome to nginx!"
CURL = b'#!/bin/sh\nexec wget -q -O - "$2"\n'
STARTED_WITHIN_S = 120.0


@dataclass(frozen=True)
class PublishedLab:
    """A root, a cluster and three workers."""

    ip: str
    """Root's."""
    cluster: str
    """The cluster's name."""
    client: Client

    def let_run(self, service: str) -> None:
        """Return when every instance of the service is ready."""

        def all_ready() -> bool:
            instances = self._ask(f"/api/v1/services/{service}")["instances"]
            return all(instance["ready"] for instance in instances if instance["wanted"])

        until(all_ready, STARTED_WITHIN_S)

    def clear(self) -> None:
        """Delete all applications, and return when nothing of them is left."""
        for application in self._ask("/api/v1/applications"):
            self._fresh().ask("DELETE", f"/api/application/{application['id']}")
        until(
            lambda: not any(cluster["instances"] for cluster in self._ask("/api/v1/clusters")),
            STARTED_WITHIN_S,
        )

    def _ask(self, path: str) -> Any:
        return self._fresh().ask("GET", path).json

    def _fresh(self) -> Client:
        return self.client.login("Admin", PUBLISHED_PASSWORD)


@contextmanager
def published_lab(directory: Path) -> Iterator[PublishedLab]:
    """Have such a lab up until the block ends."""
    name = f"p{os.getpid() % 10**7}"
    oak = Oak(directory, {"OAKESTRA_ADMIN_PASSWORD": PUBLISHED_PASSWORD})
    try:
        oak.run("lab", "up", "--name", name, "--clusters", "1", "--workers", str(WORKERS))
        for archive in _images(directory):
            for number in range(1, WORKERS + 1):
                load = (sys.executable, "-m", "oakestra", "worker", "image", "load", str(archive))
                oak.run("lab", "exec", "--name", name, f"w{number}", "--", *load)
        url = oak.run("lab", "env", "--name", name).stdout.partition("=")[2].strip()
        ip = urlsplit(url).hostname
        assert ip is not None
        yield PublishedLab(ip, "c1", Client(url))
    finally:
        oak.run("lab", "down", "--name", name, check=False)


def _images(directory: Path) -> Iterator[Path]:
    """Make the images of the client's demo from busybox: a page under nginx's name, and something to fetch it."""
    nginx, curl = directory / "nginx.tar", directory / "curl.tar"
    serve = ("httpd", "-f", "-p", "80", "-h", "/www")
    page = f"<h1>{PAGE}</h1>\n".encode()
    build_busybox_image(
        nginx, "docker.io/library/nginx:latest", extra_files={"www/index.html": page}, command=serve
    )
    build_busybox_image(curl, "docker.io/curlimages/curl:7.82.0", extra_files={"bin/curl": CURL})
    yield from (nginx, curl)
