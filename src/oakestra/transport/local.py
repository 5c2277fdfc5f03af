"""Answer the command line on the same machine over a unix socket: lines of JSON, no HTTP.

A request is one line, `{"method": …, "arguments": {…}}`. The answer is any number of lines `{"item": {…}}`, then
`{"end": true}` or `{"error": {"kind": …, "message": …}}`. Who may open the socket may ask anything: it is 0600.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import Any

from oakestra.model.errors import Forbidden, Invalid, NotFound, OakestraError, Rejected, Unavailable
from oakestra.transport.calls import decode_error

logger = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0

Method = Callable[[dict[str, Any]], AsyncIterator[dict[str, Any]]]


class LocalServer:
    """Answers on the socket at `path` with the methods given."""

    def __init__(self, path: Path, methods: Mapping[str, Method]) -> None:
        self._path = path
        self._methods = methods

    async def run(self) -> None:
        """Serve until cancelled; a socket that an ended process left behind is replaced.

        Raises `Rejected` if another process serves there.
        """
        listener = _listen(self._path)
        async with asyncio.TaskGroup() as group:

            def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                group.create_task(self._serve(reader, writer))

            server = await asyncio.start_unix_server(accept, sock=listener)
            try:
                await asyncio.Event().wait()
            finally:
                server.close()
                self._path.unlink(missing_ok=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(ConnectionError):
                last = await self._converse(reader, writer)
                await _say(writer, last)
        finally:
            writer.close()

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> dict[str, Any]:
        """Answer one request and return the last line. Raises `ConnectionError` when the client goes away."""
        try:
            method, arguments = await self._request(reader)
            await _while_connected(reader, _answer(writer, method(arguments)))
        except OakestraError as error:
            return _rendered(type(error).__name__, str(error))
        except ConnectionError:
            raise
        except Exception as error:
            logger.exception("call failed")
            return _rendered("OakestraError", f"{type(error).__name__}: {error}")
        return {"end": True}

    async def _request(self, reader: asyncio.StreamReader) -> tuple[Method, dict[str, Any]]:
        try:
            async with asyncio.timeout(REQUEST_WITHIN_S):
                request = json.loads(await reader.readline())
            name, arguments = request["method"], dict(request.get("arguments", {}))
        except (ValueError, TypeError, KeyError, AttributeError, TimeoutError) as error:
            raise Invalid('a request is one line: {"method": …, "arguments": {…}}') from error
        method = self._methods.get(name)
        if method is None:
            raise NotFound(f"this worker cannot {name!r}; it knows {', '.join(sorted(self._methods))}")
        return method, arguments


def _listen(path: Path) -> socket.socket:
    path.parent.mkdir(parents=True, exist_ok=True)
    if _is_served(path):
        raise Rejected(
            f"another process answers on {path}; stop that worker first, or give this one a name of its own"
        )
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    mask = os.umask(0o177)  # not even for a moment may others open it
    try:
        listener.bind(str(path))
    except OSError as error:
        listener.close()
        raise Rejected(f"cannot listen on {path}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
    return listener


def _is_served(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except OSError:
            return False
        return True


async def _answer(writer: asyncio.StreamWriter, items: AsyncIterator[dict[str, Any]]) -> None:
    try:
        async for item in items:
            await _say(writer, {"item": item})
    finally:
        close = getattr(items, "aclose", None)
        if close is not None:
            await close()


async def _say(writer: asyncio.StreamWriter, line: Mapping[str, Any]) -> None:
    writer.write(json.dumps(line).encode() + b"\n")
    await writer.drain()


def _rendered(kind: str, message: str) -> dict[str, Any]:
    return {"error": {"kind": kind, "message": message}}


async def _while_connected(reader: asyncio.StreamReader, work: Coroutine[Any, Any, None]) -> None:
    """Do the work; give it up and raise `ConnectionResetError` when the client goes away."""
    working = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ConnectionResetError("the client went away")
        working.result()
    finally:
        working.cancel()
        gone.cancel()
        await asyncio.gather(working, gone, return_exceptions=True)


# --- the client ------------------------------------------------------------------------------------------------


def call(
    path: Path, method: str, arguments: Mapping[str, Any], *, timeout_s: float
) -> Iterator[dict[str, Any]]:
    """Ask the worker whose socket is at `path` and yield the items of its answer as they come.

    Raises the worker's error, or `Unavailable` if it does not run, ends, or says nothing for `timeout_s`. Closing the
    iterator ends the call over there.
    """
    request = json.dumps({"method": method, "arguments": dict(arguments)}).encode() + b"\n"
    with _connected(path, timeout_s) as connection, connection.makefile("rb") as lines:
        try:
            connection.sendall(request)
            for line in lines:
                answer = json.loads(line)
                if "error" in answer:
                    raise decode_error("{kind}: {message}".format_map(answer["error"]))
                if "end" in answer:
                    return
                yield answer["item"]
        except TimeoutError as error:
            raise Unavailable(f"the worker says nothing for {timeout_s:.0f} s; see its log") from error
        except OSError as error:
            raise Unavailable(f"the worker went away while it answered: {error.strerror}") from error
    raise Unavailable("the worker went away while it answered; ask again when it runs")


def _connected(path: Path, timeout_s: float) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.settimeout(timeout_s)
    try:
        connection.connect(str(path))
    except PermissionError as error:
        connection.close()
        raise Forbidden(f"only root may speak to the worker on {path}; try again with sudo") from error
    except OSError as error:
        connection.close()
        raise Unavailable(
            f"the worker on this machine does not run (nobody answers on {path}); start it: sudo oak worker start"
        ) from error
    return connection
