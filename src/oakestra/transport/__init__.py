"""Sockets. Tiers exchange encoded bytes over links; what the bytes mean is `wire`'s business.

A link is level-triggered's friend: sending never blocks and may silently lose; per peer and channel only the
newest set is queued. The tiers repair losses themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from oakestra.model.ids import WorkerId


class Channel(StrEnum):
    """Kinds of traffic on a link; each kind is kept in order."""

    SET = "set"
    """A whole desired or observed set. A newer one replaces one still queued."""
    BEAT = "beat"
    """A sign of life with the numbers that tell whether a set was missed. Newest wins."""
    TELEMETRY = "telemetry"
    """Measurements; first to be dropped. Newest wins."""
    CALL = "call"
    """Requests and replies; queued in order, at most a few hundred, the oldest dropped."""


Receive = Callable[[str, Channel, bytes], None]
"""Called in the event loop with (peer, channel, payload). Records and wakes; never blocks or raises."""

Presence = Callable[[str, bool], None]
"""Called with (peer, connected) when a connection comes or goes. A hint to wake up, never a truth about liveness."""


class Beats(Protocol):
    """Signs of life beside the links, on something that loses rather than stalls. Hears by itself; asks when told."""

    def probe(self, worker: WorkerId) -> None:
        """Ask a worker whether it is there; the answer, if one comes, counts as a sign of life."""

    async def run(self) -> None:
        """Listen until cancelled."""


class Link(Protocol):
    """One end of the connections between a tier and its neighbours above or below.

    From below there is one peer, called "up". From above a peer's name is its id.
    """

    def listen(self, receive: Receive, presence: Presence) -> None:
        """Set who is told of arrivals; call once, before `run`."""

    def send(self, peer: str, channel: Channel, payload: bytes) -> None:
        """Queue `payload` for `peer`; returns at once; lost if the peer is not connected."""

    async def run(self) -> None:
        """Keep the connection up until cancelled: dial again with back-off when it is lost."""
