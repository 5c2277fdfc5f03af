"""What a cluster may decide in a pass. Pure values; `plan.py` makes them, `execute.py` records them."""

from __future__ import annotations

from dataclasses import dataclass

from oakestra.model.ids import ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Slot
from oakestra.scheduling.elsewhere import Failed
from oakestra.scheduling.placement import CandidateVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Give a slot to a worker as a new attempt."""

    slot: Slot
    worker: WorkerId
    attempt: int
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Adopt:
    """Take an attempt that already runs as the slot's current one."""

    slot: Slot
    worker: WorkerId
    attempt: int
    revision: int = 0
    former: tuple[int, ...] = ()
    reason: str = "found running"


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaceable:
    """No worker will do; the slot waits."""

    slot: Slot
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """An attempt must go from a worker."""

    key: InstanceKey
    worker: WorkerId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """A withdrawn attempt was seen gone."""

    worker: WorkerId
    key: InstanceKey


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetService:
    """Nothing of a service is left here."""

    service: ServiceId


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetOrigin:
    """Nothing of a service's application is left here."""

    service: ServiceId


@dataclass(frozen=True, slots=True, kw_only=True)
class GrantSubnet:
    """A worker gets addresses, or more of them."""

    worker: WorkerId
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Start a slot anew on a worker while its present attempt goes on serving until the new one is ready."""

    slot: Slot
    worker: WorkerId
    attempt: int
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Relieve:
    """A successor is ready: traffic goes there from now on, and the earlier attempt once every worker knows."""

    slot: Slot
    routes: tuple[tuple[WorkerId, int], ...]
    """Workers, and the generation of their assignment that says so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """An attempt is out of reach, to be replaced, and may be taken back when its worker returns."""

    slot: Slot
    worker: WorkerId
    attempt: int
    revision: int
    restart: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """An attempt that was set aside, or was to leave, goes on as the slot's next one."""

    slot: Slot
    worker: WorkerId
    attempt: int
    continues: int
    """The number that it had."""
    former: tuple[int, ...]
    """All by which its worker may know it, that one among them, oldest first."""
    revision: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LetServe:
    """An attempt that was set aside is back on a worker that is drained: it serves until its successor is ready."""

    slot: Slot
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """An instance keeps failing where it is: it is not tried there again soon."""

    slot: Slot
    failed: Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgive:
    """That an instance failed on a worker does not count any more."""

    slot: Slot
    worker: WorkerId
    reason: str = ""
    """Why it is where it is now, if that has changed with it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """A one-shot instance has done its work: it is neither moved nor started anew, whatever becomes of its worker."""

    slot: Slot
    status: InstanceStatus


Decision = (
    Finish
    | Remember
    | Forgive
    | SetAside
    | TakeBack
    | LetServe
    | Place
    | Move
    | Relieve
    | Adopt
    | Unplaceable
    | Withdraw
    | Forget
    | ForgetService
    | ForgetOrigin
    | GrantSubnet
)
