"""What a cluster knows: records kept in its store, and views that live only in memory.

Who writes what: root's assignment writes services, the slots' placement and address; the pass writes the slots'
attempt, worker and reason, and the withdrawals; joining writes workers; workers' reports write views.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from oakestra.model.event import Event
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Placement, Slot
from oakestra.model.machine import Capacity, InstanceUsage, MachineUsage
from oakestra.model.service import InstanceAddress, PublishedPort, Resources, ServiceSpec
from oakestra.scheduling.elsewhere import Failed, Memory
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.store import Store
from oakestra.store.records import Index, Records
from oakestra.wire.native import ClusterAssignment, Origin, Version, WorkerReport


class Availability(StrEnum):
    """Whether a worker takes instances."""

    ACTIVE = "active"
    CORDONED = "cordoned"
    """Keeps what it has and takes nothing new."""
    DRAINING = "draining"
    """Takes nothing new, and what it has moves away."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """What an attempt takes of its worker: what its service asked for when it was placed."""

    resources: Resources
    ports: tuple[PublishedPort, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """An attempt that goes as soon as its successor is ready."""

    worker: WorkerId
    attempt: int
    former: tuple[int, ...] = ()
    held: Held | None = None
    reason: str = ""
    relieved: tuple[tuple[WorkerId, int], ...] = ()
    """Its successor is ready: it may go once each of these workers has applied that generation of its routes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Aside:
    """An attempt on a lost worker that may be taken back."""

    worker: WorkerId
    attempt: int
    former: tuple[int, ...] = ()
    revision: int
    restart: int
    """When it was seen last."""
    held: Held | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotRecord:
    """A slot that root placed here, and which worker has it."""

    placed: Placement
    address: InstanceAddress
    epoch: int = 0
    """Of the store of root's that assigned it last."""
    seen_on: WorkerId = WorkerId("")
    """Where root had seen it, if it must never run twice, when these records were begun."""
    turned: bool = False
    """Another cluster serves it by now: it goes soon, and nobody is led here."""
    attempt: int = 0
    """Number of the current or last attempt; 0 before the first."""
    worker: WorkerId | None = None
    revision: int = 0
    """Of the service, when the current attempt was placed."""
    held: Held | None = None
    """By the current attempt; None: what its service asks for now."""
    former: tuple[int, ...] = ()
    """Numbers that the current attempt had before it was taken back and got this one, oldest first."""
    leaving: Leaving | None = None
    """An earlier attempt that serves until the current one is ready."""
    aside: Aside | None = None
    """An earlier attempt that was replaced because its worker was lost, and may be taken back."""
    failed: tuple[Failed, ...] = ()
    """Workers that could not get it up lately, the latest last; its present one, if nobody else would do."""
    done: InstanceStatus | None = None
    """How it was when it had done its work, if it is of a one-shot service."""
    reason: str = ""
    verdicts: tuple[CandidateVerdict, ...] = ()

    def may_still_run(self, spec: ServiceSpec) -> bool:
        """Tell whether it ran somewhere before these records were begun, was not seen since, and must not run twice."""
        return self.attempt == 0 and bool(self.seen_on) and not spec.disconnect.replace

    @property
    def attempts(self) -> tuple[tuple[WorkerId, InstanceKey], ...]:
        """Every attempt that has a right to be there, and where."""
        current = ((self.worker, self.key),) if self.worker is not None else ()
        leaving = ((self.leaving.worker, self.leaving_key),) if self.leaving is not None else ()
        aside = ((self.aside.worker, self.aside_key),) if self.aside is not None else ()
        return (*current, *leaving, *aside)

    @property
    def aside_key(self) -> InstanceKey:
        """The attempt that may be taken back."""
        assert self.aside is not None, "asked only while something is set aside"
        return InstanceKey(*self.placed, self.aside.attempt)

    def former_keys(self, key: InstanceKey) -> tuple[InstanceKey, ...]:
        """Return the names that one of its attempts had before it was taken back."""
        holder: SlotRecord | Leaving | Aside = self
        if self.leaving is not None and key.attempt == self.leaving.attempt:
            holder = self.leaving
        elif self.aside is not None and key.attempt == self.aside.attempt:
            holder = self.aside
        return tuple(InstanceKey(*self.placed, attempt) for attempt in holder.former)

    def renamed(self, worker: WorkerId, key: InstanceKey) -> InstanceKey | None:
        """Return which of its attempts a worker may still call by this name; None: none that it has."""
        names = (name for holder, name in self.attempts if holder == worker)
        return next((name for name in names if key in self.former_keys(name)), None)

    @property
    def leaving_key(self) -> InstanceKey:
        """The attempt that is being replaced."""
        assert self.leaving is not None, "asked only while something leaves"
        return InstanceKey(*self.placed, self.leaving.attempt)

    @property
    def key(self) -> InstanceKey:
        """The current attempt, or the one that would come next while no worker has it."""
        return InstanceKey(*self.placed, self.attempt if self.worker else self.attempt + 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class WithdrawalRecord:
    """An attempt that must go; kept until its worker has shown that it is gone."""

    key: InstanceKey
    worker: WorkerId
    since_generation: int
    """The first generation of the worker's assignment that says so."""
    held: Held | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerRecord:
    """A worker that joined. Its identity is its key."""

    id: WorkerId
    key: str
    name: str
    host: str = ""
    tunnel_port: int = 50103
    joined_wall_s: float = 0.0
    incarnation: int = 0
    """The greatest it had; a worker that lost its state gets a greater one."""
    capacity: Capacity = field(default_factory=Capacity)
    subnet_indexes: tuple[int, ...] = ()
    availability: Availability = Availability.ACTIVE
    generation: int = 0
    """Of the assignment last rendered for it."""
    assignment_digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootRecord:
    """What root said last."""

    applied: Version = field(default_factory=Version)
    """Of root's assignments, the newest that is in these records."""
    cluster: ClusterId = ClusterId("")
    """Who root says that we are; empty before the first join."""
    subnet_first: int = 0
    subnet_count: int = 0
    availability: str = ""
    """Whether this cluster takes instances; empty: root never said."""
    availability_epoch: int = 0
    """Of the store of root's that said so."""
    heard_epoch: int = 0
    """Of the store of root's that has all that is known here by the word of others."""


@dataclass(slots=True, kw_only=True)
class WorkerView:
    """What the cluster sees of a worker now. Memory only; rebuilt from its next report."""

    last_seen_s: float | None = None
    """By `uptime_s`; None: not since this process started."""
    beaten_s: float | None = None
    """When its last beat over UDP came; None: none since this process started."""
    report: WorkerReport | None = None
    fresh: bool = False
    """The report was made, or confirmed by a beat, since the worker was lost last."""
    resent_s: float = float("-inf")
    """When a set was last sent again because a beat showed that it was missed."""
    answered_s: float = float("-inf")
    """When a beat of its was last answered."""
    machine: MachineUsage = field(default_factory=MachineUsage)
    ready_since: dict[InstanceKey, tuple[int, float]] = field(default_factory=dict)
    """Of every instance that is ready: its restart, and since when it has been ready without a pause."""

    _statuses: tuple[WorkerReport | None, Mapping[InstanceKey, InstanceStatus]] = (None, {})

    @property
    def statuses(self) -> Mapping[InstanceKey, InstanceStatus]:
        """What its last report says of each instance, in order: the very same object until the next report."""
        if self._statuses[0] is not self.report:
            found = {status.key: status for status in self.report.statuses} if self.report else {}
            self._statuses = (self.report, dict(sorted(found.items())))
        return self._statuses[1]

    def note_ready(self, now_s: float) -> None:
        """Note since when what the report says is ready has been so, under whichever name."""
        ready = [status for status in self.report.statuses if status.ready] if self.report else []
        before = self.ready_since
        gone = {key.placed: known for key, known in before.items() if key not in self.statuses}
        self.ready_since = {}
        for status in ready:
            renamed = gone.get(status.key.placed) if status.made_as else None
            restart, since_s = before.get(status.key) or renamed or (status.restart, now_s)
            same = restart == status.restart
            self.ready_since[status.key] = (status.restart, since_s if same else now_s)


_ROOT_UNKNOWN = RootRecord()


class ClusterState:
    """A cluster's working set. Change it, `await commit()`, then wake the loop."""

    def __init__(self, store: Store) -> None:
        self.records = Records(store)
        self.services = self.records.table("services", ServiceSpec)
        self.origins = self.records.table("origins", Origin)
        """By service."""
        self.slots = self.records.table("slots", SlotRecord)
        """By `slot_key`."""
        self.withdrawals = self.records.table("withdrawals", WithdrawalRecord)
        """By `withdrawal_key`."""
        self.workers = self.records.table("workers", WorkerRecord)
        self.settings = self.records.table("settings", RootRecord)
        self.events = self.records.table("events", Event)
        """The newest only; `store.event_log` keeps them few."""
        self.views: dict[WorkerId, WorkerView] = {}
        self.usage: dict[InstanceKey, InstanceUsage] = {}
        self.relieved_since_s: Mapping[InstanceKey, float] = {}
        """Since when attempts have been relieved by a ready successor, as the last pass saw it; memory only."""
        self.memory = Memory()
        """Of instances that failed on some worker lately, as the last pass saw it; not kept."""
        self.remote: ClusterAssignment | None = None
        """Root's last assignment, for what of it is not written down: instances and peers in other clusters."""
        self.records.load()
        self.services_by_id = Index(self.services, lambda spec: spec.id)
        self.slots_by_slot = Index(self.slots, lambda record: record.placed.slot)
        self.withdrawals_by_attempt = Index(self.withdrawals, lambda record: (record.worker, record.key))
        self.origins_by_service = Index(self.origins, lambda origin: origin.service)
        self.workers_by_id = Index(self.workers, lambda record: record.id)

    async def commit(self) -> None:
        """Make every change so far durable. Raises `Unavailable`; memory then shows what is on disk."""
        await self.records.commit()

    @property
    def root(self) -> RootRecord:
        return self.settings.get("root", _ROOT_UNKNOWN)

    @root.setter
    def root(self, record: RootRecord) -> None:
        self.settings.put("root", record)

    def view(self, worker: WorkerId) -> WorkerView:
        """Return what is seen of the worker, beginning with nothing."""
        view = self.views.get(worker)
        if view is None:
            view = self.views[worker] = WorkerView()
        return view


def slot_key(slot: Slot) -> str:
    """Return the key of a slot's record."""
    return f"{slot.service}/{slot.number}"


def withdrawal_key(worker: WorkerId, key: InstanceKey) -> str:
    """Return the key of the record of an attempt's withdrawal from a worker."""
    return f"{worker}/{key.service}/{key.number}/{key.placement}/{key.attempt}"
