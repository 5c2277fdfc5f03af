"""Carry a link over MQTT: one connection to the broker, topics `oak/v1/<worker>/<down|up>/<channel>`.

Everything is sent with QoS 0. An acknowledgement from the broker would not say that the tier at the other end got
anything, and the tiers repair losses by themselves; QoS 1 would only make old sets wait in the broker where
here a newer one replaces them. Nothing is retained and sessions are clean, for the same reason.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Protocol, Self

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion

from oakestra.model.errors import Invalid, Unavailable
from oakestra.transport import Channel, Presence, Receive, tcp
from oakestra.transport.outbox import Inbox, Outbox

logger = logging.getLogger(__name__)

KEEPALIVE_S = 20
DEAD_AFTER_S = 20.0
ACCEPTED_WITHIN_S = 10.0
"""A broker that has not confirmed the subscription by then is taken for dead."""
HOUSEKEEPING_S = 1.0
LEAVE_S = 1.0
STEADY_S = 5.0
"""A connection that lasted so long was a good one: the next attempt follows quickly."""
UP = "up"

_PRESENCE = "presence"
_HERE, _GONE = b"\x01", b"\x00"
_CHANNELS = {channel.value: channel for channel in Channel}


class Dial(Protocol):
    """Connects to an address and returns the protocol that holds the conversation; raises `Unavailable`."""

    def __call__(self, host: str, port: int, protocol: Callable[[], _Wire], /) -> Awaitable[_Wire]: ...


class MqttLink:
    """One end of the link between a cluster and its workers. Implements `Link`."""

    def __init__(self, topics: _Topics, host: str, port: int, *, random: Random, dial: Dial | None) -> None:
        self._topics = topics
        self._host = host
        self._port = port
        self._random = random
        self._dial = dial or partial(tcp.dial, dead_after_s=DEAD_AFTER_S)
        self._numbers: Iterator[int] = itertools.count(random.getrandbits(32))
        self._receive: Receive | None = None
        self._presence: Presence | None = None
        self._session: _Session | None = None
        self._waiting: dict[str, Outbox] = {}
        """Peers with something to send, the one whose turn it is first."""
        self._inboxes: dict[str, Inbox] = {}
        self._present: set[str] = set()

    @classmethod
    def for_cluster(cls, host: str, port: int, *, random: Random, dial: Dial | None = None) -> Self:
        """Return the cluster's end: peers are worker ids."""
        return cls(_ClusterTopics(), host, port, random=random, dial=dial)

    @classmethod
    def for_worker(
        cls, worker: str, host: str, port: int, *, random: Random, dial: Dial | None = None
    ) -> Self:
        """Return the end of the worker with this id: its peer is "up"."""
        return cls(_WorkerTopics(worker), host, port, random=random, dial=dial)

    def listen(self, receive: Receive, presence: Presence) -> None:
        self._receive = receive
        self._presence = presence

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        if self._session is None:
            return
        outbox = self._waiting.get(peer) or Outbox(self._numbers)
        try:
            outbox.put(channel, payload)
        except Invalid as error:
            logger.error("not sent", extra={"peer": peer, "error": error})  # noqa: TRY400 - no trace needed
            return
        self._waiting[peer] = outbox
        self._pump()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        said = ""
        while True:
            since_s = loop.time()
            try:
                why = await self._converse()
            except Unavailable as error:
                why = str(error)
            if loop.time() - since_s > STEADY_S:
                failures, said = 0, ""
            failures += 1
            if why != said:
                said = why
                logger.warning("no connection to the broker, will retry", extra={"why": why})
            await asyncio.sleep(tcp.retry_s(failures, self._random))

    async def _converse(self) -> str:
        """Hold one connection until it ends and return why. Raises `Unavailable` if it never came to be."""
        wire = await self._dial(self._host, self._port, _Wire)
        session = _Session(wire, self._topics, self._heard, self._pump)
        try:
            await session.open(self._host, self._port)
            self._connected(session)
            return await session.ended()
        finally:
            self._disconnected()
            await session.close()

    def _connected(self, session: _Session) -> None:
        logger.info("connected to the broker", extra={"host": self._host, "port": self._port})
        self._session = session
        if isinstance(self._topics, _WorkerTopics):
            self._tell_presence(UP, here=True)

    def _disconnected(self) -> None:
        self._session = None
        self._waiting.clear()
        self._inboxes.clear()
        for peer in tuple(self._present):
            self._tell_presence(peer, here=False)

    def _tell_presence(self, peer: str, *, here: bool) -> None:
        if here:
            self._present.add(peer)
        else:
            self._present.discard(peer)
        if self._presence is not None:
            self._presence(peer, here)

    def _pump(self) -> None:
        """Hand frames to the connection while it takes them, the peers taking turns."""
        session = self._session
        while session is not None and session.writable and self._waiting:
            peer = next(iter(self._waiting))
            outbox = self._waiting.pop(peer)
            frame = outbox.take()
            if outbox:
                self._waiting[peer] = outbox
            if frame is not None:
                session.publish(self._topics.to(peer, frame[0].value), frame[1])

    def _heard(self, topic: str, frame: bytes) -> None:
        address = self._topics.origin(topic)
        if address is None or self._session is None:
            return
        peer, kind = address
        if kind == _PRESENCE and frame == _GONE:
            self._inboxes.pop(peer, None)
            self._tell_presence(peer, here=False)
            return
        if peer not in self._present or kind == _PRESENCE:
            self._tell_presence(peer, here=True)
        channel = _CHANNELS.get(kind)
        if channel is not None:
            self._deliver(peer, channel, frame)

    def _deliver(self, peer: str, channel: Channel, frame: bytes) -> None:
        inbox = self._inboxes.get(peer) or Inbox()
        try:
            payload = inbox.take(channel, frame)
        except Invalid as error:
            logger.warning("unreadable frame", extra={"peer": peer, "channel": channel, "error": error})
            return
        if inbox:
            self._inboxes[peer] = inbox
        else:
            self._inboxes.pop(peer, None)
        if payload is not None and self._receive is not None:
            self._receive(peer, channel, payload)


# --- topics ----------------------------------------------------------------------------------------------------


class _Topics(Protocol):
    """Who this end is, and which topics it speaks on."""

    client_id: str
    """A second connection under one id ends the first, so that a new process takes over from one that hangs."""
    subscription: str
    announcement: str
    """Topic on which this end says that it came, and the broker that it went; empty: it does not."""

    def to(self, peer: str, kind: str) -> str: ...

    def origin(self, topic: str) -> tuple[str, str] | None: ...


class _ClusterTopics:
    client_id = "cluster"
    subscription = "oak/v1/+/up/+"
    announcement = ""

    def to(self, peer: str, kind: str) -> str:
        return f"oak/v1/{peer}/down/{kind}"

    def origin(self, topic: str) -> tuple[str, str] | None:
        parts = topic.split("/")
        return (parts[2], parts[4]) if len(parts) == 5 else None  # noqa: PLR2004 - as subscribed


class _WorkerTopics:
    def __init__(self, worker: str) -> None:
        self.client_id = worker
        self.subscription = f"oak/v1/{worker}/down/+"
        self.announcement = f"oak/v1/{worker}/up/{_PRESENCE}"
        self._out = f"oak/v1/{worker}/up/"

    def to(self, peer: str, kind: str) -> str:
        del peer
        return self._out + kind

    def origin(self, topic: str) -> tuple[str, str] | None:
        return UP, topic.rpartition("/")[2]


# --- one connection --------------------------------------------------------------------------------------------


class _Session:
    """One connection to the broker, from CONNECT to its end."""

    def __init__(
        self, wire: _Wire, topics: _Topics, heard: Callable[[str, bytes], None], writable: Callable[[], None]
    ) -> None:
        loop = asyncio.get_running_loop()
        self._wire = wire
        self._topics = topics
        self._heard = heard
        self._subscribed: asyncio.Future[None] = loop.create_future()
        self._ended: asyncio.Future[str] = loop.create_future()
        self._client = self._make_client()
        wire.attach(self._readable, writable, self._lost)

    def _make_client(self) -> _Client:
        client = _Client(self._wire, self._topics.client_id)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        client.on_disconnect = self._on_disconnect
        if self._topics.announcement:
            client.will_set(self._topics.announcement, _GONE)
        return client

    @property
    def writable(self) -> bool:
        return not self._wire.paused and not self._ended.done()

    def publish(self, topic: str, frame: bytes) -> None:
        self._client.publish(topic, frame)
        if self._client.want_write():
            self._client.loop_write()

    async def open(self, host: str, port: int) -> None:
        """Log in, subscribe and say that we are here. Raises `Unavailable` if the broker does not let us."""
        self._client.connect(host, port, keepalive=KEEPALIVE_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(ACCEPTED_WITHIN_S):
                await asyncio.wait((self._subscribed, self._ended), return_when=asyncio.FIRST_COMPLETED)
        if self._ended.done():
            raise Unavailable(f"the broker at {host} port {port} refused: {self._ended.result()}")
        if not self._subscribed.done():
            raise Unavailable(
                f"the broker at {host} port {port} did not answer for {ACCEPTED_WITHIN_S:.0f} s"
            )
        if self._topics.announcement:
            self.publish(self._topics.announcement, _HERE)

    async def ended(self) -> str:
        """Return why, when the connection has ended; meanwhile keep it alive."""
        while not self._ended.done():
            self._client.loop_misc()
            await asyncio.wait((self._ended,), timeout=HOUSEKEEPING_S)
        return self._ended.result()

    async def close(self) -> None:
        """Take leave, so that the broker does not announce us lost, and let go of the socket."""
        if not self._ended.done():
            self._client.disconnect()
        self._wire.close()
        try:
            async with asyncio.timeout(LEAVE_S):
                await self._wire.closed.wait()
        except TimeoutError:
            logger.debug("the broker does not take our leave")
        finally:
            self._wire.abort()

    def _readable(self) -> None:
        while self._wire.pending and not self._ended.done():
            self._client.loop_read()
        if self._client.want_write():  # what was said in a callback, the library leaves to us
            self._client.loop_write()

    def _lost(self, why: str) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    def _on_connect(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        del userdata, flags, properties
        if reason.is_failure:
            self._lost(str(reason))
        else:
            client.subscribe(self._topics.subscription, qos=0)

    def _on_subscribe(
        self, client: paho.Client, userdata: Any, mid: int, reasons: Any, properties: Any
    ) -> None:
        del client, userdata, mid, properties
        if any(reason.is_failure for reason in reasons):
            self._lost(f"it does not let us subscribe to {self._topics.subscription}")
        elif not self._subscribed.done():
            self._subscribed.set_result(None)

    def _on_disconnect(
        self, client: paho.Client, userdata: Any, flags: Any, reason: Any, properties: Any
    ) -> None:
        del client, userdata, flags, properties
        self._lost(str(reason))

    def _on_message(self, client: paho.Client, userdata: Any, message: paho.MQTTMessage) -> None:
        del client, userdata
        self._heard(message.topic, bytes(message.payload))


class _Client(paho.Client):
    """The library's protocol engine on a connection that is already there."""

    def __init__(self, wire: _Wire, client_id: str) -> None:
        super().__init__(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
        self._wire = wire

    def _create_socket(self) -> Any:
        return self._wire


class _Wire(asyncio.Protocol):
    """An asyncio connection that looks like a socket to the library: no thread, no `select`, and TLS for free."""

    def __init__(self) -> None:
        self.paused = False
        self.closed = asyncio.Event()
        self._received = bytearray()
        self._transport: asyncio.Transport | None = None
        self._readable: Callable[[], None] = _nothing
        self._writable: Callable[[], None] = _nothing
        self._lost: Callable[[str], None] = _nothing_lost

    def attach(
        self, readable: Callable[[], None], writable: Callable[[], None], lost: Callable[[str], None]
    ) -> None:
        """Set who is told that something arrived, that there is room to write, and that the connection is gone."""
        self._readable = readable
        self._writable = writable
        self._lost = lost

    @property
    def pending(self) -> int:
        """Bytes that wait to be read."""
        return len(self._received)

    # --- towards asyncio

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        self._readable()

    def pause_writing(self) -> None:
        self.paused = True

    def resume_writing(self) -> None:
        self.paused = False
        self._writable()

    def connection_lost(self, exc: Exception | None) -> None:
        self.paused = True
        self.closed.set()
        self._lost(str(exc) if exc is not None else "it closed the connection")

    # --- towards the library

    def recv(self, size: int) -> bytes:
        if not self._received:
            raise BlockingIOError
        data = bytes(self._received[:size])
        del self._received[:size]
        return data

    def send(self, data: Any) -> int:
        if self._transport is None or self._transport.is_closing():
            raise ConnectionResetError("the connection is gone")
        self._transport.write(bytes(data))
        return len(data)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        """Let go of the connection, whatever still waits to be written."""
        if self._transport is not None:
            self._transport.abort()

    def fileno(self) -> int:
        return -1

    def setblocking(self, flag: bool) -> None:  # noqa: FBT001 - the library's contract
        """Never blocks anyway."""


def _nothing() -> None:
    pass


def _nothing_lost(why: str) -> None:
    del why
