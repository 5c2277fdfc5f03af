"""What `/api/v1` says: our own plain JSON, read by `oak` and whoever wants more than the original's API tells."""

from __future__ import annotations

from dataclasses import dataclass, field

from oakestra.model.event import Event
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId, WorkerId
from oakestra.model.machine import InstanceUsage, MachineUsage
from oakestra.model.service import InstanceAddress, Resources, ServiceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What was thought of one candidate; an empty `refusal` means it would have done."""

    name: str
    refusal: str
    score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotVerdicts:
    """Why a cluster has a slot where it is, or nowhere: what it thought of each worker when it last looked."""

    number: int
    reason: str
    verdicts: tuple[Verdict, ...]
    remedy: str = ""
    """The least that would have to change for it to be placed; nothing if it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What happened to a service's instances, in order, and what their clusters thought of each worker."""

    events: tuple[Event, ...]
    verdicts: tuple[SlotVerdicts, ...]
    silent: tuple[str, ...]
    """Clusters that could not be asked: what they did is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Instance:
    """A slot of a service: where it is, how far it has come, and why."""

    number: int
    wanted: bool
    """False: being withdrawn."""
    status: str
    """The original's word."""
    phase: str
    ready: bool
    reason: str
    """Why it is in this phase."""
    placement_reason: str
    """Why it is in this cluster, or in none."""
    verdicts: tuple[Verdict, ...]
    """What root thought of each cluster when it last looked."""
    placement: int
    attempt: int
    restart: int
    revision: int
    """Of the service, that it runs."""
    cluster: str
    """Name; empty: none yet."""
    cluster_id: ClusterId | None
    worker: str
    worker_id: WorkerId
    host: str
    address: InstanceAddress
    namespace_address: InstanceAddress
    exit_code: int | None
    usage: InstanceUsage | None
    requested_wall_s: float
    changed_wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The last update of a service."""

    state: str
    """`rolling`, `done`, `failed` or `rolled_back`."""
    updated: int
    """Instances that are ready on the new revision."""
    reason: str
    """Why it ended as it did; while it rolls, why the first successor that has trouble is not ready."""
    began_wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """A service with all that is known about its instances."""

    id: ServiceId
    name: str
    application_id: ApplicationId
    status: str | None
    """The original's word; null before the first instance was asked for."""
    detail: str
    next_slot: int
    spec: ServiceSpec
    rollout: Rollout | None
    """Null: it was not updated yet."""
    instances: tuple[Instance, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """An application and the ids of its services."""

    id: ApplicationId
    name: str
    namespace: str
    description: str
    owner: str
    """User name."""
    owner_id: UserId
    organization_id: OrganizationId
    services: tuple[ServiceId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """A cluster, how long ago it was heard of, and what it has."""

    id: ClusterId
    name: str
    location: str
    host: str
    api_port: int
    live: bool
    availability: str
    """`active`; or `cordoned`: takes nothing new; or `draining`: what it has moves to other clusters."""
    silent_s: float | None
    """Since it was last heard; null: never since this root started."""
    workers: int
    workers_live: int
    instances: int
    """Slots placed there."""
    total: Resources
    free: Resources
    joined_wall_s: float


LIVENESS_UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Worker:
    """A worker as its cluster last reported it; while that is lost, nobody knows how it is."""

    id: WorkerId
    name: str
    cluster: str
    cluster_id: ClusterId
    host: str
    live: bool
    """It is heard of, and so is its cluster."""
    liveness: str
    """`live`; `suspect`: it is being asked whether it is there; `lost`; or `unknown`: its cluster is lost, or has not
    heard of it since its own restart."""
    silent_s: float | None
    """Since its cluster was last heard, which says all of this; null: never since this root started."""
    instances: int
    """Given to it when its cluster was last heard."""
    architecture: str
    virtualizations: tuple[str, ...]
    total: Resources
    free: Resources | None
    """Null: it does not live, so nobody knows."""
    usage: MachineUsage | None
    """Null: not measured since this root started, or it does not live."""
    trouble: str
    """What it says keeps it from doing what it is told; empty when nothing does."""
    availability: str
    """`active`; or `cordoned`: takes nothing new; or `draining`: what it has moves away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """How root is. Everybody may see the first two; the rest needs a login."""

    version: str
    status: str = "ok"
    uptime_s: float | None = None
    epoch: int | None = None
    counts: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Availability:
    """Whether a worker or cluster is to take instances."""

    availability: str
    """`active`, `cordoned` or `draining`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Changed:
    """What became of a worker or cluster."""

    name: str
    availability: str = ""
    removed: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How many instances a service is to have."""

    instances: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Scaled:
    """The instance numbers a service has now."""

    instances: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """What every error looks like."""

    code: int
    status: str
    message: str
    """What happened, what it means, what to do next."""
    msg: str = ""
    """The same, where clients of the original look for it."""
    reason: str = ""
    """What is wrong with the token, where the original's `message` does not say."""
    errors: dict[str, list[str]] = field(default_factory=dict)
    """What is wrong with the body, by its kind; there if it is not even JSON."""
