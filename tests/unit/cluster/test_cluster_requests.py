"""What operators do to workers is told with their names, and durable with what they did."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from oakestra.cluster.requests import Requests
from oakestra.cluster.state import ClusterState
from oakestra.model.errors import Conflict, Unavailable
from oakestra.model.service import DisconnectPolicy, UpdateOrder, UpdatePolicy
from oakestra.store.event_log import EventLog
from oakestra.store.fake import Disk, FakeStore
from town import TABLES, Town, service


def asked(town: Town, method: str, **arguments: Any) -> None:
    """Let root ask a cluster something."""
    log = EventLog(town.state.records, town.state.events)
    requests = Requests(
        town.state,
        log,
        is_lost=lambda worker: worker in town.away,
        remedies=lambda _: {},
        tell=lambda act: log.add([act], tier="east", now_wall_s=1.0, name_of=lambda _: ""),
        wake=lambda: None,
    )

    async def all_of_it(pieces: AsyncIterator[bytes]) -> None:
        async for _ in pieces:
            pass

    asyncio.run(all_of_it(requests.methods()[method](arguments)))


def told(disk: Disk) -> list[tuple[str, str, str]]:
    """Return what is on disk."""
    events = ClusterState(FakeStore(TABLES, disk=disk)).events.values()
    return [(event.kind.value, event.reason, event.subject) for event in events]


def test_taking_workers_out_is_told() -> None:
    disk = Disk({name: {} for name in TABLES}, epoch=1)
    town = Town(ClusterState(FakeStore(TABLES, disk=disk)))
    worker = town.worker(0, 1000)
    for word in ("cordoned", "cordoned", "draining", "active"):
        asked(town, "availability", worker=worker, availability=word, by="ann")
    asked(town, "remove", worker=worker)
    assert told(disk) == [
        ("act", "worker w0 is cordoned, as ann asked", "w0"),
        ("act", "worker w0 is draining, as ann asked", "w0"),
        ("act", "worker w0 is active, as ann asked", "w0"),
        ("act", "worker w0 was removed by somebody", "w0"),
    ]


def test_what_was_refused_or_could_not_be_recorded_is_not_told() -> None:
    disk = Disk({name: {} for name in TABLES}, epoch=1)
    town = Town(ClusterState(FakeStore(TABLES, disk=disk)))
    worker = town.worker(0, 1000)
    town.want(service(), 1)
    town.rest()
    with pytest.raises(Conflict):
        asked(town, "remove", worker=worker, by="ann")
    disk.full = True
    with pytest.raises(Unavailable):
        asked(town, "availability", worker=worker, availability="cordoned", by="ann")
    disk.full = False
    assert (told(disk), list(town.state.events.values())) == ([], [])


def test_a_worker_that_still_has_to_end_what_must_not_run_twice_is_not_forgotten_while_it_is_there() -> None:
    town = Town()
    worker = town.worker(0, 1000)
    alone = service(
        disconnect=DisconnectPolicy(replace=False), update=UpdatePolicy(order=UpdateOrder.STOP_FIRST)
    )
    town.want(alone, 1)
    town.rest()
    town.slow.add(worker)
    town.want(replace(alone, revision=1), 1)
    town.step()
    assert town.place(0) is None
    with pytest.raises(Conflict, match="has not ended 1 instance"):
        asked(town, "remove", worker=worker)
    town.away.add(worker)
    asked(town, "remove", worker=worker)
    assert not town.state.workers
