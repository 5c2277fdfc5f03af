"""Links in memory over a network that drops, repeats, delays and cuts. Deterministic: all chance is handed in."""

from __future__ import annotations

import asyncio
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
        self.sent = 0
        self._random = random
        self._ends: dict[str, FakeLink] = {}

    def link(self, name: str, *, parent: str | None) -> FakeLink:
        """Return a fresh end called `name`. With a `parent` it speaks to that one end as "up"; without, to all
        whose parent it is, by their names. An earlier end of that name and kind is forgotten: its process died."""
        link = FakeLink(self, name, parent)
        self._ends[_address(name, upward=parent is not None)] = link
        return link

    def remove(self, name: str) -> None:
        """Forget both ends called `name`: nothing reaches them any more."""
        self._ends.pop(_address(name, upward=True), None)
        self._ends.pop(_address(name, upward=False), None)

    def carry(self, sender: FakeLink, peer: str, channel: Channel, payload: bytes) -> None:
        """Pass a payload on as the weather allows."""
        to_name = sender.parent if sender.parent is not None else peer
        copies = 2 if self._random.random() < self.weather.repeat_ratio else 1
        for _ in range(copies):
            lost = self._random.random() < self.weather.loss_ratio
            delay_s = self._random.uniform(0, self.weather.delay_max_s)
            if lost or self._blocked(sender.name, to_name):
                continue
            self.sent += 1
            loop = asyncio.get_running_loop()
            loop.call_later(delay_s, self._deliver, sender, to_name, channel, payload)

    def _blocked(self, a: str, b: str) -> bool:
        return frozenset((a, b)) in self.weather.cut or (a, b) in self.weather.one_way

    def _deliver(self, sender: FakeLink, to_name: str, channel: Channel, payload: bytes) -> None:
        going_up = sender.parent is not None
        end = self._ends.get(_address(to_name, upward=not going_up))
        if end is None or end.receive is None or self._blocked(sender.name, to_name):
            return
        if not going_up and end.parent != sender.name:
            return
        end.receive(sender.name if going_up else UP, channel, payload)


class FakeLink:
    """Implements `Link` on a hub."""

    def __init__(self, hub: FakeHub, name: str, parent: str | None) -> None:
        self.name = name
        self.parent = parent
        self.receive: Receive | None = None
        self._presence: Presence | None = None
        self._hub = hub

    def listen(self, receive: Receive, presence: Presence) -> None:
        self.receive = receive
        self._presence = presence

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        self._hub.carry(self, peer, channel, payload)

    async def run(self) -> None:
        if self._presence is not None and self.parent is not None:
            self._presence(UP, True)
        await asyncio.Event().wait()


def _address(name: str, *, upward: bool) -> str:
    return f"{name}/{'up' if upward else 'down'}"
