"""The API over HTTP: the original's routes, encodings and words, and our own beside them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from asgi import AsgiClient
from oakestra.model.errors import NotFound
from oakestra.model.instance import Placement
from oakestra.wire import api as own
from oakestra.wire.native import Refusal
from root_api import CLUSTER, WORKER, RootApi, let_cluster_join, let_run, start_api
from sla_samples import application, microservice, sla

Story = Callable[[RootApi], Awaitable[None]]


def run(tmp_path: Path, story: Story, **keys: Any) -> None:
    async def all_of_it() -> None:
        await story(await start_api(tmp_path, **keys))

    asyncio.run(all_of_it())


def test_a_day_of_a_developer(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        login = (await api.client.post("/api/auth/login", {"username": "Admin", "password": "secret"})).json()
        client = api.client.as_(login["token"])
        reply = await client.post("/api/application", sla())
        (app,) = reply.doubled()
        assert app["_id"] == {"$oid": app["applicationID"]}
        assert app["userId"] == "Admin"
        assert app["application_desc"] == ""
        assert (await client.get(f"/api/application/{app['applicationID']}")).json() == app
        assert (await client.get("/api/applications?")).doubled() == [app]
        (service,) = app["microservices"]
        document = (await client.get(f"/api/service/{service}")).doubled()
        assert document["instance_list"] == []
        assert "status" not in document
        let_cluster_join(api)
        assert (await client.post(f"/api/service/{service}/instance", {"any": 1})).json() == {"message": "ok"}
        assert (await client.get(f"/api/services/{app['applicationID']}")).doubled()[0][
            "status"
        ] == "REQUESTED"
        let_run(api, service)
        (document,) = (await client.get("/api/services/")).doubled()
        (instance,) = document["instance_list"]
        assert document["status"] == instance["status"] == "RUNNING"
        assert instance["publicip"] == "192.0.2.8"
        assert instance["cluster_location"] == "48.1,11.5,1000"
        assert instance["logs"] == "hi\n"
        assert (await client.delete(f"/api/service/{service}/instance/0")).json() == {"message": "ok"}
        document = (await client.get(f"/api/service/{service}")).doubled()
        assert (document["instance_list"], document["status"]) == ([], "UNDEPLOYED")
        assert (await client.delete(f"/api/service/{service}")).json() == {"message": "Job deleted"}
        assert (await client.get(f"/api/service/{service}")).status == 404
        gone = await client.delete(f"/api/application/{app['applicationID']}")
        assert gone.json() == {"message": "Application Deleted"}
        assert (await client.get("/api/applications/")).doubled() == []

    run(tmp_path, story)


def test_bad_slas_and_clashes(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        reply = await client.post("/api/application/", {"sla_version": "v1.0"})
        assert (reply.status, reply.json()["status"]) == (422, "Unprocessable Entity")
        assert "sla_version" in reply.json()["message"]
        assert (await client.call("POST", "/api/application/", raw=b"{")).status == 400
        assert (await client.post("/api/application/", sla())).status == 200
        assert (await client.post("/api/application/", sla())).status == 409
        assert (await client.post("/api/service/", {})).status == 404
        assert (await client.post("/api/service/", {"sla_version": "v2.0"})).status == 400

    run(tmp_path, story)


def test_adding_services_to_an_application(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        (app,) = (await client.post("/api/application/", sla())).doubled()
        wanted = application(microservice("db"), microservice(), applicationID=app["applicationID"])
        reply = (await client.post("/api/service/", sla(wanted))).json()
        assert reply["deployed_services"] == [{"service_name": "db", "status": 200}]
        (failed,) = reply["failed_services"]
        assert (failed["service_name"], failed["status"]) == ("web", 409)
        assert (await client.get(f"/api/service/{reply['job_id']}")).doubled()["microservice_name"] == "db"
        renamed = await client.put(f"/api/service/{reply['job_id']}", sla())
        assert (renamed.status, "keeps its name" in renamed.json()["message"]) == (400, True)

    run(tmp_path, story)


def test_changing_an_application_keeps_what_is_not_named(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        (app,) = (await client.post("/api/application/", sla())).doubled()
        path = f"/api/application/{app['applicationID']}"
        changed = await client.put(path, {**app, "application_desc": "better", "microservices": None})
        assert changed.json() == {"message": "Application is updated"}
        assert (await client.get(path)).json() == {**app, "application_desc": "better"}

    run(tmp_path, story)


@pytest.mark.parametrize("number", ["x", "1.0", "", "²", "9" * 30])
def test_instance_numbers_are_numbers(tmp_path: Path, number: str) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        reply = await client.delete(f"/api/service/{service}/instance/{number}")
        assert reply.status in (400, 404)

    run(tmp_path, story)


def test_why_an_instance_is_nowhere(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        let_cluster_join(api)
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        await client.post(f"/api/service/{service}/instance")
        key = f"{service}/0"
        reason = "1 cluster: not enough memory: needs 64 MiB, 0 MiB free"
        api.state.slots.put(key, replace(api.state.slots[key], reason=reason))
        document = (await client.get(f"/api/service/{service}")).doubled()
        assert document["status"] == "NoActiveClusterWithCapacity"
        assert document["status_detail"] == reason
        assert document["instance_list"][0]["cluster_id"] == ""
        api.state.slots.put(key, replace(api.state.slots[key], cluster=CLUSTER, placement=1))
        placed = Placement(api.state.services[service].spec.id, 0, 1)
        let_cluster_join(api, refusals=(Refusal(placed=placed, reason="full"),))
        assert (await client.get(f"/api/service/{service}")).doubled()["status"] == "NO_WORKER_CAPACITY"

    run(tmp_path, story)


def test_clusters_are_shown_to_who_is_logged_in(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        let_cluster_join(api)
        assert (await api.client.get("/api/clusters/")).status == 401
        client = await api.admin()
        (cluster,) = (await client.get("/api/clusters/active")).json()
        assert cluster["_id"] == CLUSTER
        assert cluster["aggregated_cpu_percent"] == 50.0
        api.clock.now_s += 31
        assert (await client.get("/api/clusters/active")).json() == []
        (cluster,) = (await client.get("/api/clusters")).json()
        assert cluster["active"] is False

    run(tmp_path, story)


def test_clusters_can_be_made_public(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        assert (await api.client.get("/api/clusters/")).json() == []

    run(tmp_path, story, public_clusters=True)


def test_callbacks_that_prove_nothing_are_refused(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        for path in ("/api/result/deploy", f"/api/information/{CLUSTER}"):
            reply = await api.client.post(path, {"jobs": []})
            assert reply.status == 403
            assert "cannot prove who they are" in reply.json()["message"]

    run(tmp_path, story)


# --- who may come in -----------------------------------------------------------------------------------------


def test_bad_tokens_are_refused_in_the_dialect_of_the_route(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        tokens = await api.accounts.login("Admin", "secret", None)
        api.clock.now_s += 601
        expired = tokens.token
        cases = [
            (api.client, 401, "Missing Authorization Header"),
            (api.client.as_(expired), 401, "Token has expired"),
            (api.client.as_("garbage"), 422, "Not enough segments"),
            (api.client.as_(tokens.refresh_token), 422, "Only non-refresh tokens are allowed"),
        ]
        for client, status, message in cases:
            reply = await client.get("/api/applications/")
            assert (reply.status, reply.json()["msg"]) == (status, message)
            reply = await client.get("/api/services/")
            assert (reply.status, reply.json()["message"]) == (401, "Missing authentication token")
            assert (await client.get("/api/v1/services")).status == 401
        scheme = await api.client.call("GET", "/api/applications/", headers={"authorization": "Basic abc"})
        assert scheme.json()["msg"].startswith("Missing 'Bearer' type")
        refreshed = await api.client.as_(tokens.refresh_token).post("/api/auth/refresh")
        assert (await api.client.as_(refreshed.json()["token"]).get("/api/services/")).status == 200
        wrong = await api.client.as_(refreshed.json()["token"]).post("/api/auth/refresh")
        assert (wrong.status, wrong.json()["msg"]) == (422, "Only refresh tokens are allowed")

    run(tmp_path, story)


def test_logging_in(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        async def status(body: Any) -> int:
            return (await api.client.post("/api/auth/login", body)).status

        assert await status({"username": "Admin", "password": "wrong"}) == 401
        assert await status({"username": "nobody", "password": "secret"}) == 401
        assert await status({"username": "", "password": ""}) == 401
        assert await status({"username": {"$ne": None}, "password": "secret"}) == 400
        assert await status({"username": "Admin"}) == 400
        assert await status({"username": "Admin", "password": "secret", "organization_name": "none"}) == 404
        assert await status({"username": "Admin", "password": "secret", "organization_name": "root"}) == 200
        assert await status({"username": "Admin", "password": "secret", "organization": "ignored"}) == 200
        assert await status(None) == 403
        assert (await api.client.call("POST", "/api/auth/login", raw=b"x")).status == 400

    run(tmp_path, story)


def test_logging_out_revokes_every_token(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        tokens = await api.accounts.login("Admin", "secret", None)
        client = api.client.as_(tokens.token)
        assert (await client.post("/api/v1/logout")).status == 200
        assert (await client.get("/api/services/")).status == 401
        assert (await api.client.as_(tokens.refresh_token).post("/api/auth/refresh")).status == 404
        assert (await (await api.admin()).get("/api/services/")).status == 200

    run(tmp_path, story)


def test_without_admin_the_original_s_lists_are_closed_and_ours_show_what_is_ones_own(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        admin = await api.admin()
        registration = {"name": "ann", "email": "", "password": "pw", "roles": ["Application_Provider"]}
        user = (await admin.post("/api/auth/register", {**registration, "created_at": "x"})).json()
        assert user["password"] == ""
        ann = await api.login("ann", "pw")
        for path in ("/api/applications/", "/api/services/", "/api/users/", "/api/organization/"):
            reply = await ann.get(path)
            assert (reply.status, reply.json()["message"]) == (403, "You have not enough permissions!")
        assert (await ann.get("/api/v1/workers")).status == 403
        await admin.post("/api/application/", sla())
        (mine,) = (
            await ann.post("/api/application/", sla(application(microservice(), name="mine")))
        ).doubled()
        assert mine["userId"] == "ann"
        again = await admin.post("/api/application/", sla(application(name="more")))
        assert [found["application_name"] for found in again.doubled()] == ["shop", "more"], "only one's own"
        assert [found["name"] for found in (await ann.get("/api/v1/applications")).json()] == ["mine"]
        assert (await ann.get(f"/api/applications/{user['_id']['$oid']}")).doubled() == [mine]
        admin_id = next(iter(api.state.users))
        assert (await ann.get(f"/api/applications/{admin_id}")).status == 401

    run(tmp_path, story)


# --- our own -------------------------------------------------------------------------------------------------


def test_everything_about_a_service(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        let_cluster_join(api)
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        path = f"/api/v1/services/{service}"
        assert (await client.post(f"{path}/scale", {"instances": 2})).json() == {"instances": [0, 1]}
        let_run(api, service)
        await client.delete(f"/api/service/{service}/instance/1")
        reply = await client.get(path)
        shown = msgspec.json.decode(reply.body, type=own.Service)
        first, second = shown.instances
        assert (first.phase, first.ready, first.restart, first.attempt) == ("RUNNING", True, 3, 2)
        assert (first.cluster, first.worker, first.host) == ("east", "w1", "192.0.2.8")
        assert first.verdicts[1] == own.Verdict(name="west", refusal="lost", score=0.0)
        assert (second.wanted, second.status, second.phase) == (False, "UNDEPLOYED", "REQUESTED")
        (listed,) = (await client.get(f"/api/v1/services?application={app['applicationID']}")).json()
        assert listed == reply.json()
        assert (await client.post(f"{path}/scale", {"instances": "many"})).status == 400
        assert (await client.post(f"{path}/scale", {"instances": 100_000})).status == 409

    run(tmp_path, story)


def test_machines(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        let_cluster_join(api)
        client = await api.admin()
        (cluster,) = msgspec.json.decode((await client.get("/api/v1/clusters")).body, type=list[own.Cluster])
        assert (cluster.name, cluster.live, cluster.workers_live, cluster.free.vcpus) == ("east", True, 1, 3)
        (worker,) = msgspec.json.decode((await client.get("/api/v1/workers")).body, type=list[own.Worker])
        assert (worker.name, worker.cluster, worker.architecture) == ("w1", "east", "amd64")

    run(tmp_path, story)


def test_status_says_more_to_who_is_logged_in(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        for path in ("/status", "/api/v1/status"):
            assert set((await api.client.get(path)).json()) == {"version", "status"}
        shown = (await (await api.admin()).get("/api/v1/status")).json()
        assert shown["counts"]["applications"] == 0
        assert shown["epoch"] == 1
        api.state.records.renew(7)
        await api.state.commit()
        assert (await (await api.admin()).get("/api/v1/status")).json()["epoch"] == 7

    run(tmp_path, story)


def test_logs_come_from_the_worker_that_has_the_instance(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        client = await api.admin()
        let_cluster_join(api)
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        path = f"/api/v1/services/{service}/logs"
        assert (await client.get(path)).status == 404
        await client.post(f"/api/service/{service}/instance")
        assert (await client.get(path)).status == 503
        let_run(api, service)
        reply = await client.get(f"{path}?tail=100&follow=true")
        assert (reply.status, reply.body) == (200, b"one\ntwo\n")
        named = {"service": service, "slot": 0, "placement": 1, "attempt": 2}
        assert api.workers.asked == [(CLUSTER, WORKER, "logs", {**named, "tail_bytes": 100, "follow": True})]
        assert (await client.get(f"{path}?instance=7")).status == 404
        assert (await client.get(f"{path}?tail=-1")).status == 400
        assert (await client.get(f"{path}?follow=perhaps")).status == 400
        api.workers.error = NotFound("the container is gone")
        assert (await client.get(path)).body.endswith(b"[the log ends here: the container is gone]\n")
        api.workers.pieces = ()
        assert (await client.get(path)).status == 404

    run(tmp_path, story)


def test_what_happened_to_a_service_that_is_gone_is_told_to_who_may_see_everything(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        admin = await api.admin()
        let_cluster_join(api)
        (app,) = (await admin.post("/api/application", sla())).doubled()
        service = app["microservices"][0]
        gone = [{"kind": "gone", "reason": f"{n}", "service": "f" * 24, "wall_s": 2.0} for n in range(1000)]
        own = {"kind": "ready", "reason": "mine", "service": service, "wall_s": 1.0}
        api.workers.pieces = (b"".join(msgspec.json.encode(one) + b"\n" for one in [own, *gone]),)
        wanted = {"name": "ann", "password": "annsecret", "roles": ["Application_Provider"]}
        assert (await admin.post("/api/auth/register", wanted)).status == 200
        seen = [line["reason"] for line in await _events(admin)]
        made = ["application shop.prod was created by Admin", "created by Admin"]
        assert seen == [one["reason"] for one in gone][2:] + made, "the newest thousand of what is seen"
        ann = await api.login("ann", "annsecret")
        assert await _events(ann) == []
        mine = sla(application(microservice(), name="mine"))
        (hers,) = (await ann.post("/api/application", mine)).doubled()
        own["service"] = hers["microservices"][0]
        api.workers.pieces = (b"".join(msgspec.json.encode(one) + b"\n" for one in [own, *gone]),)
        seen = [line["reason"] for line in await _events(ann)]
        assert seen == ["mine", "created by ann"], "others' noise hides nothing"

    run(tmp_path, story)


async def _events(client: AsgiClient) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in (await client.get("/api/v1/events")).body.splitlines()]


def test_what_a_cluster_says_and_nobody_understands_ends_no_story(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        login = (await api.client.post("/api/auth/login", {"username": "Admin", "password": "secret"})).json()
        client = api.client.as_(login["token"])
        let_cluster_join(api)
        told = msgspec.json.encode({"kind": "liveness", "reason": "worker w1 is lost", "tier": "east"})
        api.workers.pieces = (b'{"kind": "from a later version"}\nnot even JSON\n', told + b"\n")
        lines = (await client.get("/api/v1/events")).body.splitlines()
        assert [msgspec.json.decode(line)["reason"] for line in lines] == ["worker w1 is lost"]
        refused = await client.get("/api/v1/events?follow=perhaps")
        assert (refused.status, "follow: expected true or false" in refused.json()["message"]) == (400, True)

    run(tmp_path, story)
