"""What the original's dashboard asks for, in the order of a working day, and every field it then reads."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from foreign_client import Client, fits
from root_api import let_cluster_join, let_run
from served_root import ServedRoot, served_root
from sla_samples import application, microservice

ORIGIN = {"Origin": "http://dashboard.test"}
ROW = {"_id": {"$oid": str}}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ServedRoot]:
    with served_root(tmp_path, password="Admin") as root:
        yield root


class Dashboard:
    """A page: decodes its token, and parses answers that are strings once more, except after PUT."""

    def __init__(self, root: str, name: str, password: str) -> None:
        nobody = Client(root)
        login = nobody.ask("POST", "/api/auth/login", {"username": name, "password": password}, **ORIGIN).json
        self._refresh = Client(root, login["refresh_token"])
        self._client = Client(root, login["token"])
        middle = login["token"].split(".")[1]
        self.claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))

    def ask(self, method: str, url: str, body: Any = None) -> Any:
        """Ask for something; anything but 200 would become an error on the page."""
        answer = self._client.ask(method, f"/api{url}", body, **ORIGIN)
        assert answer.status == 200, (method, url, answer.body)
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN["Origin"]
        return answer.twice if method != "PUT" and isinstance(answer.json, str) else answer.json

    def refresh(self) -> None:
        """Get a new token."""
        self._client = Client(
            self._client.root, self._refresh.ask("POST", "/api/auth/refresh", {}).json["token"]
        )


def test_a_day_of_an_administrator(root: ServedRoot) -> None:
    page = Dashboard(root.url, "Admin", "Admin")
    user = page.ask("GET", f"/user/{page.claims['sub']}")
    fits(user, {**ROW, "name": "Admin", "email": str, "roles": [str]})
    fits(page.ask("GET", f"/permission/{user['name']}"), {"roles": [str]})
    page.ask("GET", "/organization/")
    page.refresh()
    assert page.ask("GET", f"/applications/{user['_id']['$oid']}") == []

    empty = {**application(application_desc="demo"), "action": "create", "userId": user["_id"]["$oid"]}
    document = {"sla_version": "v2.0", "customerID": page.claims["organization"], "applications": [empty]}
    (app,) = page.ask("POST", "/application/", document)
    fits(app, {**ROW, "application_name": "shop", "application_desc": "demo", "microservices": []})
    edited = {**app, "application_desc": "better"}
    assert page.ask("PUT", f"/application/{app['applicationID']}", edited)["message"]

    root.do(let_cluster_join)
    (cluster,) = page.ask("GET", "/clusters/")
    fits(cluster, {"_id": str, "cluster_name": "east", "active": True, "aggregated_cpu_percent": float,
                   "active_nodes": int, "memory_in_mb": int, "total_cpu_cores": int, "total_gpu_cores": int,
                   "virtualization": [str], "cluster_location": str})  # fmt: skip
    page.ask("GET", "/clusters/active")

    service = deploy_a_service(page, app)
    watch_an_instance(page, root, service)
    page.ask("DELETE", f"/service/{service['microserviceID']}/instance/0")
    page.ask("DELETE", f"/service/{service['microserviceID']}")
    assert page.ask("GET", f"/services/{app['applicationID']}") == []
    page.ask("DELETE", f"/application/{app['applicationID']}")
    assert page.ask("GET", f"/applications/{user['_id']['$oid']}") == []


def deploy_a_service(page: Dashboard, app: dict[str, Any]) -> dict[str, Any]:
    """Fill in the form, with all it can send, and save it."""
    wanted = microservice(
        microservice_description="a page", memory=100, vcpus=1, vgpus=0, vtpus=0, bandwidth_in=0, bandwidth_out=0,
        storage=0, port="8080:80", args=["x"], environment=["A=1"], added_files=[], state="",
        constraints=[
            {"type": "latency", "area": "munich1", "threshold": 100, "rigidness": 0.5, "convergence_time": 300},
            {"type": "geo", "location": "", "threshold": 20, "rigidness": 0.5, "convergence_time": 300},
            {"type": "clusters", "allowed": ["east"]},
        ],
        connectivity=[{"target_microservice_id": "", "con_constraints": [
            {"type": "latency", "threshold": 1, "rigidness": 0.1, "convergence_time": 10}]}],
    )  # fmt: skip
    document = {
        "sla_version": "v2.0",
        "customerID": page.claims["organization"],
        "applications": [{**application(wanted), "applicationID": app["applicationID"]}],
    }
    job = page.ask("POST", "/service/", document)["job_id"]
    (service,) = page.ask("GET", f"/services/{app['applicationID']}")
    assert service["microserviceID"] == job
    fits(service, {**ROW, "microservice_name": "web", "instance_list": []})
    assert page.ask("POST", f"/service/{job}/instance", service) == {"message": "ok"}
    found: dict[str, Any] = service
    return found


def watch_an_instance(page: Dashboard, root: ServedRoot, service: dict[str, Any]) -> None:
    """Open an instance's page: what it shows may not be missing, and its arrays must be arrays."""
    id = service["microserviceID"]
    waiting = page.ask("GET", f"/service/{id}")
    root.do(lambda api: let_run(api, id))
    running = page.ask("GET", f"/service/{id}")
    for shown in (waiting, running):
        (instance,) = shown["instance_list"]
        fits(instance, {"instance_number": 0, "status": str, "disk": str, "cluster_id": str, "publicip": str,
                        "logs": str, "cluster_location": str,
                        "cpu_history": ({"value": str, "timestamp": str},),
                        "memory_history": ({"value": str, "timestamp": str},)})  # fmt: skip
    assert running["status"] == "RUNNING"


def test_people_and_organizations(root: ServedRoot) -> None:
    page = Dashboard(root.url, "Admin", "Admin")
    home = page.claims["organization"]
    form = {"_id": {"$oid": ""}, "name": "ann", "email": "a@b", "password": "pw", "created_at": "01/02/2026 10:00",
            "roles": ["Application_Provider"]}  # fmt: skip
    fits(page.ask("POST", "/auth/register", form), {**ROW, "name": "ann", "roles": ["Application_Provider"]})
    rows = page.ask("GET", f"/users/{home}")
    fits(rows, [{**ROW, "name": str, "created_at": str, "roles": [str]}])
    (ann,) = [row for row in rows if row["name"] == "ann"]
    page.ask("PUT", "/user/ann", {**ann, "roles": ["Application_Provider", "Infrastructure_Provider"]})

    id = page.ask("POST", "/organization/", {"name": "newOrganization", "member": []})
    (organization,) = [row for row in page.ask("GET", "/organization/") if row["_id"]["$oid"] == id]
    members = [{"user_id": ann["_id"]["$oid"], "roles": ["Organization_Admin"]}]
    assert page.ask("PUT", f"/organization/{id}", {**organization, "name": "acme", "member": members})[
        "message"
    ]
    login = {"username": "ann", "password": "pw", "organization_name": "acme"}
    assert Client(root.url).ask("POST", "/api/auth/login", login).status == 200

    hers = Dashboard(root.url, "ann", "pw")
    profile = hers.ask("GET", "/user/ann")
    assert sorted(profile["roles"]) == ["Application_Provider", "Infrastructure_Provider"]
    hers.ask("PUT", "/user/ann", {**profile, "email": "new@b"})
    assert hers.ask("GET", "/user/ann")["email"] == "new@b"
    hers.ask("POST", "/user/ann", {"oldPassword": "pw", "newPassword": "better"})
    page.ask("DELETE", f"/organization/{id}")
    assert [user["name"] for user in page.ask("DELETE", "/user/ann")] == ["Admin"]
