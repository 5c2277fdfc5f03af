"""One copy of a service: its slot, the attempts to run it, and how far each has come (status)."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple

from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.service import InstanceAddress, ServiceSpec


class Phase(IntEnum):
    """How far an instance has come; a later phase has the greater value.

    Within one (placement, attempt, incarnation, restart) an instance never moves back: of two reports the
    one with the greater phase is the truer. The gaps leave room for phases still to be invented.
    """

    UNKNOWN = 0
    REQUESTED = 10
    """A slot exists; no cluster was chosen yet."""
    CLUSTER_ASSIGNED = 20
    """A cluster was chosen; it has not chosen a worker yet."""
    WORKER_ASSIGNED = 30
    """A worker was chosen; it has not begun."""
    PULLING = 40
    """The worker is fetching the image."""
    ATTACHED = 50
    """The instance has its network namespace, addresses and name servers."""
    CREATED = 60
    """The container exists; its process has not started."""
    RUNNING = 70
    """The process was started and the network is attached."""
    STOPPED = 80
    """The process ended; it will be started again once its back-off is over."""
    COMPLETED = 90
    """A one-shot process ended with exit code 0; it stays ended."""
    FAILED = 95
    """It ended, or could not start, and this worker will not try again."""

    @classmethod
    def _missing_(cls, value: object) -> Phase:
        del value
        return cls.UNKNOWN


class Slot(NamedTuple):
    """Copy `number` of a service. Numbers count from 0 and are never reused."""

    service: ServiceId
    number: int


class Placement(NamedTuple):
    """One try of a slot in one cluster. Root raises `placement` when it moves the slot."""

    service: ServiceId
    number: int
    placement: int

    @property
    def slot(self) -> Slot:
        return Slot(self.service, self.number)


class InstanceKey(NamedTuple):
    """One try of a slot on one worker. The cluster raises `attempt` when it moves the slot."""

    service: ServiceId
    number: int
    placement: int
    attempt: int

    @property
    def slot(self) -> Slot:
        return Slot(self.service, self.number)

    @property
    def placed(self) -> Placement:
        return Placement(self.service, self.number, self.placement)

    def supersedes(self, other: InstanceKey) -> bool:
        """Tell whether this is a later try of the same slot than `other`."""
        return self.slot == other.slot and (self.placement, self.attempt) > (other.placement, other.attempt)


@dataclass(frozen=True, slots=True, kw_only=True)
class Failures:
    """How an instance keeps failing where it is, counted in a row."""

    steps: int = 0
    """Tries of the one step towards running (pull, attach, create, start) that does not work."""
    crashes: int = 0
    """Ends of its process, each soon after it was started."""
    how: str = ""
    """The last of them, in a sentence for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceStatus:
    """What the worker last saw of an instance."""

    key: InstanceKey
    incarnation: int = 0
    """Raised by a worker that lost its state."""
    restart: int = 0
    """How often this worker started it again in place."""
    phase: Phase = Phase.UNKNOWN
    sequence: int = 0
    """Counts this worker's reports, so that equal phases are ordered too."""
    ready: bool = False
    """RUNNING, attached, and healthy as far as anybody asked. Only ready instances are routed to."""
    reason: str = ""
    """Why it is where it is, in a sentence for people."""
    exit_code: int | None = None
    failures: Failures | None = None
    """None: it did not fail since it last ran well."""
    worker: WorkerId = WorkerId("")
    revision: int = 0
    """Of the service's spec that it runs."""
    namespace: InstanceAddress = field(default_factory=InstanceAddress)
    """Its own addresses on the worker's subnet (not the semantic ones)."""
    made_as: int = 0
    """The attempt that its container was made as, if it was taken back since and has another number; 0: it was not."""


def order(status: InstanceStatus) -> tuple[int, int, int, int, int, int]:
    """Return the key by which statuses of one slot are totally ordered."""
    key = status.key
    return (key.placement, key.attempt, status.incarnation, status.restart, status.phase, status.sequence)


def merge(a: InstanceStatus, b: InstanceStatus) -> InstanceStatus:
    """Return the truer of two statuses of one slot: commutative, associative, idempotent."""
    return max(a, b, key=order)


def is_done(spec: ServiceSpec, status: InstanceStatus | None) -> bool:
    """Tell whether a one-shot instance has done its work: it is not run again, wherever it was, but for an update."""
    return (
        status is not None
        and spec.one_shot
        and status.phase is Phase.COMPLETED
        and spec.covers(status.revision)
    )
