"""What root does with its records when they turn out to be an older copy."""

from __future__ import annotations

import asyncio

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.service import InstanceAddress, Resources, ServiceSpec
from oakestra.root.decisions import Place
from oakestra.root.observe import observe
from oakestra.root.plan import plan
from oakestra.root.rebuild.execute import begin_anew
from oakestra.root.state import (
    Availability,
    ClusterRecord,
    ClusterView,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.store.fake import FakeStore
from oakestra.wire.native import Aggregate, ClusterReport, Version
from root_api import TABLES

EAST, WEST = ClusterId("e" * 24), ClusterId("f" * 24)
SERVICE = ServiceId("5" * 24)


def test_what_was_said_of_a_cluster_since_the_copy_is_used_goes_before_what_the_cluster_remembers() -> None:
    """Found by seed 1754: a cluster that was drained in that moment was cordoned again, as it had been before."""
    state = RootState(FakeStore(TABLES))
    for id, name in ((EAST, "east"), (WEST, "west")):
        drained = ClusterRecord(
            id=id, name=name, key=name, availability=Availability.DRAINING, availability_epoch=1
        )
        state.clusters.put(id, drained)
    state.changed_here.add(EAST)
    begin_anew(state, 7)
    asyncio.run(state.commit())
    remembered = ClusterReport(
        version=Version(), applied=Version(epoch=7), complete=True, store=1, availability="cordoned"
    )
    for id in (EAST, WEST):
        state.views[id] = ClusterView(last_seen_s=0.0, report=remembered)
    seen = observe(state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0).clusters
    assert (seen[EAST].availability, seen[WEST].availability) == ("draining", "cordoned")


def test_a_placement_gets_a_number_that_no_cluster_tells_of() -> None:
    """Found by seed 1258: what records that are gone had withdrawn was placed anew under the very same number."""
    state = RootState(FakeStore(TABLES))
    state.clusters.put(EAST, ClusterRecord(id=EAST, name="east", key="east", heard_epoch=1))
    spec = ServiceSpec(
        id=SERVICE, application_id=ApplicationId("0" * 24), tenant=OrganizationId("0" * 24), name="a.b.web.d"
    )
    state.services.put(SERVICE, ServiceRecord(spec=spec))
    slot = Slot(SERVICE, 0)
    state.slots.put(slot_key(slot), SlotRecord(slot=slot, address=InstanceAddress()))
    asyncio.run(state.commit())
    pool = Aggregate(
        architecture="", virtualization="docker", workers=1,
        total=Resources(memory_mib=500, vcpus=1), free=Resources(memory_mib=500, vcpus=1),
        largest_free=Resources(memory_mib=500, vcpus=1),
    )  # fmt: skip
    going = InstanceStatus(key=InstanceKey(*slot, 4, 1), phase=Phase.RUNNING, reason="withdrawn by root")
    state.views[EAST] = ClusterView(
        last_seen_s=1.0,
        report=ClusterReport(
            version=Version(), applied=Version(epoch=state.records.epoch), complete=True, store=1,
            statuses=(going,), aggregates=(pool,),
        ),
    )  # fmt: skip
    decisions = plan(observe(state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0))
    assert [one.placement for one in decisions if isinstance(one, Place)] == [5]
