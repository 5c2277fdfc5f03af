"""The local socket answers in lines, ends with its client, and says clearly when nobody is there."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from oakestra.model.errors import Conflict, Invalid, NotFound, OakestraError, Rejected, Unavailable
from oakestra.transport.local import LocalServer, Method, call


@pytest.fixture
def path() -> Iterator[Path]:
    """A path short enough for a unix socket."""
    with TemporaryDirectory(prefix="oak-") as directory:
        yield Path(directory) / "run" / "worker.sock"


async def until(predicate: Callable[[], object]) -> None:
    async with asyncio.timeout(20):
        while not predicate():  # noqa: ASYNC110 - another thread makes it true
            await asyncio.sleep(0.01)


def serving(path: Path, methods: Mapping[str, Method], body: Callable[[], Awaitable[None]]) -> None:
    """Run the body while a server answers on the path."""

    async def run() -> None:
        server = asyncio.ensure_future(LocalServer(path, methods).run())
        try:
            await until(path.exists)
            await body()
        finally:
            server.cancel()
            await asyncio.gather(server, return_exceptions=True)

    asyncio.run(run())
    assert not path.exists()


async def asked(
    path: Path, method: str, *, timeout_s: float = 10.0, **arguments: Any
) -> list[dict[str, Any]]:
    return await asyncio.to_thread(lambda: list(call(path, method, arguments, timeout_s=timeout_s)))


async def count(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
    for number in range(arguments.get("to", 3)):
        yield {"number": number}


def test_items_arrive_as_they_were_given(path: Path) -> None:
    async def body() -> None:
        assert stat.S_IMODE(os.stat(path).st_mode) == 0o600  # noqa: PTH116 - takes no time
        assert await asked(path, "count", to=2) == [{"number": 0}, {"number": 1}]
        answers = await asyncio.gather(*(asked(path, "count", to=200) for _ in range(5)))
        assert [len(items) for items in answers] == [200] * 5

    serving(path, {"count": count}, body)


@pytest.mark.parametrize(
    ("error", "kind"), [(Conflict("it is taken"), Conflict), (ValueError("a bug"), OakestraError)]
)
def test_an_error_comes_with_its_kind_after_what_came_before(
    path: Path, error: Exception, kind: type[OakestraError]
) -> None:
    async def broken(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"so": "far"}
        raise error

    def ask() -> None:
        items = call(path, "broken", {}, timeout_s=10.0)
        assert next(items) == {"so": "far"}
        with pytest.raises(kind, match=str(error)):
            next(items)

    async def body() -> None:
        await asyncio.to_thread(ask)

    serving(path, {"broken": broken}, body)


def test_what_is_no_request_is_refused_in_words(path: Path) -> None:
    def say(line: bytes) -> dict[str, Any]:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(line)
            answer: dict[str, Any] = json.loads(client.makefile("rb").readline())
            return answer

    async def body() -> None:
        for line in (b"\n", b"what?\n", b"[]\n", b'{"method": 7, "arguments": 8}\n', b"\xff\n", b"{}\n"):
            answer = await asyncio.to_thread(say, line)
            assert answer["error"]["kind"] in {"Invalid", "NotFound"}
        with pytest.raises(NotFound, match="dance"):
            await asked(path, "dance")
        assert await asked(path, "count", to=0) == [], "it goes on answering"

    serving(path, {"count": count}, body)
    assert issubclass(Invalid, OakestraError)


def test_a_client_that_goes_away_ends_the_method(path: Path) -> None:
    ended = []

    async def follow(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        try:
            yield {"begun": True}
            await asyncio.Event().wait()
        finally:
            ended.append("follow")

    def look() -> None:
        items = call(path, "follow", {}, timeout_s=10.0)
        assert next(items) == {"begun": True}
        items.close()  # type: ignore[attr-defined]

    async def body() -> None:
        await asyncio.to_thread(look)
        await until(lambda: ended)

    serving(path, {"follow": follow}, body)


def test_a_worker_that_ends_while_it_answers_is_told_from_an_end(path: Path) -> None:
    async def follow(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        yield {"begun": True}
        await asyncio.Event().wait()

    async def body() -> None:
        server = asyncio.ensure_future(LocalServer(path, {"follow": follow}).run())
        await until(path.exists)
        items = call(path, "follow", {}, timeout_s=10.0)
        assert await asyncio.to_thread(next, items) == {"begun": True}
        server.cancel()
        await asyncio.gather(server, return_exceptions=True)
        with pytest.raises(Unavailable, match="went away"):
            await asyncio.to_thread(next, items)

    asyncio.run(body())


def test_a_worker_that_hangs_is_not_waited_for(path: Path) -> None:
    async def hang(arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        await asyncio.Event().wait()
        yield {}

    async def body() -> None:
        with pytest.raises(Unavailable, match="says nothing"):
            await asked(path, "hang", timeout_s=0.1)

    serving(path, {"hang": hang}, body)


def test_nobody_there_says_what_to_type(path: Path) -> None:
    with pytest.raises(Unavailable, match="oak worker start"):
        next(call(path, "count", {}, timeout_s=1.0))


def test_a_socket_left_behind_is_replaced_and_a_living_one_is_not(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))

    async def body() -> None:
        await until(lambda: _answers(path))
        with pytest.raises(Rejected, match="another process"):
            await LocalServer(path, {}).run()
        assert await asked(path, "count", to=1) == [{"number": 0}]

    serving(path, {"count": count}, body)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0
