"""What users ask for: applications and their services (spec)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, UserId


class TransportProtocol(StrEnum):
    """What a published port carries."""

    TCP = "tcp"
    UDP = "udp"


class RestartPolicy(StrEnum):
    """What the worker does with an instance whose process ended."""

    ALWAYS = "always"
    ON_FAILURE = "on_failure"
    NEVER = "never"


class CheckKind(StrEnum):
    """How a health check asks whether an instance is well."""

    HTTP = "http"
    """A GET request is answered with a status from 200 to 399."""
    TCP = "tcp"
    """A connection is accepted."""
    EXEC = "exec"
    """A command inside the instance ends with exit code 0."""
    UNKNOWN = "unknown"
    """One that only a later version knows; nobody here can tell whether it passes."""

    @classmethod
    def _missing_(cls, value: object) -> CheckKind:
        del value
        return cls.UNKNOWN


class UpdateOrder(StrEnum):
    """What comes first when an instance is replaced."""

    START_FIRST = "start_first"
    """The successor is ready before the earlier one goes; where there is no room for both, the earlier one goes first."""
    STOP_FIRST = "stop_first"
    """The earlier one is gone before its successor starts."""

    @classmethod
    def _missing_(cls, value: object) -> UpdateOrder:
        del value
        return cls.START_FIRST


class Reconcile(StrEnum):
    """Which of two instances of one slot stays when a lost worker or cluster returns with the one that was replaced."""

    KEEP_REPLACEMENT = "keep_replacement"
    KEEP_ORIGINAL = "keep_original"
    LONGEST_RUNNING = "longest_running"
    """The original, unless it was started again while it was away."""
    BEST_SCORE = "best_score"
    """The one whose worker, or cluster, would be chosen now."""

    @classmethod
    def _missing_(cls, value: object) -> Reconcile:
        del value
        return cls.KEEP_REPLACEMENT


class ConstraintKind(StrEnum):
    """Rules a user may set about where a service runs; others are kept but not understood."""

    DIRECT = "direct"
    CLUSTERS = "clusters"
    ADDONS = "addons"
    LATENCY = "latency"
    GEO = "geo"
    UNKNOWN = "unknown"

    @classmethod
    def _missing_(cls, value: object) -> ConstraintKind:
        del value
        return cls.UNKNOWN


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one instance needs, or what a machine has. Absent means 0.

    `vcpus` may be over-committed and becomes a CPU weight; the others are reserved one to one.
    """

    memory_mib: int = 0
    vcpus: int = 0
    vgpus: int = 0
    vtpus: int = 0
    storage_mib: int = 0

    @classmethod
    def largest(cls, pieces: Sequence[Resources]) -> Resources:
        """Return the largest of these of each kind, not necessarily of the same piece."""
        return cls(
            memory_mib=max(piece.memory_mib for piece in pieces),
            vcpus=max(piece.vcpus for piece in pieces),
            vgpus=max(piece.vgpus for piece in pieces),
            vtpus=max(piece.vtpus for piece in pieces),
            storage_mib=max(piece.storage_mib for piece in pieces),
        )

    @classmethod
    def total(cls, pieces: Iterable[Resources]) -> Resources:
        """Return the sum of all these."""
        memory_mib = vcpus = vgpus = vtpus = storage_mib = 0
        for piece in pieces:
            memory_mib += piece.memory_mib
            vcpus += piece.vcpus
            vgpus += piece.vgpus
            vtpus += piece.vtpus
            storage_mib += piece.storage_mib
        return cls(memory_mib=memory_mib, vcpus=vcpus, vgpus=vgpus, vtpus=vtpus, storage_mib=storage_mib)

    def __add__(self, other: Resources) -> Resources:
        return Resources(
            memory_mib=self.memory_mib + other.memory_mib,
            vcpus=self.vcpus + other.vcpus,
            vgpus=self.vgpus + other.vgpus,
            vtpus=self.vtpus + other.vtpus,
            storage_mib=self.storage_mib + other.storage_mib,
        )

    def __sub__(self, other: Resources) -> Resources:
        return Resources(
            memory_mib=self.memory_mib - other.memory_mib,
            vcpus=self.vcpus - other.vcpus,
            vgpus=self.vgpus - other.vgpus,
            vtpus=self.vtpus - other.vtpus,
            storage_mib=self.storage_mib - other.storage_mib,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedPort:
    """A port of the worker's machine that leads to a port of the instance."""

    host_port: int
    container_port: int
    protocol: TransportProtocol = TransportProtocol.TCP


@dataclass(frozen=True, slots=True, kw_only=True)
class HealthCheck:
    """How to tell whether a running instance does its work. Only a healthy one is routed to."""

    kind: CheckKind
    port: int = 0
    """Of the instance, for HTTP and TCP."""
    path: str = "/"
    """For HTTP."""
    command: tuple[str, ...] = ()
    """For EXEC."""
    interval_s: float = 5.0
    timeout_s: float = 2.0
    """A probe that takes longer has failed."""
    start_period_s: float = 30.0
    """Failures so soon after a start do not count: it is still starting."""
    healthy_threshold: int = 1
    """So many probes in a row must pass before it counts as healthy."""
    unhealthy_threshold: int = 3
    """So many in a row must fail before it counts as unhealthy."""
    restart_after_s: float | None = 30.0
    """Unhealthy for so long, it is started again; None: never for that reason."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Constraint:
    """A rule about where a service may run."""

    kind: ConstraintKind
    cluster: str = ""
    nodes: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceAddress:
    """The semantic address of one slot. It stays with the slot when the slot moves."""

    v4: str = ""
    v6: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceAddresses:
    """The semantic addresses of a service: any instance at random, and the closest one."""

    round_robin_v4: str = ""
    round_robin_v6: str = ""
    closest_v4: str = ""
    closest_v6: str = ""

    @property
    def round_robin(self) -> InstanceAddress:
        return InstanceAddress(v4=self.round_robin_v4, v6=self.round_robin_v6)

    @property
    def closest(self) -> InstanceAddress:
        return InstanceAddress(v4=self.closest_v4, v6=self.closest_v6)

    @property
    def both(self) -> tuple[InstanceAddress, InstanceAddress]:
        return self.round_robin, self.closest


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdatePolicy:
    """How running instances are replaced: by a new revision, or because their worker is drained."""

    order: UpdateOrder = UpdateOrder.START_FIRST
    parallel: int = 1
    """So many instances may be on their way, or away, at once in each cluster."""
    min_ready_s: float = 2.0
    """A successor must have been ready for so long before its predecessor goes, and before the next one follows."""
    monitor_s: float = 10.0
    """An update is done when all of it has been ready for so long."""
    progress_deadline_s: float = 300.0
    """An update of which no further instance became ready for so long has failed."""
    rollback: bool = True
    """Go back to the revision before when an update fails."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DisconnectPolicy:
    """What becomes of an instance that is out of reach."""

    lost_after_s: float | None = None
    """Replaced elsewhere after so long. None: at once when its worker is lost, after a minute when its cluster is."""
    replace: bool = True
    """Whether it is replaced at all; not, where two of it would do harm."""
    reconcile: Reconcile = Reconcile.KEEP_REPLACEMENT
    """When it was replaced and its worker, or its cluster, returns."""
    stop_after_s: float | None = None
    """On the cut-off side: stopped when its worker has heard nothing from its cluster for so long. None: goes on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceSpec:
    """Everything the tiers below root must know to place and run instances of a service."""

    id: ServiceId
    application_id: ApplicationId
    tenant: OrganizationId
    """Services of one tenant may reach each other; those of two may not."""
    name: str
    """`application.namespace.service.namespace`, as shown to people and used as DNS name."""
    revision: int = 0
    """Grows with every change of this spec."""
    same_as: tuple[int, ...] = ()
    """Earlier revisions that were exactly like this one, as after going back: their instances may stay."""
    virtualization: str = "docker"
    image: str = ""
    command: tuple[str, ...] = ()
    """Replaces the image's entrypoint and command when not empty."""
    environment: tuple[str, ...] = ()
    """`NAME=value` each."""
    resources: Resources = field(default_factory=Resources)
    ports: tuple[PublishedPort, ...] = ()
    architectures: tuple[str, ...] = ()
    """Architectures the service can run on (`amd64`, `arm64`); empty means any."""
    csi_drivers: tuple[str, ...] = ()
    privileged: bool = False
    restart: RestartPolicy = RestartPolicy.ALWAYS
    one_shot: bool = False
    """A one-shot service that ends with exit code 0 is COMPLETED and stays so."""
    health_check: HealthCheck | None = None
    update: UpdatePolicy = field(default_factory=UpdatePolicy)
    disconnect: DisconnectPolicy = field(default_factory=DisconnectPolicy)
    constraints: tuple[Constraint, ...] = ()
    addresses: ServiceAddresses = field(default_factory=ServiceAddresses)

    @property
    def runs_alone(self) -> bool:
        """Whether two of an instance would do harm, even for the moment of an update."""
        return not self.disconnect.replace and self.update.order is UpdateOrder.STOP_FIRST

    def covers(self, revision: int) -> bool:
        """Tell whether an instance of that revision is as this one asks for."""
        return revision == self.revision or revision in self.same_as


@dataclass(frozen=True, slots=True, kw_only=True)
class Application:
    """A named group of services with one owner."""

    id: ApplicationId
    name: str
    namespace: str
    description: str
    owner: UserId
    tenant: OrganizationId
    deleted: bool = False
    """A tombstone: kept until everything it held is withdrawn."""
