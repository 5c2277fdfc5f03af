"""Root's passes end: who is not there is not waited for in a hurry, and what is told is on disk."""

from __future__ import annotations

import asyncio
from random import Random

import pytest

from oakestra.model.errors import Unavailable
from oakestra.model.ids import ClusterId
from oakestra.root.observe import Observed
from oakestra.root.state import ClusterRecord
from oakestra.root.tier import Root, Tuning
from oakestra.store.fake import Disk, FakeStore
from oakestra.transport import Channel
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import Beat, Version, encode
from root_api import TABLES, HandClock

HERE, AWAY = ClusterId("a" * 24), ClusterId("b" * 24)


class Counting(Root):
    """Counts how often it worked out what clusters are told."""

    rendered = 0

    def _render(self, observed: Observed) -> dict[ClusterId, bytes]:
        self.rendered += 1
        return super()._render(observed)


def test_a_cluster_that_is_away_keeps_nobody_busy_after_a_copy_was_restored() -> None:
    clock, link = HandClock(), FakeHub(Random(1)).link("root", parent=None)
    root = Counting(FakeStore(TABLES), link, clock=clock, ids=Random(1), first_address=1, tuning=Tuning())
    for id in (HERE, AWAY):
        root.state.clusters.put(id, ClusterRecord(id=id, name=id[0], key=id[0], generation=3))

    async def passes(seconds: int) -> int:
        before = root.rendered
        for _ in range(seconds):
            clock.now_s += 1.0
            epoch, generation = root.state.records.epoch, root.state.clusters[HERE].generation
            beat = Beat(version=Version(), applied=Version(epoch=epoch, generation=generation))
            assert link.receive is not None
            link.receive(HERE, Channel.BEAT, encode(beat))
            await root._pass()
        return root.rendered - before

    async def story() -> None:
        await root.state.commit()
        assert link.receive is not None
        later = Beat(version=Version(), applied=Version(epoch=1, generation=9))
        link.receive(HERE, Channel.BEAT, encode(later))
        await passes(100)
        assert root.state.records.epoch > 1, "the records are a copy"
        assert await passes(100) < 20
        root.state.clusters.remove(AWAY)
        assert await passes(100) < 20

    asyncio.run(story())


def test_what_never_gets_on_disk_is_not_told_and_what_does_is_told_once() -> None:
    clock, link = HandClock(), FakeHub(Random(1)).link("root", parent=None)
    disk = Disk({name: {} for name in TABLES}, epoch=1)
    store = FakeStore(TABLES, disk=disk)
    root = Root(store, link, clock=clock, ids=Random(1), first_address=1, tuning=Tuning())
    root.state.clusters.put(HERE, ClusterRecord(id=HERE, name="here", key="h"))

    async def story() -> None:
        await root.state.commit()
        await root._pass()
        following = root.events.follow()
        told = asyncio.ensure_future(anext(following))
        await asyncio.sleep(0)
        clock.now_s += root._tuning.lost_after_s * 2
        disk.full = True
        for _ in range(3):
            clock.now_s += 1.0
            with pytest.raises(Unavailable):
                await root._pass()
        await asyncio.sleep(0)
        assert not told.done()
        disk.full = False
        await root._pass()
        assert (await told).reason == "cluster here is lost"
        assert [event.reason for event in root.events.of()] == ["cluster here is lost"]

    asyncio.run(story())
