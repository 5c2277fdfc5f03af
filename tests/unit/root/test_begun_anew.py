"""What root does with its records when they turn out to be an older copy."""

from __future__ import annotations

import asyncio

from oakestra.model.ids import ClusterId
from oakestra.root.observe import observe
from oakestra.root.rebuild.execute import begin_anew
from oakestra.root.state import Availability, ClusterRecord, ClusterView, RootState
from oakestra.store.fake import FakeStore
from oakestra.wire.native import ClusterReport, Version
from root_api import TABLES

EAST, WEST = ClusterId("e" * 24), ClusterId("f" * 24)


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
