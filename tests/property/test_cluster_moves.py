"""Draining workers and updating services: everything gets there, and nothing stops serving on the way."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from oakestra.cluster.decisions import Decision
from oakestra.cluster.execute import accept, apply, stamp
from oakestra.cluster.observe import Observed, observe
from oakestra.cluster.plan import plan
from oakestra.cluster.render import serving, worker_assignments
from oakestra.cluster.state import Availability, ClusterState, WorkerRecord
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement
from oakestra.model.machine import Capacity
from oakestra.model.service import (
    InstanceAddress,
    PublishedPort,
    Resources,
    ServiceSpec,
    UpdateOrder,
    UpdatePolicy,
)
from oakestra.scheduling.liveness import Patience
from oakestra.store.fake import FakeStore
from oakestra.wire.native import AssignedSlot, ClusterAssignment, Version, WorkerReport
from oakestra.wire.sequence import digest

SERVICE = ServiceId("a" * 24)
TABLES = ("services", "slots", "withdrawals", "workers", "settings", "events")
STEPS = 80


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
    generation: int = 0

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
        accept(self.state, ClusterAssignment(version=version, services=(spec,), slots=slots))

    def drain(self, worker: WorkerId) -> None:
        record = self.state.workers[worker]
        self.state.workers.put(worker, replace(record, availability=Availability.DRAINING))

    def seen(self) -> Observed:
        return observe(
            self.state,
            now_s=1.0,
            since_s=0.0,
            patience=lambda _view: Patience(suspect_after_s=5.0, lost_after_s=10.0),
            adopt_until_s=0.0,
        )

    def step(self) -> tuple[Decision, ...]:
        """Make a pass, then let every worker do what it was told."""
        decisions = plan(self.seen(), vcpu_overcommit=8.0)
        apply(self.state, decisions)
        for worker, told in worker_assignments(self.seen(), None).items():
            version, _ = stamp(self.state, worker, digest(told))
            withdrawn = set(told.withdrawn)
            revisions = {spec.id: spec.revision for spec in told.services}
            runs = {key: revision for key, revision in self.runs[worker].items() if key not in withdrawn}
            for assigned in told.instances:
                if assigned.key not in withdrawn:
                    runs.setdefault(assigned.key, revisions[assigned.key.service])
            self.runs[worker] = runs
            self._report(worker, version)
        asyncio.run(self.state.commit())
        return decisions

    def _report(self, worker: WorkerId, applied: Version) -> None:
        statuses = tuple(
            InstanceStatus(
                key=key,
                phase=Phase.RUNNING,
                ready=revision not in self.broken,
                revision=revision,
                worker=worker,
            )
            for key, revision in sorted(self.runs[worker].items())
        )
        view = self.state.view(worker)
        view.last_seen_s = 1.0
        view.report = WorkerReport(
            version=Version(), applied=applied, complete=True, statuses=statuses,
            capacity=self.state.workers[worker].capacity,
        )  # fmt: skip

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

    def leaving(self) -> int:
        return sum(record.leaving is not None for record in self.state.slots.values())


def _doing(decisions: tuple[Decision, ...]) -> bool:
    return any(type(decision).__name__ != "Unplaceable" for decision in decisions)


def settled(town: Town, spec: ServiceSpec, count: int) -> None:
    town.want(spec, count)
    town.rest()
    assert town.revisions() == {spec.revision: count}


towns = st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(1, 3))


@settings(max_examples=40)
@given(towns, st.data())
def test_a_drained_worker_is_empty_in_the_end_and_all_serve_on_the_way(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    workers, count, parallel = shape
    town = Town()
    ids = [town.worker(number, 2000) for number in range(workers)]
    settled(town, service(update=UpdatePolicy(parallel=parallel)), count)
    drained = data.draw(st.sets(st.sampled_from(ids), max_size=workers - 1))
    for worker in drained:
        town.drain(worker)
    for _ in range(STEPS):
        town.step()
        assert town.revisions() == {0: count}, "every instance serves, all the time"
        assert town.leaving() <= parallel
    assert not any(town.runs[worker] for worker in drained)
    assert not town.state.withdrawals


@settings(max_examples=40)
@given(towns)
def test_an_update_reaches_every_instance_and_all_serve_on_the_way(shape: tuple[int, int, int]) -> None:
    workers, count, parallel = shape
    town = Town()
    for number in range(workers):
        town.worker(number, 2000)
    policy = UpdatePolicy(parallel=parallel)
    settled(town, service(update=policy), count)
    town.want(service(update=policy, revision=1, image="other"), count)
    for _ in range(STEPS):
        town.step()
        assert town.revisions().total() == count
        assert town.leaving() <= parallel
    assert town.revisions() == {1: count}
    assert not town.state.withdrawals


def test_where_there_is_no_room_for_both_the_earlier_one_goes_first() -> None:
    town = Town()
    town.worker(0, 250)
    settled(town, service(), 2)
    town.want(service(revision=1), 2)
    least = 2
    for _ in range(STEPS):
        town.step()
        least = min(least, town.revisions().total())
    assert (least, town.revisions()) == (1, {1: 2})


def test_a_port_is_free_before_its_next_holder_starts() -> None:
    town = Town()
    town.worker(0, 1000)
    ports = (PublishedPort(host_port=80, container_port=80),)
    settled(town, service(ports=ports), 1)
    town.want(service(ports=ports, revision=1), 1)
    town.rest()
    assert town.revisions() == {1: 1}


def test_who_wants_the_earlier_one_gone_first_never_has_two() -> None:
    town = Town()
    for number in range(3):
        town.worker(number, 1000)
    policy = UpdatePolicy(order=UpdateOrder.STOP_FIRST)
    settled(town, service(update=policy), 3)
    town.want(service(update=policy, revision=1), 3)
    for _ in range(STEPS):
        town.step()
        assert sum(len(runs) for runs in town.runs.values()) <= 3
        assert town.revisions().total() >= 2
    assert town.revisions() == {1: 3}


def test_a_broken_revision_stops_at_the_first_instance_and_going_back_mends_it() -> None:
    town = Town(broken={1})
    for number in range(3):
        town.worker(number, 1000)
    settled(town, service(), 3)
    town.want(service(revision=1), 3)
    for _ in range(STEPS):
        town.step()
        assert town.revisions() == {0: 3}
        assert town.leaving() <= 1
    town.want(service(revision=2), 3)
    town.rest()
    assert town.revisions() == {2: 3}
    assert sum(len(runs) for runs in town.runs.values()) == 3


def test_what_cannot_go_anywhere_stays_and_says_why() -> None:
    town = Town()
    first, second = town.worker(0, 1000), town.worker(1, 50)
    settled(town, service(), 2)
    town.drain(first)
    for _ in range(10):
        town.step()
    assert town.revisions() == {0: 2}
    reasons = {record.reason for record in town.state.slots.values()}
    assert any("is drained, but it stays: " in why and "not enough memory" in why for why in reasons), reasons
    town.state.workers.remove(second)
    town.worker(2, 1000)
    town.rest()
    assert not town.runs[first]
