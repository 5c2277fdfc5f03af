"""Images of this machine's worker, over its unix socket."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from oak_command import Oak
from oakestra.model.errors import NotFound, Rejected
from oakestra.transport.local import LocalServer

WITHIN_S = 10.0
IMAGE: dict[str, Any] = {
    "reference": "docker.io/oakestra/example:1", "digest": f"sha256:{'ab' * 32}", "size_bytes": 2 << 20,
    "architecture": "amd64",
}  # fmt: skip
OTHER = {**IMAGE, "reference": "docker.io/library/nginx:1", "size_bytes": 1500}

Items = AsyncIterator[dict[str, Any]]


class Worker:
    """Answers as a worker does, and remembers what it was asked."""

    def __init__(self) -> None:
        self.images = [IMAGE, OTHER]
        self.asked: list[dict[str, Any]] = []

    async def load(self, arguments: dict[str, Any]) -> Items:
        self.asked.append(arguments)
        if "corrupt" in arguments["path"]:
            raise Rejected(f"{arguments['path']} is no archive of an image: unexpected end of data")
        yield {"done": 1 << 20, "total": 2 << 20}
        yield {"done": 2 << 20, "total": 2 << 20}
        yield {"image": IMAGE}

    async def ls(self, arguments: dict[str, Any]) -> Items:
        for image in self.images:
            yield {"image": image}

    async def rm(self, arguments: dict[str, Any]) -> Items:
        if arguments["reference"] not in [image["reference"] for image in self.images]:
            raise NotFound(f"there is no image {arguments['reference']} here")
        yield {"removed": arguments["reference"]}


@pytest.fixture
def worker(oak: Oak) -> Iterator[Worker]:
    """A worker on the machine of `oak`."""
    served = Worker()
    path = oak.installation().runtime / "worker" / "worker.sock"
    methods = {"image_load": served.load, "image_ls": served.ls, "image_rm": served.rm}
    running: list[tuple[asyncio.AbstractEventLoop, asyncio.Task[None]]] = []
    ready = threading.Event()

    async def serve() -> None:
        task = asyncio.ensure_future(LocalServer(path, methods).run())
        while not path.exists():  # noqa: ASYNC110 - the server tells nobody else that it listens
            await asyncio.sleep(0)
        running.append((asyncio.get_running_loop(), task))
        ready.set()
        await asyncio.wait([task])

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    assert ready.wait(WITHIN_S)
    yield served
    ((loop, task),) = running
    loop.call_soon_threadsafe(task.cancel)
    thread.join()


def test_load(oak: Oak, worker: Worker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "web.tar").write_bytes(b"x")
    monkeypatch.chdir(tmp_path)
    said = oak("worker", "image", "load", "web.tar")
    assert (said.code, said.err) == (0, "")
    assert said.out == "docker.io/oakestra/example:1 loaded (2 MiB, amd64)\n"
    assert worker.asked == [{"path": str(tmp_path / "web.tar")}], "the worker's directory is another one"
    assert json.loads(oak.good("worker", "image", "load", "web.tar", "-o", "json")) == IMAGE


def test_bad_files(oak: Oak, worker: Worker, tmp_path: Path) -> None:
    assert "there is no file nothing.tar; `docker save" in oak.bad("worker", "image", "load", "nothing.tar")
    (tmp_path / "corrupt.tar").write_bytes(b"x")
    said = oak.bad("worker", "image", "load", str(tmp_path / "corrupt.tar"))
    assert said.endswith("corrupt.tar is no archive of an image: unexpected end of data\n")


def test_ls(oak: Oak, worker: Worker) -> None:
    assert oak.good("worker", "image", "ls") == (
        "IMAGE                         SIZE     MACHINE  DIGEST\n"
        "docker.io/library/nginx:1     1.5 KiB  amd64    sha256:abababababab\n"
        "docker.io/oakestra/example:1  2 MiB    amd64    sha256:abababababab\n"
    )
    assert json.loads(oak.good("worker", "image", "ls", "-o", "json")) == [OTHER, IMAGE]
    worker.images = []
    assert oak("worker", "image", "ls").err == "no image is here; `oak worker image load FILE` brings one\n"


def test_rm(oak: Oak, worker: Worker) -> None:
    assert oak.good("worker", "image", "rm", IMAGE["reference"]) == f"{IMAGE['reference']} removed\n"
    assert oak.bad("worker", "image", "rm", "x") == "oak: there is no image x here\n"


def test_no_worker(oak: Oak) -> None:
    said = oak.bad("worker", "image", "ls", "--installation", "lab-a")
    assert "the worker on this machine does not run (nobody answers on" in said
    assert "lab-a/worker/worker.sock); start it: sudo oak worker start" in said
