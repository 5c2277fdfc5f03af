"""Loads are remembered for charts: the newest points, in order, of whoever still exists."""

from __future__ import annotations

import asyncio
from pathlib import Path
from random import Random

from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey
from oakestra.model.machine import InstanceUsage, MachineUsage
from oakestra.root.history import POINTS_MAX, Histories
from oakestra.root.state import ClusterRecord
from oakestra.root.tier import Root, Tuning
from oakestra.store.fake import FakeStore
from oakestra.transport import Channel
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import InstanceMeasurement, Telemetry, encode
from oakestra.wire.rest import Seen
from root_api import CLUSTER, TABLES, HandClock, let_cluster_join, let_run, start_api
from sla_samples import sla


def test_the_oldest_points_go_first() -> None:
    histories = Histories()
    assert histories.of("w") == ()
    for number in range(POINTS_MAX + 5):
        histories.note("w", Seen(float(number), 0.5, 7.0))
    found = histories.of("w")
    assert [point.at_wall_s for point in found] == [float(number) for number in range(5, POINTS_MAX + 5)]
    assert found[0] == Seen(5.0, 0.5, 7.0)


def test_who_is_gone_is_forgotten() -> None:
    histories = Histories()
    histories.note("a", Seen(0.0, 0.0, 0.0))
    histories.note("b", Seen(1.0, 0.0, 0.0))
    histories.keep_only({"b", "c"})
    assert (histories.of("a"), len(histories.of("b"))) == ((), 1)


def test_one_service_is_shown_with_all_points_and_many_with_the_newest(tmp_path: Path) -> None:
    async def story() -> None:
        api = await start_api(tmp_path)
        client = await api.admin()
        let_cluster_join(api)
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        await client.post(f"/api/service/{service}/instance")
        key = let_run(api, service)
        for number in range(3):
            api.state.histories.note(key, Seen(float(number), 0.25, 10.0))
            api.state.histories.note(CLUSTER, Seen(float(number), 0.5, 0.75))
        (one,) = (await client.get(f"/api/service/{service}")).doubled()["instance_list"]
        assert [point["timestamp"][-2:] for point in one["cpu_history"]] == ["00", "01", "02"]
        (listed,) = (await client.get("/api/services/")).doubled()
        assert listed["instance_list"][0]["memory_history"] == one["memory_history"][-1:]
        (cluster,) = (await client.get("/api/clusters/")).json()
        assert cluster["memory_history"][0] == {"value": 75.0, "timestamp": 0.0}

    asyncio.run(story())


def test_what_a_cluster_measured_is_remembered() -> None:
    clock, link = HandClock(), FakeHub(Random(1)).link("root", parent=None)
    root = Root(FakeStore(TABLES), link, clock=clock, ids=Random(1), first_address=0, tuning=Tuning())
    root.state.clusters.put(CLUSTER, ClusterRecord(id=CLUSTER, name="east", key="k"))
    key = InstanceKey(ServiceId("a" * 24), 0, 1, 1)
    measured = InstanceMeasurement(key=key, usage=InstanceUsage(cpu_ratio=0.5, memory_bytes=9))
    telemetry = Telemetry(machine=MachineUsage(cpu_ratio=0.25, memory_ratio=0.75), instances=(measured,))
    assert link.receive is not None
    link.receive(CLUSTER, Channel.TELEMETRY, encode(telemetry))
    assert root.state.histories.of(key) == (Seen(clock.wall_s(), 0.5, 9.0),)
    assert root.state.histories.of(CLUSTER) == (Seen(clock.wall_s(), 0.25, 0.75),)
