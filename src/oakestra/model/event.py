"""Something that happened, and why: what stories are told of. Never a truth to act on."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from oakestra.model.ids import ServiceId


class EventKind(StrEnum):
    """What happened."""

    ACT = "act"
    """Somebody changed what is wanted, or took a machine out or back in."""
    REQUESTED = "requested"
    """Somebody asked for an instance."""
    PLACED = "placed"
    """A tier chose where it goes."""
    UNPLACEABLE = "unplaceable"
    """No candidate would do."""
    ADOPTED = "adopted"
    """It was found running, and kept."""
    SET_ASIDE = "set_aside"
    """It is out of reach and is replaced, and may be taken back."""
    WITHDRAWN = "withdrawn"
    """It must leave the place it has."""
    GONE = "gone"
    """It was seen gone from there, or for good."""
    PHASE = "phase"
    """Its worker saw it reach another phase."""
    RESTARTED = "restarted"
    """Its worker starts it again in place."""
    READY = "ready"
    """From now on it is routed to."""
    NOT_READY = "not_ready"
    """From now on it is not."""
    UPDATED = "updated"
    """A service has a new revision, or its update ended."""
    JOINED = "joined"
    """A worker or cluster became a member."""
    LIVENESS = "liveness"
    """A worker or cluster fell silent, was given up, or came back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One line of a story."""

    kind: EventKind
    reason: str
    """A sentence for people: what happened, and why."""
    wall_s: float = 0.0
    sequence: int = 0
    """Counts the events of one tier's records, in the order in which they are told; begins anew where records were lost."""
    epoch: int = 0
    """Of these records: no two that were ever there have the same."""
    tier: str = ""
    """`root`, or the cluster's name."""
    service: ServiceId = ServiceId("")
    service_name: str = ""
    """As it was then: events are told of services that are gone by now."""
    slot: int = -1
    """Of the service; -1: the event is not about an instance."""
    subject: str = ""
    """Name of the worker or cluster it is about or leads to."""
    placement: int = 0
    attempt: int = 0


STORES_MAX = 10_000
"""Far more tiers than there are, each with its records lost a few times; about a megabyte."""


class Heard:
    """What a listener was told so far: the highest number of each tier's records. Clocks may jump, numbers grow."""

    def __init__(self) -> None:
        self._last: dict[tuple[str, int], int] = {}

    def hear(self, tier: str, epoch: int, sequence: int) -> bool:
        """Note an event and tell whether it is news; what is told of one tier must come in the order of its numbers."""
        records = (tier, epoch)
        if sequence <= self._last.get(records, 0):
            return False
        self._last.pop(records, None)
        self._last[records] = sequence
        while len(self._last) > STORES_MAX:
            del self._last[next(iter(self._last))]
        return True
