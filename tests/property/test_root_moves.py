"""Draining clusters: everything gets elsewhere, and nothing stops serving on the way."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement, Slot
from oakestra.model.service import (
    Application,
    InstanceAddress,
    Resources,
    ServiceSpec,
    UpdateOrder,
    UpdatePolicy,
)
from oakestra.root.execute import apply, stamp
from oakestra.root.observe import Observed, observe
from oakestra.root.plan import plan
from oakestra.root.render import cluster_assignments
from oakestra.root.state import (
    ApplicationRecord,
    Availability,
    ClusterRecord,
    ClusterView,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.store.fake import FakeStore
from oakestra.wire.native import Aggregate, ClusterAssignment, ClusterReport, Refusal, Version
from oakestra.wire.sequence import digest
from root_api import TABLES

SERVICE, APPLICATION = ServiceId("5" * 24), ApplicationId("4" * 24)
TENANT = OrganizationId("7" * 24)
STEPS = 120
ROOM = Resources(memory_mib=100_000, vcpus=1000)


@dataclass
class Country:
    """Root in a perfect world: clusters are told at once, and run what they are told by the next step."""

    state: RootState = field(default_factory=lambda: RootState(FakeStore(TABLES)))
    runs: dict[ClusterId, set[Placement]] = field(default_factory=dict)
    full: set[ClusterId] = field(default_factory=set)
    """Clusters that turn out to have no room."""
    broken: set[ClusterId] = field(default_factory=set)
    """Clusters where nothing becomes ready."""
    told: dict[ClusterId, ClusterAssignment] = field(default_factory=dict)
    now_s: float = 1.0

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

    def seen(self) -> Observed:
        return observe(
            self.state, now_s=self.now_s, now_wall_s=self.now_s, since_s=self.now_s, lost_after_s=15.0
        )

    def step(self) -> None:
        """Make a pass, then let every cluster do what it was told."""
        self.now_s += 1.0
        observed = self.seen()
        self.state.turned_since_s = observed.turned_since_s
        apply(self.state, plan(observed), now_wall_s=self.now_s)
        for id, told in cluster_assignments(self.seen()).items():
            version, _ = stamp(self.state, id, digest(told))
            self.told[id] = told
            here = set() if id in self.full else {assigned.placed for assigned in told.slots}
            self.runs[id] = (self.runs[id] | here) - set(told.withdrawn)
            self._report(id, version)

    def _report(self, id: ClusterId, applied: Version) -> None:
        statuses = tuple(
            InstanceStatus(
                key=InstanceKey(*placed, 1),
                phase=Phase.RUNNING,
                ready=id not in self.broken,
                namespace=InstanceAddress(v4=f"10.18.{int(id, 16)}.{placed.number}"),
            )
            for placed in sorted(self.runs[id])
        )
        slots = self.told[id].slots if id in self.told else ()
        refusals = tuple(
            Refusal(placed=assigned.placed, reason="no room")
            for assigned in slots
            if assigned.placed not in self.runs[id]
        )
        aggregate = Aggregate(
            architecture="amd64",
            virtualization="docker",
            workers=1,
            total=ROOM,
            free=ROOM,
            largest_free=ROOM,
        )
        report = ClusterReport(
            version=Version(),
            applied=applied,
            complete=True,
            store=1,
            statuses=statuses,
            refusals=refusals,
            aggregates=(aggregate,),
        )
        self.state.views[id] = ClusterView(last_seen_s=self.now_s, report=report)

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


shapes = st.tuples(st.integers(2, 4), st.integers(1, 6), st.integers(1, 3))


@settings(max_examples=40)
@given(shapes, st.data())
def test_a_drained_cluster_is_empty_in_the_end_and_all_serve_on_the_way(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    clusters, count, parallel = shape
    country = Country()
    ids = [country.cluster(number) for number in range(clusters)]
    country.want(count, update=UpdatePolicy(parallel=parallel))
    country.settle(count)
    drained = data.draw(st.sets(st.sampled_from(ids), max_size=clusters - 1))
    for id in drained:
        country.set(id, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == count, "every instance serves, all the time"
        assert country.moving() <= parallel
    assert not country.at().keys() & drained
    assert country.at().total() == count
    assert not country.state.withdrawals


def about_to_move(count: int, **keys: object) -> tuple[Country, ClusterId, ClusterId]:
    """Return a country whose only instances are in its first cluster; the second takes none yet."""
    country = Country()
    first, second = country.cluster(0), country.cluster(1)
    country.set(second, Availability.CORDONED)
    country.want(count, **keys)
    country.settle(count)
    return country, first, second


def test_who_wants_the_earlier_one_gone_first_never_has_two() -> None:
    country, first, second = about_to_move(3, update=UpdatePolicy(order=UpdateOrder.STOP_FIRST))
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    least = 3
    for _ in range(STEPS):
        country.step()
        placed = Counter(placed.slot for runs in country.runs.values() for placed in runs)
        assert max(placed.values()) == 1
        least = min(least, country.serving())
    assert (least, country.at()) == (2, {second: 3})


def test_what_nobody_else_has_room_for_goes_on_serving_where_it_is() -> None:
    country, first, second = about_to_move(2)
    country.full.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    country.full.clear()
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    assert country.at() == {second: 2}


def test_a_successor_that_never_gets_ready_takes_nothing_away() -> None:
    country, first, second = about_to_move(2)
    country.broken.add(second)
    country.set(second, Availability.ACTIVE)
    country.set(first, Availability.DRAINING)
    for _ in range(STEPS):
        country.step()
        assert country.serving() == 2
    assert country.moving() == 1
    (record,) = [record for record in country.state.slots.values() if record.leaving is not None]
    assert record.status is not None
    assert "is being moved, cluster c0 is drained: its successor in c1 is RUNNING" in record.status.reason


def test_others_hear_of_both_placements_and_are_led_to_one() -> None:
    country = Country()
    first, second, third = (country.cluster(number) for number in range(3))
    country.set(second, Availability.CORDONED)
    country.want(2)
    country.settle(2)
    assert country.at() == {first: 1, third: 1}
    country.set(second, Availability.ACTIVE)
    country.set(third, Availability.CORDONED)
    country.set(first, Availability.DRAINING)
    seen = set()
    for _ in range(STEPS):
        country.step()
        remotes = country.told[third].remotes
        assert sum(remote.ready for remote in remotes) == 1
        seen.add(tuple(sorted((remote.namespace.v4, remote.ready) for remote in remotes)))
    assert max(len(addresses) for addresses in seen) == 2
    (assigned,) = country.told[second].slots
    assert not assigned.turned
