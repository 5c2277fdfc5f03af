"""What root answers, good or bad, is what its OpenAPI document says it answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from described import DescribedClient, Description
from oakestra.wire.execution import InputEnd, frame
from root_api import CLUSTER, WORKER, RootApi, let_cluster_join, let_run, start_api
from sla_samples import application, microservice, sla


async def described(api: RootApi) -> tuple[DescribedClient, Description]:
    """Return a client of Admin that checks, and what it checks against."""
    description = Description((await api.client.get("/docs/openapi.json")).json())
    return DescribedClient(await api.admin(), description), description


def test_every_operation_answers_as_described(tmp_path: Path) -> None:
    """One story that uses everything once and more; what it leaves out is named."""

    async def story() -> None:
        api = await start_api(tmp_path)
        client, description = await described(api)
        await use_accounts(api, client)
        await use_services(api, client)
        await look_around(client)
        assert description.operations() - description.done == set()

    asyncio.run(story())


async def use_accounts(api: RootApi, client: DescribedClient) -> None:
    nobody = DescribedClient(api.client, client.description)
    login = (await nobody.post("/api/auth/login", {"username": "Admin", "password": "secret"})).json()
    await DescribedClient(api.client.as_(login["refresh_token"]), client.description).post(
        "/api/auth/refresh"
    )
    ann = {"name": "ann", "email": "a@b", "password": "pw", "created_at": "now", "roles": ["Admin"]}
    await client.post("/api/auth/register", ann)
    await client.put("/api/user/ann", {"email": "new"})
    hers = DescribedClient(await api.login("ann", "pw"), client.description)
    await hers.get("/api/user/ann")
    await hers.get("/api/permission/ann")
    await hers.post("/api/user/ann", {"oldPassword": "pw", "newPassword": "better"})
    hers = DescribedClient(await api.login("ann", "better"), client.description)
    await hers.post("/api/v1/logout")
    organization = (await client.post("/api/organization", {"name": "acme", "member": []})).doubled()
    await client.get("/api/organization/")
    await client.put(f"/api/organization/{organization}", {"name": "other"})
    await client.get("/api/users/")
    await client.get(f"/api/users/{next(iter(api.state.organizations))}")
    await client.delete(f"/api/organization/{organization}")
    await client.delete("/api/user/ann")


async def use_services(api: RootApi, client: DescribedClient) -> None:
    let_cluster_join(api)
    (app,) = (await client.post("/api/application", sla())).doubled()
    id, (service,) = app["applicationID"], app["microservices"]
    await client.get("/api/applications/")
    await client.get(f"/api/applications/{next(iter(api.state.users))}")
    await client.get(f"/api/application/{id}")
    await client.put(f"/api/application/{id}", {"application_desc": "new"})
    more = sla(application(microservice("db"), microservice(), applicationID=id))
    added = (await client.post("/api/service/", more)).json()
    assert added["failed_services"]
    await client.post(f"/api/service/{service}/instance")
    await client.post(f"/api/v1/services/{service}/scale", {"instances": 2})
    let_run(api, service)
    for url in ("/api/services/", f"/api/services/{id}", f"/api/service/{service}", "/api/v1/services/"):
        await client.get(url)
    await client.get(f"/api/v1/services/{service}")
    await client.get(f"/api/v1/services/{service}/logs")
    await client.post(f"/api/v1/services/{service}/exec", {"command": ["true"]})
    await converse(api, client, service)
    await client.get(f"/api/v1/services/{service}/story?instance=0")
    await client.get("/api/v1/events")
    await client.put(f"/api/service/{service}", {"memory": 64})
    await client.put(f"/api/v1/services/{service}", {"environment": ["A=1"]})
    await client.post(f"/api/v1/services/{service}/rollback")
    api.workers.pieces = (b'{"name": "w1"}',)
    for kind, one in (("workers", WORKER), ("clusters", CLUSTER)):
        await client.put(f"/api/v1/{kind}/{one}/availability", {"availability": "cordoned"})
        if kind == "workers":
            await client.delete(f"/api/v1/{kind}/{one}")
    for url in ("/api/clusters", "/api/clusters/active", "/api/v1/applications", "/api/v1/clusters"):
        assert (await client.get(url)).body != b"[]"
    assert (await client.get("/api/v1/workers")).json()
    await client.delete(f"/api/service/{service}/instance/0")
    await client.delete(f"/api/service/{added['job_id']}")
    await client.delete(f"/api/application/{id}")
    assert (await client.delete(f"/api/v1/clusters/{CLUSTER}")).status == 409
    for slot in list(api.state.slots):
        api.state.slots.remove(slot)  # as passes would
    await client.delete(f"/api/v1/clusters/{CLUSTER}")


async def converse(api: RootApi, client: DescribedClient, service: str) -> None:
    body = {"command": ["cat"], "stdin": True, "terminal": {"rows": 5, "columns": 6, "name": "vt100"}}
    exchange = asyncio.ensure_future(client.post(f"/api/v1/services/{service}/exec", body))
    url = await api.session(client)
    await client.call("POST", f"{url}?sequence=0", raw=frame(InputEnd()))
    assert (await exchange).status == 200


async def look_around(client: DescribedClient) -> None:
    for url in ("/status", "/api/v1/status", "/docs/openapi.json", "/api/docs"):
        await client.get(url)
    for file in ("start.js", "swagger-ui.css", "swagger-ui-bundle.js"):
        await client.get(f"/api/docs/{file}")


BAD = [
    ("POST", "/api/auth/login", {"username": 1, "password": ""}, 400, "username"),
    ("POST", "/api/auth/login", {"username": "Admin"}, 400, "password"),
    ("POST", "/api/auth/register", {"name": "x", "password": "y", "roles": "Admin"}, 400, "roles"),
    ("POST", "/api/auth/register", {"name": "x" * 65, "password": "y"}, 400, "$.name"),
    ("POST", "/api/auth/register", {"name": "a b", "password": "y"}, 400, "user name"),
    ("PUT", "/api/user/Admin", {"email": 3}, 400, "email"),
    ("PUT", f"/api/application/{'f' * 24}", {"application_name": "a b"}, 400, "$.application_name"),
    ("POST", "/api/user/Admin", {"oldPassword": "x"}, 400, "newPassword"),
    ("POST", "/api/user/", {"username": "Admin"}, 400, "domain"),
    ("PUT", "/api/user/", {"token": "x"}, 400, "password"),
    ("POST", "/api/organization/", {"name": 5}, 400, "name"),
    ("POST", "/api/organization/", {"name": "x", "member": [{"user_id": 4}]}, 400, "$.member[0].user_id"),
    ("POST", "/api/application/", sla(application(microservice(memory="1"))), 422, "microservices[0].memory"),
    ("POST", "/api/application/", sla(application(microservice("n" * 31))), 422, "microservice_name"),
    ("POST", "/api/application/", [], 422, "the document"),
    ("POST", "/api/service/", sla(application(microservice(cmd="x"))), 400, "microservices[0].cmd"),
    ("POST", "/api/service/", sla(application(applicationID="f" * 24)), 400, "there is no application"),
    ("PUT", f"/api/application/{'f' * 24}", {"application_desc": 1}, 400, "application_desc"),
    ("POST", f"/api/v1/services/{'f' * 24}/scale", {"instances": "1"}, 400, "instances"),
    ("POST", f"/api/v1/services/{'f' * 24}/exec", {"command": ["true"]}, 404, "there is no service"),
    ("POST", "/api/auth/register", {"name": "x", "password": "y", "roles": ["King"]}, 400, "'King'"),
    ("GET", "/api/service/zzz", None, 404, "zzz"),
    ("DELETE", "/api/service/x/instance/y", None, 400, "instance number"),
    ("POST", "/api/result/deploy", {"job_id": 1}, 403, "switched off"),
    ("POST", "/api/information/x", {}, 403, "switched off"),
]


@pytest.mark.parametrize(("method", "url", "body", "status", "said"), BAD)
def test_bad_input_is_refused_as_described_and_by_name(
    tmp_path: Path, method: str, url: str, body: Any, status: int, said: str
) -> None:
    async def story() -> None:
        client, _ = await described(await start_api(tmp_path))
        reply = await client.call(method, url, body)
        assert (reply.status, said in reply.json()["message"]) == (status, True), reply.body
        assert reply.json()["code"] == status

    asyncio.run(story())


@pytest.mark.parametrize("url", ["/api/applications/", "/api/services/", "/api/v1/services", "/api/clusters"])
def test_who_is_not_let_in_is_told_as_described(tmp_path: Path, url: str) -> None:
    async def story() -> None:
        api = await start_api(tmp_path)
        _, description = await described(api)
        for token in (None, "garbage"):
            reply = await DescribedClient(api.client.as_(token), description).get(url)
            assert reply.status in (401, 422)

    asyncio.run(story())


def test_not_json(tmp_path: Path) -> None:
    async def story() -> None:
        client, _ = await described(await start_api(tmp_path))
        reply = await client.call("POST", "/api/service/", raw=b"{")
        assert reply.json()["errors"] == {"json": ["Invalid JSON body."]}

    asyncio.run(story())


def test_every_body_and_every_answer_has_a_schema(tmp_path: Path) -> None:
    async def story() -> None:
        _, description = await described(await start_api(tmp_path))
        for path, methods in description.document["paths"].items():
            for method, operation in methods.items():
                for response in operation["responses"].values():
                    (content,) = response["content"].values()
                    assert content["schema"], (method, path)
                for content in operation.get("requestBody", {"content": {}})["content"].values():
                    assert content["schema"] not in ({}, {"type": "object"}), (method, path)

    asyncio.run(story())
