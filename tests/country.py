"""Root's real records, plans and renderings, and clusters that run what they are told."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId, WorkerId
from oakestra.model.instance import Failures, InstanceKey, InstanceStatus, Phase, Placement, Slot
from oakestra.model.machine import Capacity
from oakestra.model.service import Application, InstanceAddress, Resources, ServiceSpec
from oakestra.root.decisions import Decision
from oakestra.root.execute import apply, stamp
from oakestra.root.observe import Observed, last_pass, observe
from oakestra.root.plan import plan
from oakestra.root.render import cluster_assignments
from oakestra.root.state import (
    ApplicationRecord,
    Availability,
    ClusterRecord,
    ClusterView,
    LastPass,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.scheduling.elsewhere import CRASHES_MAX, STEPS_MAX
from oakestra.store.fake import FakeStore
from oakestra.wire.native import Aggregate, ClusterAssignment, ClusterReport, Refusal, Version, WorkerSummary
from oakestra.wire.sequence import digest
from root_api import TABLES

SERVICE, APPLICATION = ServiceId("5" * 24), ApplicationId("4" * 24)
TENANT = OrganizationId("7" * 24)
ROOM = Resources(memory_mib=100_000, vcpus=1000)


@dataclass
class Country:
    """A root in a perfect world, but for clusters that are out of reach: the others are told at once, and run what they
    are told by the next step."""

    state: RootState = field(default_factory=lambda: RootState(FakeStore(TABLES)))
    runs: dict[ClusterId, set[Placement]] = field(default_factory=dict)
    full: set[ClusterId] = field(default_factory=set)
    """Clusters that turn out to have no room."""
    unable: set[ClusterId] = field(default_factory=set)
    """Clusters of which no worker can make any container."""
    crashing: set[int] = field(default_factory=set)
    """Numbers of instances that crash wherever they are."""
    broken: set[ClusterId] = field(default_factory=set)
    """Clusters where nothing becomes ready."""
    finished: set[ClusterId] = field(default_factory=set)
    """Clusters where every job has done its work."""
    dead: set[ClusterId] = field(default_factory=set)
    """Clusters whose only worker is lost: whatever is there is never seen gone."""
    cut: set[ClusterId] = field(default_factory=set)
    """Clusters that neither hear nor say anything, and go on."""
    deaf: set[ClusterId] = field(default_factory=set)
    """Clusters that are heard to be there, and neither hear nor report anything yet."""
    free: dict[ClusterId, Resources] = field(default_factory=dict)
    """What clusters offer, if it is not the usual."""
    restarts: Counter[Placement] = field(default_factory=Counter)
    revisions: dict[Placement, int] = field(default_factory=dict)
    """What each placement was begun as."""
    told: dict[ClusterId, ClusterAssignment] = field(default_factory=dict)
    now_s: float = 1.0
    since_s: float = 1.0
    """When root's process started."""

    def cluster(self, number: int) -> ClusterId:
        id = ClusterId(f"{number:024x}")
        self.state.clusters.put(id, ClusterRecord(id=id, name=f"c{number}", key=id))
        self.runs[id] = set()
        self._report(id, Version())
        return id

    def want(self, count: int, **keys: object) -> None:
        spec = ServiceSpec(
            id=SERVICE,
            application_id=APPLICATION,
            tenant=TENANT,
            name="a.b.web.d",
            resources=Resources(memory_mib=10),
        )
        application = Application(
            id=APPLICATION, name="a", namespace="b", description="", owner=UserId("u"), tenant=TENANT
        )
        self.state.applications.put(APPLICATION, ApplicationRecord(application=application))
        self.state.services.put(SERVICE, ServiceRecord(spec=replace(spec, **keys), next_slot=count))  # type: ignore[arg-type]
        for number in range(count):
            slot = Slot(SERVICE, number)
            self.state.slots.put(
                slot_key(slot), SlotRecord(slot=slot, address=InstanceAddress(v4=f"10.30.0.{number}"))
            )

    def set(self, cluster: ClusterId, availability: Availability) -> None:
        self.state.clusters.put(cluster, replace(self.state.clusters[cluster], availability=availability))

    def update(self, **keys: object) -> None:
        """Let users change the service: it has a new revision."""
        service = self.state.services[SERVICE]
        spec = replace(service.spec, revision=service.spec.revision + 1, **keys)  # type: ignore[arg-type]
        self.state.services.put(SERVICE, replace(service, spec=spec))

    def remove(self, number: int) -> None:
        """Let users want one instance less."""
        key = slot_key(Slot(SERVICE, number))
        self.state.slots.put(key, replace(self.state.slots[key], wanted=False))

    def restart_root(self) -> None:
        """Let root forget all that is not in its records."""
        self.state.views = {}
        self.state.last = LastPass()
        self.since_s = self.now_s

    def happen(self, action: str, cluster: ClusterId, number: int) -> None:
        """Let something befall a cluster, or an instance; what befalls it again ends."""
        match action:
            case "cut":
                self.cut.add(cluster)
            case "mend":
                self.cut.discard(cluster)
            case "heal":
                for trouble in (self.cut, self.broken, self.unable, self.full, self.dead):
                    trouble.discard(cluster)
                self.set(cluster, Availability.ACTIVE)
            case "broken" | "unable" | "full" | "dead":
                troubled: set[ClusterId] = getattr(self, action)
                troubled ^= {cluster}
            case "drain":
                active = self.state.clusters[cluster].availability is Availability.ACTIVE
                self.set(cluster, Availability.DRAINING if active else Availability.ACTIVE)
            case "update":
                self.update()
            case "remove" if Slot(SERVICE, number) in {one.slot for one in self.state.slots.values()}:
                self.remove(number)
            case "restart":
                self.restart_root()
            case _:
                pass

    def slot(self, number: int = 0) -> SlotRecord:
        return self.state.slots[slot_key(Slot(SERVICE, number))]

    def seen(self) -> Observed:
        return observe(
            self.state, now_s=self.now_s, now_wall_s=self.now_s, since_s=self.since_s, lost_after_s=15.0
        )

    def step(self) -> tuple[Decision, ...]:
        """Make a pass, then let every cluster within reach do what it was told; return what was decided."""
        self.now_s += 1.0
        for id in self.deaf:
            view = self.state.views.setdefault(id, ClusterView())
            view.last_seen_s = self.now_s
        observed = self.seen()
        self.state.last = last_pass(observed)
        decisions = plan(observed)
        apply(self.state, decisions, now_wall_s=self.now_s)
        for id, told in cluster_assignments(self.seen()).items():
            version, _ = stamp(self.state, id, digest(told))
            if id in self.cut | self.deaf:
                continue
            self.told[id] = told
            here = set() if id in self.full | self.dead else {assigned.placed for assigned in told.slots}
            gone = set() if id in self.dead else set(told.withdrawn)
            self.runs[id] = (self.runs[id] | here) - gone
            for spec in told.services:
                # a cluster replaces what is not as its service asks
                self.revisions |= dict.fromkeys(here, spec.revision)
            self._report(id, version)
        return decisions

    def pass_time(self, seconds: int) -> None:
        for _ in range(seconds):
            self.step()

    def _report(self, id: ClusterId, applied: Version) -> None:
        statuses = tuple(self._status(id, placed) for placed in sorted(self.runs[id]))
        exhausted = tuple(
            Refusal(placed=status.key.placed, reason="3 times: no device")
            for status in statuses
            if id in self.unable
        )
        slots = self.told[id].slots if id in self.told else ()
        refusals = tuple(
            Refusal(placed=assigned.placed, reason="no room")
            for assigned in slots
            if assigned.placed not in self.runs[id]
        )
        free = self.free.get(id, ROOM)
        aggregate = Aggregate(
            architecture="amd64",
            virtualization="docker",
            workers=1,
            total=ROOM,
            free=free,
            largest_free=free,
        )
        worker = WorkerSummary(
            id=WorkerId(id),
            name=f"{self.state.clusters[id].name}w1",
            host="",
            live=id not in self.dead,
            liveness="lost" if id in self.dead else "live",
            instances=len(self.runs[id]),
            capacity=Capacity(architecture="amd64", virtualizations=("docker",), resources=ROOM),
            free=free,
        )
        report = ClusterReport(
            version=Version(),
            applied=applied,
            complete=True,
            store=1,
            statuses=statuses,
            refusals=refusals,
            exhausted=exhausted,
            aggregates=(aggregate,),
            workers=(worker,),
        )
        self.state.views[id] = ClusterView(last_seen_s=self.now_s, report=report)

    def _status(self, id: ClusterId, placed: Placement) -> InstanceStatus:
        status = InstanceStatus(
            key=InstanceKey(*placed, 1),
            phase=Phase.RUNNING,
            restart=self.restarts[placed],
            worker=WorkerId(id),
            revision=self.revisions.get(placed, 0),
            ready=id not in self.broken | self.dead,
            namespace=InstanceAddress(v4=f"10.18.{int(id, 16)}.{placed.number}"),
        )
        if id in self.finished:
            return replace(status, phase=Phase.COMPLETED, ready=False)
        if id in self.unable:
            failures = Failures(steps=STEPS_MAX, how="no device")
            return replace(status, phase=Phase.ATTACHED, ready=False, failures=failures)
        if placed.number in self.crashing:
            return replace(status, phase=Phase.STOPPED, ready=False, failures=Failures(crashes=CRASHES_MAX))
        return status

    def settle(self, count: int) -> None:
        for _ in range(5):
            self.step()
        assert self.serving() == count

    def serving(self) -> int:
        """Count the slots that are ready where users are led to."""
        found = 0
        for record in self.state.slots.values():
            cluster, placed = record.serving
            found += record.is_ready and cluster is not None and placed in self.runs[cluster]
        return found

    def at(self) -> Counter[ClusterId]:
        return Counter({id: len(placements) for id, placements in self.runs.items() if placements})

    def moving(self) -> int:
        return sum(record.leaving is not None for record in self.state.slots.values())
