"""Carry a link between root and clusters over gRPC: `oakestra.v1.Clusters` with `Join` and `Session`.

Bodies are raw bytes, so no generated code and no protobuf is loaded. A cluster dials, joins (again at every
connection: joining twice is joining once) and holds one `Session`, a stream of messages each way. A message is a
byte for the channel and a frame; an empty message is a sign of life.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from random import Random
from typing import Any, Protocol

import h2.exceptions
from grpclib.client import Channel as GrpcChannel
from grpclib.client import StreamStreamMethod, UnaryUnaryMethod
from grpclib.config import Configuration
from grpclib.const import Cardinality, Handler, Status
from grpclib.encoding.base import CodecBase
from grpclib.exceptions import GRPCError, ProtocolError, StreamTerminatedError
from grpclib.server import Server
from grpclib.server import Stream as ServerStream

from oakestra.model import errors
from oakestra.model.errors import Invalid, OakestraError, Unavailable
from oakestra.transport import Channel, Presence, Receive, tcp
from oakestra.transport.outbox import Inbox, Outbox

logger = logging.getLogger(__name__)

JOIN = "/oakestra.v1.Clusters/Join"
SESSION = "/oakestra.v1.Clusters/Session"
UP = "up"

JOIN_WITHIN_S = 10.0
ALIVE_EVERY_S = 3.0
DEAD_AFTER_S = 9.0
"""The kernel gives up a peer that acknowledges nothing for so long; signs of life see to it that something is sent."""
SILENT_S = 30.0
"""A peer whose kernel answers but which says nothing for so long hangs."""
REFUSED_RETRY_S = 5.0
STEADY_S = 5.0
MESSAGE_BYTES_MAX = 1 << 21

_WINDOW = Configuration(http2_connection_window_size=1 << 20, http2_stream_window_size=1 << 19)
"""What may be under way unread: more would only be older sets."""
_NUMBERS = {channel: number for number, channel in enumerate(Channel, start=1)}
_CHANNELS = {number: channel for channel, number in _NUMBERS.items()}

_STATUS_OF: tuple[tuple[type[OakestraError], Status], ...] = (
    (errors.Invalid, Status.INVALID_ARGUMENT),
    (errors.NotFound, Status.NOT_FOUND),
    (errors.Conflict, Status.ALREADY_EXISTS),
    (errors.Unauthenticated, Status.UNAUTHENTICATED),
    (errors.Forbidden, Status.PERMISSION_DENIED),
    (errors.Unavailable, Status.UNAVAILABLE),
    (errors.Rejected, Status.FAILED_PRECONDITION),
)
_PASSING = frozenset((Status.UNAVAILABLE, Status.DEADLINE_EXCEEDED, Status.CANCELLED))
"""Statuses that mean a bad moment; every other one is a refusal."""

Join = Callable[[bytes, str], Awaitable[bytes]]
Identify = Callable[[str], str | None]


class Dial(Protocol):
    """Connects to an address and returns the protocol that holds the conversation; raises `Unavailable`."""

    def __call__(self, host: str, port: int, protocol: Callable[[], Any], /) -> Awaitable[Any]: ...


async def dial(host: str, port: int, protocol: Callable[[], Any]) -> Any:
    """Connect in plain text."""
    return await tcp.dial(host, port, protocol, dead_after_s=DEAD_AFTER_S)


class _RawBytes(CodecBase):
    """Messages are the bytes they are."""

    __content_subtype__ = "oak"

    def encode(self, message: Any, message_type: Any) -> bytes:
        del message_type
        assert isinstance(message, bytes)
        return message

    def decode(self, data: bytes, message_type: Any) -> bytes:
        del message_type
        return data


# --- root's end ------------------------------------------------------------------------------------------------


class GrpcServerLink:
    """Root's end: peers are cluster ids. Implements `Link`.

    `join` answers a cluster's request, given the address it comes from; what it raises reaches the cluster with its
    sentence. `identify` tells which cluster has a key, or None if it must join first.
    """

    def __init__(self, host: str, port: int, *, join: Join, identify: Identify) -> None:
        self._host = host
        self._port = port
        self._join = join
        self._identify = identify
        self._receive: Receive | None = None
        self._presence: Presence | None = None
        self._sessions: dict[str, _Session] = {}
        self._stopping = False

    def listen(self, receive: Receive, presence: Presence) -> None:
        self._receive = receive
        self._presence = presence

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        session = self._sessions.get(peer)
        if session is not None:
            session.put(channel, payload)

    async def run(self) -> None:
        """Serve clusters until cancelled. Raises `Rejected` if the port cannot be had."""
        server = Server([self], codec=_RawBytes(), config=_WINDOW)
        listener = tcp.listen(self._host, self._port, dead_after_s=DEAD_AFTER_S)
        await server.start(sock=listener)
        self._stopping = False
        try:
            await asyncio.Event().wait()
        finally:
            self._stopping = True
            server.close()
            with suppress(TimeoutError):
                async with asyncio.timeout(1.0):
                    await server.wait_closed()

    def __mapping__(self) -> dict[str, Handler]:
        return {
            JOIN: Handler(self._serve_join, Cardinality.UNARY_UNARY, bytes, bytes),
            SESSION: Handler(self._serve_session, Cardinality.STREAM_STREAM, bytes, bytes),
        }

    async def _serve_join(self, stream: ServerStream[bytes, bytes]) -> None:
        try:
            async with asyncio.timeout(JOIN_WITHIN_S):
                request = await _receive(stream)
        except TimeoutError:
            raise GRPCError(Status.DEADLINE_EXCEEDED, "the request did not arrive") from None
        try:
            answer = await self._join(request or b"", _host_of(stream))
        except OakestraError as error:
            raise GRPCError(_status_of(error), str(error)) from error
        await stream.send_message(answer)

    async def _serve_session(self, stream: ServerStream[bytes, bytes]) -> None:
        peer = self._peer_of(stream)
        session = _Session(peer, self._arrived)
        earlier = self._sessions.get(peer)
        self._sessions[peer] = session
        if earlier is not None:
            earlier.end(GRPCError(Status.ABORTED, "a newer session with the same key took over"))
        await stream.send_initial_metadata()
        self._tell_presence(peer, here=True)
        try:
            await session.converse(lambda: _receive(stream), stream.send_message)
        except OakestraError as error:
            raise GRPCError(_status_of(error), str(error)) from error
        except TimeoutError:
            raise GRPCError(Status.DEADLINE_EXCEEDED, f"silent for {SILENT_S:.0f} s") from None
        except asyncio.CancelledError:
            if self._stopping and stream._stream.closable:  # noqa: SLF001 - is there still somebody to tell?
                raise GRPCError(Status.UNAVAILABLE, "root is stopping") from None
            raise
        finally:
            if self._sessions.get(peer) is session:
                del self._sessions[peer]
                self._tell_presence(peer, here=False)

    def _peer_of(self, stream: ServerStream[bytes, bytes]) -> str:
        key = stream.metadata.get("oak-key") if stream.metadata is not None else None
        peer = self._identify(key) if isinstance(key, str) else None
        if peer is None:
            raise GRPCError(Status.UNAUTHENTICATED, "this cluster is not known here; it must join first")
        return peer

    def _arrived(self, peer: str, channel: Channel, payload: bytes) -> None:
        if self._receive is not None:
            self._receive(peer, channel, payload)

    def _tell_presence(self, peer: str, *, here: bool) -> None:
        if self._presence is not None:
            self._presence(peer, here)


async def _receive(stream: ServerStream[bytes, bytes]) -> bytes | None:
    """Return the next message of a stream. Unlike the library's own, it reads nothing larger than we ever send."""
    raw = stream._stream  # noqa: SLF001 - the library has no limit: four bytes could make it hold 4 GiB
    head = await raw.recv_data(5)
    if not head:
        return None
    compressed, length = struct.unpack(">?I", head)
    if compressed or length > MESSAGE_BYTES_MAX:
        raise GRPCError(Status.RESOURCE_EXHAUSTED, f"a message of {length} bytes is not one of ours")
    return bytes(await raw.recv_data(length))


def _host_of(stream: ServerStream[bytes, bytes]) -> str:
    address = stream.peer.addr()
    return address[0].removeprefix("::ffff:") if address else ""


def _status_of(error: OakestraError) -> Status:
    return next((status for kind, status in _STATUS_OF if isinstance(error, kind)), Status.UNKNOWN)


# --- a cluster's end -------------------------------------------------------------------------------------------


class GrpcClientLink:
    """A cluster's end: its peer is "up". Implements `Link`.

    `join_request` is asked for the request at every connection, and `joined` is told the answer. `key` is sent with
    the session and tells root who we are.
    """

    def __init__(
        self,
        host: str,
        port: int,
        *,
        key: str,
        join_request: Callable[[], bytes],
        joined: Callable[[bytes], None],
        random: Random,
        dial: Dial = dial,
    ) -> None:
        self._host = host
        self._port = port
        self._key = key
        self._join_request = join_request
        self._joined = joined
        self._random = random
        self._dial = dial
        self._receive: Receive | None = None
        self._presence: Presence | None = None
        self._session: _Session | None = None

    def listen(self, receive: Receive, presence: Presence) -> None:
        self._receive = receive
        self._presence = presence

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        del peer
        if self._session is not None:
            self._session.put(channel, payload)

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        said = ""
        while True:
            since_s = loop.time()
            why, refused = await self._attempt()
            if loop.time() - since_s > STEADY_S and not refused:
                failures, said = 0, ""
            failures += 1
            if why != said:
                said = why
                phrase = "root refuses us, will retry" if refused else "no connection to root, will retry"
                logger.warning(phrase, extra={"why": why})
            await asyncio.sleep(REFUSED_RETRY_S if refused else tcp.retry_s(failures, self._random))

    async def _attempt(self) -> tuple[str, bool]:
        """Hold one connection until it ends; return why it did and whether root refused us."""
        try:
            await self._converse()
        except GRPCError as error:
            return error.message or error.status.name, error.status not in _PASSING
        except Unavailable as error:
            return str(error), False
        except OakestraError as error:
            return str(error), True
        except TimeoutError:
            return f"{self._host} port {self._port} says nothing", False
        except (OSError, StreamTerminatedError, ProtocolError, h2.exceptions.ProtocolError) as error:
            return f"the connection broke: {error}", False
        return "root ended the session", False

    async def _converse(self) -> None:
        async with _DialledChannel(self._host, self._port, self._dial) as channel:
            join = UnaryUnaryMethod[bytes, bytes](channel, JOIN, bytes, bytes)
            self._joined(await join(self._join_request(), timeout=JOIN_WITHIN_S))
            session = _Session(UP, self._arrived)
            method = StreamStreamMethod[bytes, bytes](channel, SESSION, bytes, bytes)
            async with method.open(metadata={"oak-key": self._key}) as stream:
                await stream.send_request()
                await stream.recv_initial_metadata()
                logger.info("connected to root", extra={"host": self._host, "port": self._port})
                self._session = session
                self._tell_presence(here=True)
                try:
                    await session.converse(stream.recv_message, stream.send_message)
                finally:
                    self._session = None
                    self._tell_presence(here=False)

    def _arrived(self, peer: str, channel: Channel, payload: bytes) -> None:
        if self._receive is not None:
            self._receive(peer, channel, payload)

    def _tell_presence(self, *, here: bool) -> None:
        if self._presence is not None:
            self._presence(UP, here)


class _DialledChannel(GrpcChannel):
    """The library's client on a connection that `dial` makes."""

    def __init__(self, host: str, port: int, dial: Dial) -> None:
        super().__init__(host, port, codec=_RawBytes(), config=_WINDOW)
        self._dial = dial

    async def _create_connection(self) -> Any:
        return await self._dial(self._host, self._port, self._protocol_factory)


# --- a session, seen from either end ---------------------------------------------------------------------------


class _Session:
    """What is under way between two ends while a stream is open."""

    def __init__(self, peer: str, arrived: Receive) -> None:
        self._peer = peer
        self._arrived = arrived
        numbers: Iterator[int] = itertools.count()
        self._outbox = Outbox(numbers)
        self._inbox = Inbox()
        self._filled = asyncio.Event()
        self._ended: asyncio.Future[Exception] = asyncio.get_running_loop().create_future()

    def put(self, channel: Channel, payload: bytes) -> None:
        try:
            self._outbox.put(channel, payload)
        except Invalid as error:
            logger.error("not sent", extra={"peer": self._peer, "error": error})  # noqa: TRY400 - no trace needed
        self._filled.set()

    def end(self, why: Exception) -> None:
        """Let `converse` raise this."""
        if not self._ended.done():
            self._ended.set_result(why)

    async def converse(
        self, receive: Callable[[], Awaitable[bytes | None]], send: Callable[[bytes], Awaitable[None]]
    ) -> None:
        """Read and write until the stream ends, one side fails, or `end` is called."""
        tasks = (asyncio.ensure_future(self._read(receive)), asyncio.ensure_future(self._write(send)))
        try:
            await asyncio.wait((*tasks, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if self._ended.done():
                raise self._ended.result()
            for task in tasks:
                if task.done():
                    task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, receive: Callable[[], Awaitable[bytes | None]]) -> None:
        while True:
            async with asyncio.timeout(SILENT_S):
                message = await receive()
            if message is None:
                return
            channel = _CHANNELS.get(message[0]) if message else None
            payload = self._inbox.take(channel, message[1:]) if channel is not None else None
            if payload is not None and channel is not None:
                self._arrived(self._peer, channel, payload)

    async def _write(self, send: Callable[[bytes], Awaitable[None]]) -> None:
        while True:
            frame = self._outbox.take()
            if frame is not None:
                await send(bytes((_NUMBERS[frame[0]],)) + frame[1])
                continue
            self._filled.clear()
            try:
                async with asyncio.timeout(ALIVE_EVERY_S):
                    await self._filled.wait()
            except TimeoutError:
                await send(b"")
