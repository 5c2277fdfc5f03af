"""Users and organizations, over HTTP: who may change whom, and what must never be lost."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from asgi import AsgiClient
from root_api import RootApi, start_api
from sla_samples import sla

Story = Callable[[RootApi, AsgiClient], Awaitable[None]]


def run(tmp_path: Path, story: Story) -> None:
    async def all_of_it() -> None:
        api = await start_api(tmp_path)
        await story(api, await api.admin())

    asyncio.run(all_of_it())


async def register(client: AsgiClient, name: str, *roles: str) -> Any:
    body = {"name": name, "email": "e", "password": f"{name}'s", "created_at": "now", "roles": roles}
    return await client.post("/api/auth/register", body)


def test_registering(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        user = (await register(admin, "ann", "Application_Provider")).json()
        assert user["roles"] == ["Application_Provider"]
        assert user["_id"]["$oid"] in api.state.users
        assert (await register(admin, "ann")).status == 409
        for name in ("", "a/b", "a b", "x" * 65, "new\nline"):
            assert (await register(admin, name)).status == 400
        assert (await register(admin, "bob", "King")).status == 400
        empty = await admin.post("/api/auth/register", {"name": "bob", "password": ""})
        assert empty.status == 400
        ann = await api.login("ann", "ann's")
        assert (await ann.get("/api/permission/ann")).json() == {"roles": ["Application_Provider"]}
        assert (await ann.get("/api/permission/Admin")).status == 403
        assert (await ann.get("/api/user/ann")).json()["name"] == "ann"
        assert (await ann.get("/api/user/Admin")).status == 403
        assert (await register(ann, "eve")).status == 403

    run(tmp_path, story)


def test_no_hash_ever_leaves(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann")
        organization = next(iter(api.state.organizations))
        for path in ("/api/users/", f"/api/users/{organization}", "/api/user/ann"):
            reply = await admin.get(path)
            assert reply.status == 200
            assert b"argon2" not in reply.body
            assert b'"password":""' in reply.body
        assert (await admin.get(f"/api/users/{'e' * 24}")).json() == []

    run(tmp_path, story)


def test_changing_ones_password_ends_every_session(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann")
        ann = await api.login("ann", "ann's")

        async def change(old: str, new: str) -> Any:
            return await ann.post("/api/user/ann", {"oldPassword": old, "newPassword": new})

        assert (await change("wrong", "new")).json()["message"] == "Old password is not valid!"
        same = await change("ann's", "ann's")
        assert (same.status, same.json()["message"]) == (400, "Old password can't be the new password!")
        assert (await change("ann's", "")).status == 400
        assert (await change("ann's", "better")).json() == {}
        assert (await ann.get("/api/user/ann")).status == 401
        await api.login("ann", "better")
        assert (
            await admin.post("/api/user/ann", {"oldPassword": "better", "newPassword": "x"})
        ).status == 403

    run(tmp_path, story)


def test_an_administrator_changes_users(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann")
        shown = (await admin.get("/api/user/ann")).json()
        echoed = {**shown, "email": "new", "roles": ["Infrastructure_Provider"]}
        assert (await admin.put("/api/user/ann", echoed)).json() == "ok"
        ann = await api.login("ann", "ann's")
        assert (await ann.get("/api/v1/workers")).status == 200
        assert (await ann.put("/api/user/ann", {"roles": ["Admin"]})).status == 403
        assert (await admin.put("/api/user/ann", {"roles": []})).status == 200
        assert (await ann.get("/api/v1/workers")).status == 403, (
            "roles are looked up, not read from the token"
        )
        assert (await admin.put("/api/user/ann", {"password": "set by admin"})).status == 200
        await api.login("ann", "set by admin")
        assert (await admin.put("/api/user/nobody", {})).status == 404
        assert (await admin.put("/api/user/ann", {"name": "Admin"})).status == 409

    run(tmp_path, story)


def test_everybody_changes_his_own_address_and_nothing_else(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann", "Application_Provider")
        ann = await api.login("ann", "ann's")
        shown = (await ann.get("/api/user/ann")).json()
        assert (await ann.put("/api/user/ann", {**shown, "email": "new"})).json() == "ok"
        assert (await ann.get("/api/user/ann")).json() == {**shown, "email": "new"}
        others: tuple[dict[str, Any], ...] = (
            {"name": "anna"},
            {"password": "x"},
            {"created_at": "then"},
            {"roles": []},
            {"roles": ["Admin"]},
        )
        for change in others:
            assert (await ann.put("/api/user/ann", {**shown, **change})).status == 403
        assert (await ann.put("/api/user/Admin", {"email": "stolen"})).status == 403

    run(tmp_path, story)


def test_the_last_administrator_stays(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        organization = next(iter(api.state.organizations))
        for attempt in (
            admin.put("/api/user/Admin", {"roles": [], "email": "changed"}),
            admin.delete("/api/user/Admin"),
            admin.put(f"/api/organization/{organization}", {"member": []}),
            admin.put(f"/api/organization/{organization}", {"name": "other"}),
            admin.delete(f"/api/organization/{organization}"),
        ):
            assert (await attempt).status == 409
        assert (await admin.get("/api/user/Admin")).json()["email"] == "", "refused means untouched"
        await register(admin, "ann", "Admin")
        assert (await admin.put("/api/user/Admin", {"roles": []})).status == 200

    run(tmp_path, story)


def test_a_user_with_applications_is_not_deleted(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann", "Application_Provider")
        ann = await api.login("ann", "ann's")
        (app,) = (await ann.post("/api/application/", sla())).doubled()
        reply = await admin.delete("/api/user/ann")
        assert (reply.status, "shop.prod" in reply.json()["message"]) == (409, True)
        await ann.delete(f"/api/application/{app['applicationID']}")
        assert [user["name"] for user in (await admin.delete("/api/user/ann")).json()] == ["Admin"]
        assert (await ann.get("/api/v1/applications")).status == 401
        (organization,) = api.state.organizations.values()
        assert [member.user for member in organization.members] == [next(iter(api.state.users))]
        assert (await admin.delete("/api/user/ann")).status == 404

    run(tmp_path, story)


def test_organizations_keep_their_people_apart(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        chief = (await register(admin, "chief")).json()["_id"]["$oid"]
        body = {"name": "acme", "member": [{"user_id": chief, "roles": ["Organization_Admin"]}]}
        acme = (await admin.post("/api/organization", body)).doubled()
        assert (await admin.post("/api/organization/", body)).status == 409
        assert (await admin.post("/api/organization/", {"name": ""})).status == 400
        stranger = {"name": "x", "member": [{"user_id": "e" * 24}]}
        assert (await admin.post("/api/organization/", stranger)).status == 400

        boss = await api.login("chief", "chief's", "acme")
        assert (await register(boss, "dev", "Application_Provider")).status == 200
        assert (await register(boss, "usurper", "Admin")).status == 403
        assert {user["name"] for user in (await boss.get(f"/api/users/{acme}")).json()} == {"chief", "dev"}
        root = next(iter(api.state.organizations))
        assert (await boss.get(f"/api/users/{root}")).status == 403
        assert (await boss.put("/api/user/Admin", {"roles": []})).status == 404
        assert (await boss.put("/api/user/dev", {"password": "stolen"})).status == 200
        dev = await api.login("dev", "dev's")
        assert (await dev.post("/api/application/", sla())).status == 200
        assert len((await boss.get("/api/v1/applications")).json()) == 1
        elsewhere = await api.login("chief", "chief's", "root")
        assert (await elsewhere.get("/api/v1/applications")).json() == []

        assert (await admin.delete(f"/api/organization/{acme}")).status == 409
        assert (await boss.delete("/api/user/dev")).json() == []
        assert (await dev.get("/api/v1/applications")).status == 401
        assert (
            await api.client.post("/api/auth/login", {"username": "dev", "password": "dev's"})
        ).status == 404

    run(tmp_path, story)


def test_changing_and_deleting_organizations(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        del api
        id = (await admin.post("/api/organization/", {"name": "newOrganization", "member": []})).doubled()
        documents = (await admin.get("/api/organization/")).doubled()
        assert {"_id": {"$oid": id}, "name": "newOrganization", "member": []} in documents
        changed = await admin.put(f"/api/organization/{id}", {"name": "acme", "member": None})
        assert changed.json() == {"message": "Organization is updated"}
        assert (await admin.put(f"/api/organization/{id}", {"name": "root"})).status == 409
        assert (await admin.delete(f"/api/organization/{id}")).json() == {"message": "Organization deleted"}
        assert (await admin.delete(f"/api/organization/{id}")).status == 404

    run(tmp_path, story)


def test_without_mail_there_are_no_reset_links(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        del admin
        asked = await api.client.post("/api/user/", {"username": "Admin", "domain": "evil.test"})
        assert asked.status == 503
        reset = await api.client.put("/api/user", {"token": "x", "password": "y"})
        assert (reset.status, reset.json()["message"]) == (400, "Link invalid! Please request a new one!")

    run(tmp_path, story)


def test_a_token_does_not_pass_on_with_a_name(tmp_path: Path) -> None:
    async def story(api: RootApi, admin: AsgiClient) -> None:
        await register(admin, "ann", "Application_Provider")
        old = await api.login("ann", "ann's")
        await admin.delete("/api/user/ann")
        await register(admin, "ann", "Application_Provider")
        assert (await old.get("/api/user/ann")).status == 401
        renamed = await api.login("ann", "ann's")
        assert (await admin.put("/api/user/ann", {"name": "anna"})).status == 200
        await register(admin, "ann", "Application_Provider")
        assert (await renamed.get("/api/user/ann")).status == 403
        assert (await renamed.get("/api/user/anna")).json()["name"] == "anna"

    run(tmp_path, story)
