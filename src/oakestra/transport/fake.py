"""Links in memory over a network that drops, repeats, delays and cuts. Deterministic: all chance is handed in."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from contextvars import Context, copy_context
from dataclasses import dataclass, field
from random import Random

from oakestra.transport import Channel, Presence, Receive

UP = "up"


@dataclass(slots=True, kw_only=True)
class Weather:
    """How bad the network is now. Change it at any time."""

    loss_ratio: float = 0.0
    repeat_ratio: float = 0.0
    delay_max_s: float = 0.0
    cut: set[frozenset[str]] = field(default_factory=set)
    """Pairs of names between which nothing passes, either way."""
    one_way: set[tuple[str, str]] = field(default_factory=set)
    """(from, to) pairs over which nothing passes."""


class FakeHub:
    """All ends of all links of a fleet."""

    def __init__(self, random: Random) -> None:
        self.weather = Weather()
        self.sent = self.lost = self.repeated = 0
        self._random = random
        self._ends: dict[str, FakeLink] = {}
        self._lanes: dict[tuple[str, str, Channel], deque[tuple[FakeLink, bytes]]] = {}
        """What is under way, by who sends to whom on what: each kind of traffic keeps its order."""

    def link(self, name: str, *, parent: str | None) -> FakeLink:
        """Return a fresh end called `name`. With a `parent` it speaks to that one end as "up"; without, to all
        whose parent it is, by their names. An earlier end of that name and kind is forgotten: its process died."""
        address = _address(name, upward=parent is not None)
        earlier = self._ends.get(address)
        if earlier is not None:
            self.changed(earlier, running=False)
        link = self._ends[address] = FakeLink(self, name, parent)
        return link

    def remove(self, name: str) -> None:
        """Forget both ends called `name`: nothing reaches them any more."""
        for upward in (True, False):
            end = self._ends.get(_address(name, upward=upward))
            if end is not None:
                self.changed(end, running=False)
                del self._ends[_address(name, upward=upward)]

    def cut(self, a: str, b: str) -> None:
        """Break the connection between two names: what was under way is lost, and both are told."""
        self.weather.cut.add(frozenset((a, b)))
        for sender, receiver, channel in tuple(self._lanes):
            if {sender.partition("/")[0], receiver} == {a, b}:
                del self._lanes[sender, receiver, channel]
        self._tell(a, b)

    def heal(self, a: str, b: str) -> None:
        """Let them connect again; both are told."""
        self.weather.cut.discard(frozenset((a, b)))
        self._tell(a, b)

    def carry(self, sender: FakeLink, peer: str, channel: Channel, payload: bytes) -> None:
        """Pass a payload on as the weather allows."""
        if not sender.running:
            return
        to_name = sender.parent if sender.parent is not None else peer
        copies = 2 if self._random.random() < self.weather.repeat_ratio else 1
        self.repeated += copies - 1
        for _ in range(copies):
            lost = self._random.random() < self.weather.loss_ratio
            delay_s = self._random.uniform(0, self.weather.delay_max_s)
            if lost or self._blocked(sender.name, to_name):
                self.lost += lost
                continue
            self.sent += 1
            lane = (_address(sender.name, upward=sender.parent is not None), to_name, channel)
            self._lanes.setdefault(lane, deque()).append((sender, payload))
            asyncio.get_running_loop().call_later(delay_s, self._deliver, lane)

    def datagram(self, sender: str, receiver: str, arrive: Callable[[], None]) -> None:
        """Let something arrive as a datagram would: lost, late or out of order as the weather is, never stalled."""
        lost = self._random.random() < self.weather.loss_ratio
        delay_s = self._random.uniform(0, self.weather.delay_max_s)
        if not lost and not self._blocked(sender, receiver):
            asyncio.get_running_loop().call_later(delay_s, arrive)

    def changed(self, link: FakeLink, *, running: bool) -> None:
        """Note that an end began or ceased to run; it is told, and so are those it was or is now connected to."""
        link.running = running
        if self._ends.get(_address(link.name, upward=link.parent is not None)) is not link:
            return
        if link.parent is not None:
            self._tell(link.name, link.parent)
        else:
            for below in [end.name for end in self._ends.values() if end.parent == link.name]:
                self._tell(below, link.name)

    def _tell(self, a: str, b: str) -> None:
        """Tell both ends of the link between two names, whichever is the parent, how it is now."""
        for lower, upper in ((a, b), (b, a)):
            below = self._ends.get(_address(lower, upward=True))
            above = self._ends.get(_address(upper, upward=False))
            if below is not None and above is not None and below.parent == upper:
                connected = below.running and above.running and not self._blocked(lower, upper)
                below.tell(UP, connected=connected)
                above.tell(lower, connected=connected)

    def _blocked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.weather.cut or (a, b) in self.weather.one_way

    def _deliver(self, lane: tuple[str, str, Channel]) -> None:
        """Deliver the oldest of the lane, whichever payload's delay is over."""
        _, to_name, channel = lane
        if lane not in self._lanes:
            return
        sender, payload = self._lanes[lane].popleft()
        if not self._lanes[lane]:
            del self._lanes[lane]
        going_up = sender.parent is not None
        end = self._ends.get(_address(to_name, upward=not going_up))
        if end is None or end.receive is None or not end.running or self._blocked(sender.name, to_name):
            return
        if not going_up and end.parent != sender.name:
            return
        end.context.run(end.receive, sender.name if going_up else UP, channel, payload)


class FakeLink:
    """Implements `Link` on a hub."""

    def __init__(self, hub: FakeHub, name: str, parent: str | None) -> None:
        self.name = name
        self.parent = parent
        self.receive: Receive | None = None
        self.context: Context = copy_context()
        """Of whoever listens: what a payload brings about is the receiver's work and not the sender's."""
        self.running = False
        self._presence: Presence | None = None
        self._connected: set[str] = set()
        self._hub = hub

    def listen(self, receive: Receive, presence: Presence) -> None:
        self.receive = receive
        self.context = copy_context()
        self._presence = presence

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        self._hub.carry(self, peer, channel, payload)

    def tell(self, peer: str, *, connected: bool) -> None:
        """Report that a connection came or went, if it was not known."""
        if connected == (peer in self._connected):
            return
        self._connected ^= {peer}
        if self._presence is not None:
            self._presence(peer, connected)

    async def run(self) -> None:
        self._hub.changed(self, running=True)
        try:
            await asyncio.Event().wait()
        finally:
            self._hub.changed(self, running=False)


def _address(name: str, *, upward: bool) -> str:
    return f"{name}/{'up' if upward else 'down'}"
