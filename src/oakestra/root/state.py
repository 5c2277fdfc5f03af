"""What root knows: records kept in its store, and views that live only in memory.

Who writes what: users' edits (`operations.py`) write users, organizations, applications, services and the `wanted`
of slots; the pass (`plan.py`, `execute.py`) writes placements, withdrawals and deletes tombstones; reports write
`status`; joining writes clusters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from oakestra.model.errors import Unavailable
from oakestra.model.event import Event
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Placement, Slot
from oakestra.model.machine import InstanceUsage, MachineUsage
from oakestra.model.service import Application, InstanceAddress, ServiceSpec
from oakestra.root.addresses import SUBNETS_LEASED, AddressPool, Lease
from oakestra.root.history import Histories
from oakestra.scheduling.elsewhere import Failed, Memory
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.store import Store
from oakestra.store.records import Index, Records
from oakestra.wire.native import ClusterReport, NumberRange


@dataclass(frozen=True, slots=True, kw_only=True)
class UserRecord:
    """Somebody who may log in."""

    id: UserId
    name: str
    email: str = ""
    password_hash: str = ""
    created_at: str = ""
    token_generation: int = 0
    """Tokens issued under an earlier number count no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A user's roles in an organization."""

    user: UserId
    roles: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationRecord:
    """A tenant."""

    id: OrganizationId
    name: str
    members: tuple[Member, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationRecord:
    """An application and whatever else its SLA said."""

    application: Application
    services: tuple[ServiceId, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Keys of the SLA that we keep without understanding them."""
    created_wall_s: float = 0.0


REBUILT = "rebuilt"
"""The setting that keeps the last epoch of which clusters had the time to tell what they hold."""


class Availability(StrEnum):
    """Whether a cluster takes instances."""

    ACTIVE = "active"
    CORDONED = "cordoned"
    """Keeps what it has and takes nothing new."""
    DRAINING = "draining"
    """Takes nothing new, and what it has moves to other clusters."""


class RolloutState(StrEnum):
    """How an update stands."""

    ROLLING = "rolling"
    DONE = "done"
    FAILED = "failed"
    """It stopped where it was: there is nothing to go back to, or its policy says so."""
    ROLLED_BACK = "rolled_back"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollout:
    """The last update of a service."""

    state: RolloutState
    began_wall_s: float
    moved_wall_s: float
    """When one more instance, or one less, was updated and ready."""
    updated: int = 0
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """The revision that an update replaced."""

    spec: ServiceSpec
    document: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRecord:
    """A service, its counter of slots, and the SLA's own words."""

    spec: ServiceSpec
    document: dict[str, Any] = field(default_factory=dict)
    """The microservice object as the user sent it."""
    next_slot: int = 0
    deleted: bool = False
    """A tombstone: goes when its last slot is gone."""
    rollout: Rollout | None = None
    earlier: Earlier | None = None
    """What a rollback goes back to."""
    removed: tuple[NumberRange, ...] = ()
    """Numbers that users took away: a cluster that comes back late does not bring them back."""
    revised_epoch: int = 0
    """Of the records in which somebody last updated it or rolled it back; 0: nobody ever did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuriedRecord:
    """A service or application that was deleted and is gone."""

    id: ServiceId | ApplicationId
    since_wall_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """A placement that goes as soon as its successor in another cluster serves."""

    cluster: ClusterId
    placement: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """A placement in a lost cluster that was replaced, and may be taken back."""

    cluster: ClusterId
    placement: int
    since_generation: int
    """The first generation of that cluster's assignment that says so: what applied it was heard after its return."""
    revision: int
    attempt: int = 0
    """When it was seen last, as `restart`; 0: it never was."""
    restart: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """One copy of a service that somebody wants, or wanted."""

    slot: Slot
    address: InstanceAddress
    wanted: bool = True
    """False: a tombstone, kept until its placement is seen gone."""
    requested_wall_s: float = 0.0
    placement: int = 0
    """Number of the current placement; 0 before the first."""
    highest_placement: int = 0
    """The highest number that a placement had when one with a lower number was taken back; 0: none ever was."""
    cluster: ClusterId | None = None
    """Where it is placed; None: nowhere (yet)."""
    since_generation: int = 0
    """The first generation of that cluster's assignment that says so."""
    leaving: Leaving | None = None
    """Another placement that serves until the current one is ready, and a little longer."""
    aside: Aside | None = None
    """An earlier placement that was replaced because its cluster was lost, and may be taken back."""
    failed: tuple[Failed, ...] = ()
    """Clusters that could not get it up lately, the latest last; its present one, if no other would do."""
    reason: str = ""
    """Why it is where it is, or why it is nowhere."""
    verdicts: tuple[CandidateVerdict, ...] = ()
    status: InstanceStatus | None = None
    """The truest report about the placement that serves."""
    status_store: int = 0
    """Epoch of the cluster's store that `status` comes from."""
    changed_wall_s: float = 0.0

    @property
    def placed(self) -> Placement:
        return Placement(*self.slot, self.placement)

    @property
    def leaving_placed(self) -> Placement:
        """The placement that is being replaced."""
        assert self.leaving is not None, "asked only while something leaves"
        return Placement(*self.slot, self.leaving.placement)

    @property
    def last_placement(self) -> int:
        """The highest number that a placement was given."""
        return max(self.placement, self.highest_placement)

    @property
    def next_placement(self) -> int:
        """The number that its next placement is given: none ever had it."""
        return self.last_placement + 1

    @property
    def aside_placed(self) -> Placement:
        """The placement that may be taken back."""
        assert self.aside is not None, "asked only while something is set aside"
        return Placement(*self.slot, self.aside.placement)

    @property
    def placements(self) -> tuple[tuple[ClusterId, Placement], ...]:
        """Every placement that serves, or is to, and where."""
        current = ((self.cluster, self.placed),) if self.cluster is not None else ()
        leaving = ((self.leaving.cluster, self.leaving_placed),) if self.leaving is not None else ()
        return (*current, *leaving)

    @property
    def rightful(self) -> tuple[tuple[ClusterId, Placement], ...]:
        """Every placement that has a right to be there, and where."""
        aside = ((self.aside.cluster, self.aside_placed),) if self.aside is not None else ()
        return (*self.placements, *aside)

    @property
    def is_ready(self) -> bool:
        return self.status is not None and self.status.ready

    @property
    def turned(self) -> bool:
        """What follows it serves already; the placement that leaves only waits for everybody to know."""
        return (
            self.leaving is not None
            and self.status is not None
            and self.status.key.placement == self.placement
        )

    @property
    def serving(self) -> tuple[ClusterId | None, Placement]:
        """The placement that `status` is about, and where it is."""
        if self.leaving is not None and not self.turned:
            return self.leaving.cluster, self.leaving_placed
        return self.cluster, self.placed


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalRecord:
    """A placement that must go; kept until its cluster has shown that it is gone."""

    placed: Placement
    cluster: ClusterId
    since_generation: int
    """The first generation of that cluster's assignment that says so."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterRecord:
    """A cluster that joined."""

    id: ClusterId
    name: str
    key: str
    location: str = ""
    host: str = ""
    api_port: int = 10100
    joined_wall_s: float = 0.0
    subnet_first: int = 0
    """First worker subnet index leased to it."""
    subnet_count: int = SUBNETS_LEASED
    availability: Availability = Availability.ACTIVE
    availability_epoch: int = 0
    """Of the records that `availability` was set in, or taken over to; 0: nobody ever said."""
    heard_epoch: int = 0
    """Of the records that have all that it held by the word of others; 0: of none."""
    generation: int = 0
    """Of the assignment last rendered for it."""
    assignment_digest: str = ""

    @property
    def lease(self) -> Lease:
        """The worker subnets that are leased to it."""
        return (self.subnet_first, self.subnet_count)


@dataclass(frozen=True, slots=True, kw_only=True)
class QuarantineRecord:
    """A semantic address that must not be given out again yet."""

    address: InstanceAddress
    until_wall_s: float
    tenant: OrganizationId = OrganizationId("")
    """Whose it was: a service of the same tenant may have it back at once if its SLA names it."""


Room = tuple[object, ...]
"""What a cluster offers, comparable: when it is the same as before, asking again brings the same answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A cluster's no to a slot, and the room it had when it said so."""

    reason: str
    room: Room


@dataclass(slots=True, kw_only=True)
class ClusterView:
    """What root sees of a cluster now. Memory only; rebuilt from the next report."""

    last_seen_s: float | None = None
    """By `uptime_s`; None: not since this process started."""
    last_seen_wall_s: float = 0.0
    report: ClusterReport | None = None
    applied_generation: int = -1
    """Of this epoch's assignments, the newest the cluster said it applied."""
    cpu_ratio: float = 0.0
    memory_ratio: float = 0.0
    machines: dict[WorkerId, MachineUsage] = field(default_factory=dict)
    """What its workers measured last."""
    _statuses: tuple[ClusterReport | None, Mapping[Placement, InstanceStatus]] = (None, {})

    @property
    def statuses(self) -> Mapping[Placement, InstanceStatus]:
        """What its last report says of each placement: the very same object until the next report."""
        if self._statuses[0] is not self.report:
            found = self.report.statuses if self.report else ()
            self._statuses = (self.report, {status.key.placed: status for status in found})
        return self._statuses[1]


@dataclass(frozen=True, slots=True)
class Standing:
    """Since when an update is as it is, by `uptime_s`: deadlines must not depend on what somebody sets a clock to."""

    revision: int
    updated: int
    since_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LastPass:
    """What the last pass saw that is still needed. Memory only, so a restart gives a fresh grace."""

    standing: Mapping[ServiceId, Standing] = field(default_factory=dict)
    """Of every update under way."""
    turned_since_s: Mapping[Slot, float] = field(default_factory=dict)
    """Since when a successor in another cluster serves, while its predecessor is still there."""
    memory: Memory = field(default_factory=Memory)
    """Of instances that failed in some cluster lately."""
    refused: Mapping[tuple[Slot, ClusterId], Refused] = field(default_factory=dict)
    """Refusals that still hold."""
    lost: frozenset[ClusterId] = frozenset()
    """Clusters that are lost."""


class RootState:
    """Root's working set. Change it, `await commit()`, then wake the loop."""

    def __init__(self, store: Store) -> None:
        self.records = Records(store)
        self.users = self.records.table("users", UserRecord)
        self.organizations = self.records.table("organizations", OrganizationRecord)
        self.applications = self.records.table("applications", ApplicationRecord)
        self.services = self.records.table("services", ServiceRecord)
        self.slots = self.records.table("slots", SlotRecord)
        """By `slot_key`."""
        self.withdrawals = self.records.table("withdrawals", WithdrawalRecord)
        """By `placement_key`."""
        self.clusters = self.records.table("clusters", ClusterRecord)
        self.quarantine = self.records.table("quarantine", QuarantineRecord)
        self.buried = self.records.table("buried", BuriedRecord)
        """By id; the newest only."""
        self.settings = self.records.table("settings", str)
        self.events = self.records.table("events", Event)
        """The newest only; `store.event_log` keeps them few."""
        self.views: dict[ClusterId, ClusterView] = {}
        self.renewed_s = float("-inf")
        """When these records turned out to be an older copy, by `uptime_s`; memory only."""
        self.changed_here: set[ClusterId | ServiceId] = set()
        """Clusters that somebody closed or opened, and services that somebody updated, since this process started."""
        self.last = LastPass()
        self.usage: dict[InstanceKey, InstanceUsage] = {}
        self.histories = Histories()
        """Of instances by their key and of clusters by their id."""
        self.records.load()
        self.pool = AddressPool(lambda: addresses_in_use(self))
        self.applications_by_id = Index(self.applications, lambda record: record.application.id)
        self.services_by_id = Index(self.services, lambda record: record.spec.id)
        self.slots_by_slot = Index(self.slots, lambda record: record.slot)
        self.buried_by_id = Index(self.buried, lambda record: record.id)
        self.withdrawals_by_placement = Index(self.withdrawals, lambda record: record.placed)

    @property
    def rebuilt(self) -> bool:
        """Whether clusters had the time to tell these records, since they are new, what they hold."""
        return self.settings.get(REBUILT) == str(self.records.epoch)

    async def commit(self) -> None:
        """Make every change so far durable. Raises `Unavailable`; memory then shows what is on disk."""
        try:
            await self.records.commit()
        except Unavailable:
            self.pool.look_again()
            raise

    def slots_of(self, service: ServiceId) -> list[SlotRecord]:
        """Return the slots of a service, tombstones included, by number."""
        return sorted(
            (record for record in self.slots.values() if record.slot.service == service),
            key=lambda record: record.slot.number,
        )

    def services_of(self, application: ApplicationId) -> list[ServiceRecord]:
        """Return the services of an application, tombstones included."""
        return [record for record in self.services.values() if record.spec.application_id == application]


def addresses_in_use(state: RootState) -> Iterator[InstanceAddress]:
    """Yield every semantic address that somebody has, or that rests."""
    for service in state.services.values():
        yield from service.spec.addresses.both
    for slot in state.slots.values():
        yield slot.address
    for resting in state.quarantine.values():
        yield resting.address


def slot_key(slot: Slot) -> str:
    """Return the key of a slot's record."""
    return f"{slot.service}/{slot.number}"


def placement_key(placed: Placement) -> str:
    """Return the key of a placement's withdrawal record."""
    return f"{placed.service}/{placed.number}/{placed.placement}"
