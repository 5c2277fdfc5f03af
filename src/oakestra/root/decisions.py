"""What root may decide in a pass. Pure values; `plan.py` makes them, `execute.py` records them."""

from __future__ import annotations

from dataclasses import dataclass

from oakestra.model.ids import ApplicationId, ClusterId, ServiceId
from oakestra.model.instance import InstanceStatus, Placement, Slot
from oakestra.root.rebuild.plan import Answer, Rebuilt
from oakestra.root.rollout import Fail, Progress
from oakestra.scheduling.elsewhere import Failed
from oakestra.scheduling.placement import CandidateVerdict


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Give a slot to a cluster as a new placement."""

    slot: Slot
    cluster: ClusterId
    placement: int
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Give a slot to another cluster while its present placement goes on serving until the new one is ready."""

    slot: Slot
    cluster: ClusterId
    placement: int
    reason: str
    why: str
    """Why it cannot stay."""
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Unplaceable:
    """No cluster will do; the slot stays where it is, if anywhere, and waits."""

    slot: Slot
    reason: str
    verdicts: tuple[CandidateVerdict, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """A placement must go from a cluster."""

    placed: Placement
    cluster: ClusterId
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SetAside:
    """A placement is out of reach, to be replaced, and may be taken back when its cluster returns."""

    slot: Slot
    cluster: ClusterId
    placement: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TakeBack:
    """A placement that was set aside, or was to leave, goes on as the current one."""

    slot: Slot
    cluster: ClusterId
    placement: int
    status: InstanceStatus
    """How it is: ready, so everybody is led to it from now on, or done with its work."""
    store: int
    """Epoch of the cluster's store that `status` comes from."""
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A truer status of a slot's current placement arrived."""

    slot: Slot
    status: InstanceStatus
    store: int
    """Epoch of the cluster's store it comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forget:
    """A withdrawn placement was seen gone."""

    placed: Placement


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetSlot:
    """Nothing of a slot that nobody wants is left: its address may rest."""

    slot: Slot


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetService:
    """The last slot of a deleted service is gone."""

    service: ServiceId


@dataclass(frozen=True, slots=True, kw_only=True)
class ForgetApplication:
    """The last service of a deleted application is gone."""

    application: ApplicationId


@dataclass(frozen=True, slots=True, kw_only=True)
class EndQuarantine:
    """An address has rested long enough."""

    key: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseSubnets:
    """A cluster needs more subnets for its workers, or those that they have already."""

    cluster: ClusterId
    subnet_first: int
    subnet_count: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Remember:
    """A cluster cannot get an instance up: it is not tried there again soon."""

    slot: Slot
    failed: Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgive:
    """That an instance failed in a cluster does not count any more."""

    slot: Slot
    cluster: ClusterId
    reason: str = ""
    """Why it is where it is now, if that has changed with it."""


Decision = (
    Remember
    | Forgive
    | Place
    | Move
    | Unplaceable
    | Withdraw
    | Note
    | Forget
    | ForgetSlot
    | ForgetService
    | ForgetApplication
    | EndQuarantine
    | LeaseSubnets
    | SetAside
    | TakeBack
    | Answer
    | Rebuilt
    | Progress
    | Fail
)
