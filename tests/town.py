"""A cluster in a perfect world: its real records, plans and renderings, and workers that do what they are told."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

from oakestra.cluster.decisions import Decision
from oakestra.cluster.execute import accept, apply, stamp
from oakestra.cluster.observe import Observed, observe
from oakestra.cluster.plan import plan
from oakestra.cluster.render.down import Rendering
from oakestra.cluster.render.serving import serving
from oakestra.cluster.state import Availability, ClusterState, WorkerRecord
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import Failures, InstanceKey, InstanceStatus, Phase, Placement
from oakestra.model.machine import Capacity
from oakestra.model.service import DisconnectPolicy, InstanceAddress, Resources, ServiceSpec
from oakestra.scheduling.elsewhere import CRASHES_MAX, STEPS_MAX
from oakestra.scheduling.lingering import IN_FLIGHT_S
from oakestra.scheduling.liveness import Liveness, Patience
from oakestra.store.fake import FakeStore
from oakestra.wire.native import AssignedSlot, ClusterAssignment, Version, WorkerReport

SERVICE = ServiceId("a" * 24)
TABLES = ("services", "origins", "slots", "withdrawals", "workers", "settings", "events")
STEPS = 80
LOST_S = 11.0
"""In this town a worker is lost after ten seconds."""


def service(**keys: object) -> ServiceSpec:
    base = ServiceSpec(
        id=SERVICE,
        application_id=ApplicationId("0" * 24),
        tenant=OrganizationId("0" * 24),
        name="a.b.web.d",
        resources=Resources(memory_mib=100),
    )
    return replace(base, **keys)  # type: ignore[arg-type]


@dataclass
class Town:
    """A cluster in a perfect world: its workers are told at once, and do what they are told by the next step."""

    state: ClusterState = field(default_factory=lambda: ClusterState(FakeStore(TABLES)))
    broken: set[int] = field(default_factory=set)
    """Revisions that never become ready."""
    runs: dict[WorkerId, dict[InstanceKey, int]] = field(default_factory=dict)
    made_as: dict[InstanceKey, int] = field(default_factory=dict)
    """Of what was taken back, the attempt that it was begun as."""
    needs: dict[int, Resources] = field(default_factory=dict)
    """By revision."""
    generation: int = 0
    now_s: float = 1.0
    rendering: Rendering = field(default_factory=Rendering)
    away: set[WorkerId] = field(default_factory=set)
    """Workers that neither hear nor say anything."""
    troubled: dict[WorkerId, str] = field(default_factory=dict)
    """Workers that cannot start or end anything, and what they say about it."""
    restarts: Counter[WorkerId] = field(default_factory=Counter)
    """How often each worker started again what it runs."""
    ended: set[WorkerId] = field(default_factory=set)
    """Workers on which everything has crashed and waits to be started again."""
    slow: set[WorkerId] = field(default_factory=set)
    """Workers that have not ended yet what they were told to end."""
    unable: set[WorkerId] = field(default_factory=set)
    """Workers that cannot make any container."""
    crashing: set[int] = field(default_factory=set)
    """Numbers of instances that crash wherever they are."""

    def worker(self, number: int, memory_mib: int) -> WorkerId:
        id = WorkerId(f"{number:024x}")
        resources = Resources(memory_mib=memory_mib, vcpus=4)
        record = WorkerRecord(
            id=id,
            key=id,
            name=f"w{number}",
            host="h",
            capacity=Capacity(resources=resources, virtualizations=("docker",)),
            subnet_indexes=(number,),
        )
        self.state.workers.put(id, record)
        self.runs[id] = {}
        return id

    def want(self, spec: ServiceSpec, count: int) -> None:
        self.generation += 1
        slots = tuple(
            AssignedSlot(
                placed=Placement(SERVICE, number, 1), address=InstanceAddress(v4=f"10.30.0.{number}")
            )
            for number in range(count)
        )
        version = Version(epoch=1, generation=self.generation)
        self.needs[spec.revision] = spec.resources
        accept(self.state, ClusterAssignment(version=version, services=(spec,), slots=slots))

    def drain(self, worker: WorkerId) -> None:
        record = self.state.workers[worker]
        self.state.workers.put(worker, replace(record, availability=Availability.DRAINING))

    def seen(self) -> Observed:
        return observe(
            self.state,
            now_s=self.now_s,
            since_s=0.0,
            patience=lambda _view: Patience(suspect_after_s=5.0, lost_after_s=10.0),
            adopt_until_s=0.0,
        )

    def step(self) -> tuple[Decision, ...]:
        """Make a pass, then let every worker do what it was told. Time passes while something lingers."""
        seen = self.seen()
        self.state.relieved_since_s = seen.relieved_since_s
        self.state.memory = seen.memory
        if seen.lingering_s:
            self.now_s += IN_FLIGHT_S / 2
        for id, one in seen.workers.items():
            self.state.view(id).fresh &= one.liveness is not Liveness.LOST
        decisions = plan(seen, vcpu_overcommit=8.0)
        apply(self.state, decisions)
        rendered = self.rendering.worker_assignments(self.seen(), None)
        assert rendered == Rendering().worker_assignments(self.seen(), None), "what is remembered is true"
        for worker, (told, content) in rendered.items():
            version, _ = stamp(self.state, worker, content)
            if worker in self.away:
                continue
            withdrawn = set(told.withdrawn) if worker not in self.slow else set()
            revisions = {spec.id: spec.revision for spec in told.services}
            runs = {key: revision for key, revision in self.runs[worker].items() if key not in withdrawn}
            for assigned in told.instances:
                for name in assigned.former:
                    if name in runs:
                        runs[assigned.key] = runs.pop(name)
                        self.made_as[assigned.key] = self.made_as.get(name, name.attempt)
                if assigned.key not in withdrawn:
                    runs.setdefault(assigned.key, revisions[assigned.key.service])
            if worker in self.troubled and runs != self.runs[worker]:
                self.say(worker)
            else:
                self.runs[worker] = runs
                self._report(worker, version)
        asyncio.run(self.state.commit())
        return decisions

    def say(self, worker: WorkerId) -> None:
        """Let a worker report before it hears anything."""
        said = self.state.view(worker).report
        self._report(worker, said.applied if said else Version())

    def _report(self, worker: WorkerId, applied: Version) -> None:
        statuses = tuple(
            self._status(worker, key, revision) for key, revision in sorted(self.runs[worker].items())
        )
        view = self.state.view(worker)
        view.last_seen_s, view.fresh = self.now_s, True
        view.report = WorkerReport(
            version=Version(), applied=applied, complete=True, statuses=statuses,
            capacity=self.state.workers[worker].capacity, trouble=self.troubled.get(worker, ""),
        )  # fmt: skip

    def _status(self, worker: WorkerId, key: InstanceKey, revision: int) -> InstanceStatus:
        status = InstanceStatus(
            key=key,
            phase=Phase.RUNNING,
            revision=revision,
            restart=self.restarts[worker],
            worker=worker,
            made_as=self.made_as.get(key, 0),
        )
        if worker in self.unable:
            failures = Failures(steps=STEPS_MAX, how="no device")
            return replace(status, phase=Phase.ATTACHED, failures=failures)
        if key.number in self.crashing:
            failures = Failures(crashes=CRASHES_MAX, how="ended with exit code 3")
            return replace(status, phase=Phase.STOPPED, failures=failures)
        if worker in self.ended:
            return replace(status, phase=Phase.STOPPED)
        return replace(status, ready=revision not in self.broken)

    def wait(self, seconds: float) -> None:
        """Let time pass, while everybody who is there is heard of."""
        self.now_s += seconds
        for worker in self.runs.keys() - self.away:
            self.state.view(worker).last_seen_s = self.now_s

    def place(self, number: int) -> WorkerId | None:
        """Return the worker that has an instance."""
        return self.state.slots[f"{SERVICE}/{number}"].worker

    def rest(self) -> None:
        """Step until nothing is decided any more."""
        quiet = 0
        for _ in range(STEPS):
            quiet = quiet + 1 if not _doing(self.step()) else 0
            if quiet > 2:
                return
        raise AssertionError("it never comes to rest")

    def revisions(self) -> Counter[int]:
        """Count what serves, by revision."""
        seen = self.seen()
        found = [serving(seen, record)[1] for record in seen.slots.values()]
        return Counter(status.revision for status in found if status is not None and status.ready)

    def memory_mib(self, number: int) -> int:
        """Return what the instances on a worker take together, each as much as its own revision asked for."""
        return sum(
            self.needs[revision].memory_mib for revision in self.runs[WorkerId(f"{number:024x}")].values()
        )

    def leaving(self) -> int:
        return sum(record.leaving is not None for record in self.state.slots.values())


def _doing(decisions: tuple[Decision, ...]) -> bool:
    return any(type(decision).__name__ != "Unplaceable" for decision in decisions)


def cut_off(policy: DisconnectPolicy) -> tuple[Town, WorkerId]:
    """Return a town whose only instance is on a worker that just fell silent."""
    town = Town()
    workers = [town.worker(number, 1000) for number in range(2)]
    town.want(service(disconnect=policy), 1)
    town.rest()
    (home,) = (worker for worker in workers if town.runs[worker])
    town.away.add(home)
    return town, home


def later(town: Town, seconds: float) -> None:
    """Let time pass; everybody else goes on saying something."""
    town.now_s += seconds
    for worker in town.runs:
        if worker not in town.away:
            town.state.view(worker).last_seen_s = town.now_s
    for _ in range(10):
        town.step()
