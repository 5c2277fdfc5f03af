"""Root's API on a real socket, for clients that nobody here wrote."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from threading import Thread
from typing import Any, TypeVar

from oakestra.transport.http_listener import listen, serve
from oakestra.transport.http_server import application
from root_api import RootApi, start_api

PORT = 10000
"""Published clients know no other."""
PATIENCE_S = 30.0

T = TypeVar("T")


@dataclass(frozen=True)
class ServedRoot:
    """A root that listens; its state belongs to the thread that serves it."""

    ip: str
    api: RootApi
    loop: asyncio.AbstractEventLoop

    def turn(self, change: Callable[[RootApi], T]) -> T:
        """Look at the root's state, or change it, between two of its requests."""

        async def between() -> T:
            return change(self.api)

        return _in(self.loop, between())


def own_loopback_address() -> str:
    """Return an address of this machine that no other process tests at."""
    pid = os.getpid()
    return f"127.{100 + (pid >> 16)}.{pid >> 8 & 255}.{pid & 255 or 1}"


@contextlib.contextmanager
def serve_root(directory: Path, *, password: str, public_clusters: bool = False) -> Iterator[ServedRoot]:
    """Serve a root on its published port, with Admin's password, until the block ends."""
    ip = own_loopback_address()
    loop = asyncio.new_event_loop()
    thread = Thread(target=loop.run_forever)
    thread.start()
    try:
        api = _in(loop, start_api(directory, password=password, public_clusters=public_clusters))
        serving = _in(loop, _serving(api, ip))
        try:
            yield ServedRoot(ip, api, loop)
        finally:
            _in(loop, _ended(serving))
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(PATIENCE_S)
        loop.close()


def _in(loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run_coroutine_threadsafe(coroutine, loop).result(PATIENCE_S)


async def _serving(api: RootApi, ip: str) -> asyncio.Task[None]:
    return asyncio.create_task(serve(application(api.endpoints), listen(ip, PORT)))


async def _ended(serving: asyncio.Task[None]) -> None:
    serving.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await serving
