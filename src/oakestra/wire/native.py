"""What our own tiers say to each other: desired sets down, observed sets up, requests and replies both ways.

Everything is msgpack. Unknown fields are ignored; unknown enum values become UNKNOWN. Every set carries the
sender's store epoch, a generation that only grows within that epoch, and what the sender last applied of the
other's. A set is always whole; absence in it removes nothing: withdrawals are explicit (decisions.md).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from oakestra.model.address import Peer, Route, Subnet
from oakestra.model.errors import Invalid
from oakestra.model.ids import ClusterId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Placement
from oakestra.model.machine import Capacity, InstanceUsage, MachineUsage
from oakestra.model.service import Application, InstanceAddress, Resources, ServiceSpec

PROTOCOL_MAJOR = 1
MESSAGE_BYTES_MAX = 1 << 20
PIECE_BYTES_MAX = 256 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """Which state of the sender's store a set renders."""

    epoch: int = 0
    generation: int = 0


# --- root -> cluster -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedSlot:
    """A slot that root placed in this cluster."""

    placed: Placement
    address: InstanceAddress
    seen_on: WorkerId = WorkerId("")
    """Where root saw it last, if it must never run twice: for a cluster that lost its records."""
    turned: bool = False
    """Another cluster serves it by now: nobody is to be led here any more, and it will be withdrawn soon."""
    done: InstanceStatus | None = None
    """How a one-shot instance was when it had done its work: it must not run again."""


NumberRange = tuple[int, int]
"""Numbers of slots: the first, and the first behind them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """What root knows of a service besides what its instances need. Clusters keep it for a root that lost its records."""

    service: ServiceId
    application: Application
    organization: str
    """The tenant's name."""
    document: dict[str, Any] = field(default_factory=dict)
    """The microservice of the SLA as its user sent it."""
    next_slot: int = 0
    """Numbers below were given out."""
    removed: tuple[NumberRange, ...] = ()
    """Those of them that users took away again."""
    position: int = 0
    """In its application."""
    created_wall_s: float = 0.0
    """When its application was."""
    spec: ServiceSpec | None = None
    """Of a service that has no instance in this cluster."""
    epoch: int = 0
    """Of the records that say so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteInstance:
    """An instance in another cluster, as needed for routes."""

    placed: Placement
    instance: InstanceAddress
    namespace: InstanceAddress
    ready: bool = True
    """Only ready instances are led to; the others, too, may speak with instances here."""
    cluster: ClusterId = ClusterId("")
    """Which one has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterAssignment:
    """All that root wants of one cluster."""

    version: Version
    services: tuple[ServiceSpec, ...] = ()
    slots: tuple[AssignedSlot, ...] = ()
    withdrawn: tuple[Placement, ...] = ()
    origins: tuple[Origin, ...] = ()
    """Of each of `services`, and of every other service of their applications."""
    heard_out: bool = False
    """Root has recorded all that this cluster holds by the word of records that root has not: it may be forgotten."""
    availability: str = ""
    """Whether this cluster takes instances; empty: nobody said since root's records are new."""
    subnet_lease: tuple[int, int] | None = None
    """First worker subnet index leased, and how many."""
    remote_services: tuple[ServiceSpec, ...] = ()
    """Services with instances elsewhere that instances of this cluster may reach."""
    remotes: tuple[RemoteInstance, ...] = ()
    peers: tuple[Peer, ...] = ()
    heard: tuple[ClusterId, ...] | None = None
    """Root's records are new, and of other clusters only these have told what they hold: of the rest what was known
    before holds. None: all that there are."""


# --- cluster -> root -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Aggregate:
    """What the live workers of one architecture and runtime offer together."""

    architecture: str
    virtualization: str
    workers: int
    total: Resources
    free: Resources
    """Unreserved, summed."""
    largest_free: Resources
    """The largest free piece of each kind on any one worker (not necessarily the same one)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A placement this cluster cannot satisfy now, and why."""

    placed: Placement
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A service that this cluster knows by the word of records that root no longer has, and its slots that it holds."""

    service: ServiceSpec
    origin: Origin
    slots: tuple[AssignedSlot, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerSummary:
    """A worker as root and its users see it."""

    id: WorkerId
    name: str
    host: str
    live: bool
    instances: int
    capacity: Capacity
    free: Resources
    tunnel_port: int = 50103
    subnet_indexes: tuple[int, ...] = ()
    trouble: str = ""
    """What it says keeps it from doing what it is told."""
    liveness: str = "live"
    """`suspect` when it is being asked whether it is there; `lost`."""
    availability: str = "active"
    """Or `cordoned`: takes nothing new; or `draining`: what it has moves away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterReport:
    """All that a cluster saw. `complete` is false while it cannot vouch for something it does not mention."""

    version: Version
    applied: Version
    complete: bool
    store: int = 0
    """Epoch of the cluster's store. What a new store says replaces what the lost one had said."""
    statuses: tuple[InstanceStatus, ...] = ()
    """The truest status of every placement it knows, including those being withdrawn."""
    successors: tuple[InstanceStatus, ...] = ()
    """Attempts that are to replace one which still serves, and is the one in `statuses`."""
    refusals: tuple[Refusal, ...] = ()
    exhausted: tuple[Refusal, ...] = ()
    """Placements that fail on the worker that has them, and that no other worker here would take now."""
    claims: tuple[Claim, ...] = ()
    """What root's present records never told: without root's word for it, it stays."""
    availability: str = ""
    """What records that root no longer has said of this cluster."""
    aggregates: tuple[Aggregate, ...] = ()
    workers: tuple[WorkerSummary, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceMeasurement:
    """Telemetry of one instance."""

    key: InstanceKey
    usage: InstanceUsage


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """Measurements, up from worker and cluster. Lost ones are not sent again."""

    machine: MachineUsage = field(default_factory=MachineUsage)
    """Of the worker; of a cluster the mean of its workers."""
    instances: tuple[InstanceMeasurement, ...] = ()
    workers: tuple[tuple[WorkerId, MachineUsage], ...] = ()
    """Of a cluster: each of its workers."""


# --- cluster -> worker -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class AssignedInstance:
    """An instance that the cluster put on this worker."""

    key: InstanceKey
    address: InstanceAddress
    former: tuple[InstanceKey, ...] = ()
    """Names that it had on this worker before it was taken back: whatever is there under one of them goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerAssignment:
    """All that a cluster wants of one worker."""

    version: Version
    services: tuple[ServiceSpec, ...] = ()
    instances: tuple[AssignedInstance, ...] = ()
    withdrawn: tuple[InstanceKey, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    subnet_index: int = 0
    routes: tuple[Route, ...] = ()
    peers: tuple[Peer, ...] = ()


# --- worker -> cluster -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport:
    """All that a worker saw. `complete` is false when looking failed or while it adopts."""

    version: Version
    applied: Version
    complete: bool
    statuses: tuple[InstanceStatus, ...] = ()
    capacity: Capacity = field(default_factory=Capacity)
    trouble: str = ""
    """What keeps this worker from doing what it is told, in a sentence; empty when nothing does."""


# --- both ways -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat:
    """A sign of life. The receiver sends its set again if `applied` is not what it last sent, and asks for
    the sender's by answering with its own beat, whose `applied` then differs from the sender's `version`.

    Downwards, `UNKNOWN_HERE` says that whoever sent something is no member (any more) and should join.
    """

    version: Version
    applied: Version


UNKNOWN_HERE = Beat(version=Version(epoch=-1), applied=Version(epoch=-1))


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request that travels down to a worker (or stops at the tier it names), and is answered in pieces."""

    id: str
    method: str
    worker: WorkerId = WorkerId("")
    deadline_s: float = 30.0
    arguments: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelCall:
    """The asker has gone; stop working on this call."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """The asker has consumed the pieces up to `sequence`; more may follow.

    `NOTHING_YET` asks whether the call is still known; who does not know it says `Lost`.
    """

    id: str
    sequence: int


NOTHING_YET = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A piece of what the asker enters into a call that is being answered; sent again until it is known to be there."""

    id: str
    sequence: int
    body: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """Of what was entered all up to `received` is there, and all up to `taken` has been used."""

    id: str
    received: int
    taken: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Whoever should answer this call does not know it: the process that did is gone."""

    id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """A piece of the answer to a call, at most 256 KiB; `end` marks the last, `error` why there is no more."""

    id: str
    sequence: int
    body: bytes = b""
    end: bool = False
    error: str = ""
    """Kind of error and sentence, as `model.errors` has them: `NotFound: …`."""


# --- joining ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinWorker:
    """A worker asks to belong to a cluster. `key` is its identity: same key, same id."""

    key: str
    name: str
    capacity: Capacity
    id: WorkerId = WorkerId("")
    """The id it had before, for a cluster that lost its store; empty on a first join."""
    host: str = ""
    """Address its peers reach it at; empty: the address it connects from."""
    incarnation: int = 0
    """Of the state it has."""
    subnet_indexes: tuple[int, ...] = ()
    """Subnets it had before, for a cluster that lost its store: its instances have addresses of these."""
    tunnel_port: int = 50103
    token: str = ""
    major: int = PROTOCOL_MAJOR


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerJoined:
    """The answer: who the worker is and where it connects."""

    id: WorkerId
    cluster: ClusterId
    cluster_name: str
    mqtt_port: int
    incarnation: int = 0
    """At least this is the worker's incarnation: greater than that of a state it lost, whatever its clock says."""
    major: int = PROTOCOL_MAJOR


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinCluster:
    """A cluster asks to belong to root."""

    key: str
    name: str
    id: ClusterId = ClusterId("")
    """The id it had before, for a root that lost its store; empty on a first join."""
    location: str = ""
    subnet_lease: tuple[int, int] | None = None
    """First worker subnet index it had, and how many, for a root that lost its store."""
    token: str = ""
    api_port: int = 10100
    major: int = PROTOCOL_MAJOR


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterJoined:
    """The answer: who the cluster is."""

    id: ClusterId
    known: bool = False
    """It was a member before: a cluster with an empty store must find out what runs before it places anything."""
    major: int = PROTOCOL_MAJOR


# --- codec -----------------------------------------------------------------------------------------------

T = TypeVar("T")
_ENCODER = msgspec.msgpack.Encoder()
_DECODERS: dict[type, msgspec.msgpack.Decoder[Any]] = {}

CallMessage = Call | CancelCall | Received | Input | Reply | Taken | Lost
_TAGS: dict[type, str] = {
    Call: "call",
    CancelCall: "cancel",
    Received: "received",
    Input: "input",
    Reply: "reply",
    Taken: "taken",
    Lost: "lost",
}
_TAGGED = {tag: kind for kind, tag in _TAGS.items()}


def encode(value: object) -> bytes:
    """Return the bytes of a message of this module."""
    return _ENCODER.encode(value)


def decode(payload: bytes, kind: type[T]) -> T:
    """Return the message in `payload`; raise `Invalid` if it is not a `kind`."""
    decoder = _DECODERS.get(kind)
    if decoder is None:
        decoder = _DECODERS[kind] = msgspec.msgpack.Decoder(kind)
    try:
        return decoder.decode(payload)  # type: ignore[no-any-return]
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise Invalid(f"not a {kind.__name__}: {error}") from error


def encode_call(message: CallMessage) -> bytes:
    """Return the bytes of a message of the request/reply channel."""
    return _ENCODER.encode((_TAGS[type(message)], message))


def decode_call(payload: bytes) -> CallMessage:
    """Return the request, cancellation or reply in `payload`; raise `Invalid` if it is none."""
    tag, body = decode(payload, tuple[str, msgspec.Raw])
    kind = _TAGGED.get(tag)
    if kind is None:
        raise Invalid(f"unknown call message {tag!r}")
    return decode(bytes(body), kind)


def service_of(services: tuple[ServiceSpec, ...]) -> dict[ServiceId, ServiceSpec]:
    """Index specs by id."""
    return {spec.id: spec for spec in services}
