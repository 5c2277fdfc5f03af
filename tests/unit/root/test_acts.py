"""Whatever somebody does is told with his name, and is as durable as what he did."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asgi import AsgiClient
from oakestra.model.errors import Unavailable
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ServiceId
from oakestra.root import story as told_by_root
from oakestra.root.observe import observe
from oakestra.root.rollout import Fail
from oakestra.root.state import RootState
from oakestra.root.users.access import ADMIN, Principal
from oakestra.store.fake import FakeStore
from oakestra.wire.sla import parse_sla
from root_api import CLUSTER, TABLES, WORKER, RootApi, let_cluster_join, start_api
from sla_samples import sla

Story = Callable[[RootApi, AsgiClient], Awaitable[None]]


def run(tmp_path: Path, story: Story) -> None:
    async def all_of_it() -> None:
        api = await start_api(tmp_path)
        let_cluster_join(api)
        await story(api, await api.admin())

    asyncio.run(all_of_it())


def acts(state: RootState) -> list[Event]:
    return [event for event in state.events.values() if event.kind is EventKind.ACT]


def reasons(state: RootState) -> list[str]:
    return [event.reason for event in acts(state)]


def admin_of(api: RootApi) -> Principal:
    (user,) = api.state.users
    (organization,) = api.state.organizations
    return Principal(
        user=api.state.users[user].id,
        name="Admin",
        organization=api.state.organizations[organization].id,
        roles=frozenset({ADMIN}),
    )


def test_a_day_of_an_operator_is_told_and_on_disk(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient) -> None:
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        await client.post(f"/api/service/{service}/instance")
        await client.post(f"/api/v1/services/{service}/scale", {"instances": 4})
        await client.post(f"/api/v1/services/{service}/scale", {"instances": 4})
        await client.delete(f"/api/service/{service}/instance/1")
        await client.delete(f"/api/service/{service}/instance/1")
        await client.put(f"/api/v1/services/{service}", {"memory": 64})
        await client.post(f"/api/v1/services/{service}/rollback")
        for word in ("draining", "draining", "cordoned", "active"):
            await client.put(f"/api/v1/clusters/{CLUSTER}/availability", {"availability": word})
        await client.delete(f"/api/service/{service}/instance/-1")
        await client.delete(f"/api/application/{app['applicationID']}")
        await client.delete(f"/api/v1/clusters/{CLUSTER}")
        name = api.state.services[ServiceId(service)].spec.name
        told = reasons(RootState(FakeStore(TABLES, disk=api.disk)))
        assert told == [
            "application shop.prod was created by Admin",
            "created by Admin",
            "scaled from 0 to 1 by Admin",
            "scaled from 1 to 4 by Admin",
            "instance 1 was removed by Admin",
            "update to revision 1 begun by Admin",
            "rolled back by Admin from revision 1 to revision 0, which is revision 2 now",
            "cluster east is draining, as Admin asked",
            "cluster east is cordoned, as Admin asked",
            "cluster east is active, as Admin asked",
            "scaled from 3 to 0 by Admin",
            "deleted with its application by Admin",
            "application shop.prod was deleted by Admin",
            "cluster east was removed by Admin",
        ]
        about = [(event.service_name, event.subject) for event in acts(api.state)]
        assert about[1] == (name, "")
        assert about[-1] == ("", "east")

    run(tmp_path, story)


def test_what_could_not_be_recorded_is_not_told(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient) -> None:
        del client
        api.disk.full = True
        with pytest.raises(Unavailable):
            await api.operations.create_applications(admin_of(api), parse_sla(sla()))
        api.disk.full = False
        await api.state.commit()
        assert (reasons(api.state), reasons(RootState(FakeStore(TABLES, disk=api.disk)))) == ([], [])

    run(tmp_path, story)


async def _lines(client: AsgiClient, path: str = "/api/v1/events") -> list[str]:
    found = [msgspec.json.decode(line) for line in (await client.get(path)).body.splitlines()]
    return [line["reason"] for line in found]


def test_who_owns_a_service_is_told_what_was_done_to_it_and_no_more(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        api.workers.pieces = ()
        wanted = {"name": "ann", "password": "annsecret", "roles": ["Application_Provider"]}
        assert (await admin.post("/api/auth/register", wanted)).status == 200
        ann = await api.login("ann", "annsecret")
        (app,) = (await ann.post("/api/application/", sla())).doubled()
        await admin.put(f"/api/v1/clusters/{CLUSTER}/availability", {"availability": "cordoned"})
        await admin.delete(f"/api/service/{app['microservices'][0]}")
        assert await _lines(ann) == ["created by ann", "deleted by Admin"]
        assert "cluster east is cordoned, as Admin asked" in await _lines(admin)
        assert "deleted by Admin" in await _lines(admin)

    run(tmp_path, story)


def test_an_instance_s_story_has_the_newest_of_what_was_done_to_its_service_since(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient) -> None:
        api.workers.pieces = ()
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        api.clock.now_s += 1.0
        await client.post(f"/api/service/{service}/instance")
        api.events.add(  # the pass tells when it places it
            [Event(kind=EventKind.REQUESTED, reason="0 was asked for", service=ServiceId(service), slot=0)],
            tier="root", now_wall_s=api.clock.wall_s(), name_of=lambda _: "",
        )  # fmt: skip
        for count in range(2, 20):
            api.clock.now_s += 1.0
            await client.post(f"/api/v1/services/{service}/scale", {"instances": count})
        shown: dict[str, Any] = (await client.get(f"/api/v1/services/{service}/story?instance=0")).json()
        told = [event["reason"] for event in shown["events"]]
        assert told == [
            "0 was asked for",
            *(f"scaled from {count} to {count + 1} by Admin" for count in range(9, 19)),
        ]

    run(tmp_path, story)


def test_who_takes_a_worker_out_is_told_to_its_cluster(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient) -> None:
        api.workers.pieces = (b'{"name": "w1"}',)
        await client.put(f"/api/v1/workers/{WORKER}/availability", {"availability": "cordoned"})
        await client.delete(f"/api/v1/workers/{WORKER}")
        assert [(method, arguments["by"]) for _, _, method, arguments in api.workers.asked] == [
            ("availability", "Admin"), ("remove", "Admin"),
        ]  # fmt: skip

    run(tmp_path, story)


@pytest.mark.parametrize(
    ("rollback", "end"),
    [
        (True, "; went back to revision 0, which is revision 2 now"),
        (False, "; it stays as it is, as its update policy says"),
    ],
)
def test_an_update_that_fails_says_what_became_of_the_service(
    tmp_path: Path,
    rollback: bool,  # noqa: FBT001
    end: str,
) -> None:
    async def story(api: RootApi, client: AsgiClient) -> None:
        (app,) = (await client.post("/api/application/", sla())).doubled()
        service = ServiceId(app["microservices"][0])
        await client.put(f"/api/v1/services/{service}", {"memory": 64})
        record = api.state.services[service]
        policy = replace(record.spec.update, rollback=rollback)
        api.state.services.put(service, replace(record, spec=replace(record.spec, update=policy)))
        seen = observe(api.state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0)
        (event,) = told_by_root.decided([Fail(service=service, reason="it crashes")], seen, {})
        assert event.reason == f"update to revision 1 failed: it crashes{end}"
        assert event.kind is EventKind.UPDATED

    run(tmp_path, story)
