"""Every route of the original, over a real socket, as clients with their own decoders see it.

The shapes are the original's as its clients decode them: `str`, `int` (without a fraction), `float` (any number),
`bool`, `[a list of at least one]`, `(a list of any length,)`, and objects that have at least these keys.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from foreign_client import Client, fits
from oakestra.model.ids import ServiceId
from root_api import CLUSTER, let_cluster_join, let_run
from served_root import ServedRoot, served_root
from sla_samples import application, microservice, sla

PLAIN, DOUBLED = "plain", "doubled"
NOWHERE = "f" * 24
STATUSES = {
    "REQUESTED", "CLUSTER_SCHEDULED", "NODE_SCHEDULED", "TargetClusterNotFound", "TargetClusterNotActive",
    "TargetClusterNoCapacity", "NoActiveClusterWithCapacity", "NO_WORKER_CAPACITY", "NO_QUALIFIED_WORKER_FOUND",
    "NO_NODE_FOUND", "CREATING", "CREATED", "RUNNING", "FAILED", "DEAD", "COMPLETED", "UNDEPLOYED",
}  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ServedRoot]:
    with served_root(tmp_path, password="Admin") as root:
        yield root


@dataclass(frozen=True)
class World:
    """A root on which something happened: an application with a service, one instance runs."""

    root: ServedRoot
    nobody: Client
    admin: Client
    names: dict[str, str]
    """What stands in paths and bodies as `{name}`."""


@pytest.fixture
def world(root: ServedRoot) -> World:
    nobody = Client(root.url)
    admin = nobody.login()
    root.do(let_cluster_join)
    wanted = microservice(memory=64, vcpus=1, port="8080:80", environment=["A=1"], added_files=[], state="")
    (app,) = admin.ask("POST", "/api/application/", sla(application(wanted))).twice
    (service,) = app["microservices"]
    admin.ask("POST", f"/api/service/{service}/instance")
    root.do(lambda api: let_run(api, service))
    me = admin.ask("GET", "/api/user/Admin").json["_id"]["$oid"]
    (organization,) = admin.ask("GET", "/api/organization/").twice
    names = {"app": app["applicationID"], "service": service, "me": me, "org": organization["_id"]["$oid"]}
    return World(root, nobody, admin, names)


def filled(value: Any, names: dict[str, str]) -> Any:
    """Put the names in."""
    if isinstance(value, str):
        for name, there in names.items():
            value = value.replace(f"{{{name}}}", there)
        return value
    if isinstance(value, dict):
        return {key: filled(inner, names) for key, inner in value.items()}
    return type(value)(filled(inner, names) for inner in value) if isinstance(value, list | tuple) else value


ID = {"$oid": str}
HISTORY = ({"value": str, "timestamp": str},)
INSTANCE = {
    "instance_number": int, "cluster_id": str, "cluster_location": str, "status": STATUSES, "status_detail": str,
    "publicip": str, "host_ip": str, "host_port": int, "worker_id": str, "cpu_percent": str,
    "memory_percent": str, "disk": str, "logs": str, "last_modified_timestamp": float, "cpu_history": HISTORY,
    "memory_history": HISTORY,
}  # fmt: skip
SERVICE = {
    "_id": ID, "microserviceID": str, "job_name": "shop.prod.web.front", "applicationID": "{app}",
    "app_name": "shop", "app_ns": "prod", "microservice_name": "web", "microservice_namespace": "front",
    "service_name": "web", "service_ns": "front", "image": "docker.io/library/nginx:latest",
    "code": "docker.io/library/nginx:latest", "virtualization": "docker", "memory": 64, "vcpus": 1,
    "port": "8080:80", "environment": ["A=1"], "added_files": [], "state": "",
    "next_instance_progressive_number": 1, "instance_list": [INSTANCE], "status": "RUNNING", "status_detail": str,
}  # fmt: skip
APPLICATION = {
    "_id": {"$oid": "{app}"}, "applicationID": "{app}", "application_name": "shop",
    "application_namespace": "prod", "application_desc": "", "userId": "Admin", "microservices": ["{service}"],
}  # fmt: skip
CLUSTER_SHAPE = {
    "_id": CLUSTER, "candidate_name": "east", "candidate_location": "48.1,11.5,1000", "cluster_name": "east",
    "cluster_location": "48.1,11.5,1000", "ip": "192.0.2.7", "port": "10100", "active": True,
    "last_modified_timestamp": float, "active_nodes": 1, "vcpus": 4, "vgpus": 0, "memory": 60,
    "cpu_percent": float, "memory_percent": float, "gpu_percent": int, "gpu_temp": float, "vram": int,
    "vram_percent": float, "virtualization": ["docker"], "supported_addons": (str,), "csi_drivers": (str,),
    "gpu_drivers": (str,), "cpu_history": ({"value": float, "timestamp": float},),
    "memory_history": ({"value": float, "timestamp": float},), "aggregated_cpu_percent": float,
    "memory_in_mb": 60, "total_cpu_cores": 4, "total_gpu_cores": 0,
}  # fmt: skip
USER = {"_id": ID, "name": str, "email": str, "password": "", "created_at": str}
ORGANIZATION = {"_id": ID, "name": str, "member": ({"user_id": str, "roles": [str]},)}
ANN = {"name": "ann", "email": "a@b", "password": "pw", "created_at": "01/02/2026 10:00", "roles": []}
MORE = sla(application(microservice("db"), applicationID="{app}"))

ROUTES: list[tuple[str, str, Any, str, Any]] = [
    ("POST", "/api/auth/login", {"username": "Admin", "password": "Admin"}, PLAIN,
     {"token": str, "refresh_token": str}),
    ("POST", "/api/auth/login", {"username": "Admin", "password": "Admin", "organization_name": "root"}, PLAIN,
     {"token": str, "refresh_token": str}),
    ("POST", "/api/auth/register", ANN, PLAIN, {**USER, "name": "ann", "roles": []}),
    ("GET", "/api/permission/Admin", None, PLAIN, {"roles": [str]}),
    ("GET", "/api/users/", None, PLAIN, [USER]),
    ("GET", "/api/users", None, PLAIN, [USER]),
    ("GET", "/api/users/{org}", None, PLAIN, [{**USER, "roles": [str]}]),
    ("GET", f"/api/users/{NOWHERE}", None, PLAIN, []),
    ("GET", "/api/user/Admin", None, PLAIN, {**USER, "_id": {"$oid": "{me}"}, "roles": [str]}),
    ("PUT", "/api/user/Admin", {"_id": {"$oid": "{me}"}, "email": "x", "password": "", "unknown": 1}, PLAIN, "ok"),
    ("POST", "/api/user/Admin", {"oldPassword": "Admin", "newPassword": "better"}, PLAIN, {}),
    ("GET", "/api/organization/", None, DOUBLED, [ORGANIZATION]),
    ("GET", "/api/organization", None, DOUBLED, [ORGANIZATION]),
    ("POST", "/api/organization/", {"name": "newOrganization", "member": []}, DOUBLED, str),
    ("POST", "/api/organization", {"name": "newOrganization", "member": []}, DOUBLED, str),
    ("PUT", "/api/organization/{org}", {"_id": {"$oid": "{org}"}, "name": "root"}, PLAIN,
     {"message": "Organization is updated"}),
    ("GET", "/api/applications/", None, DOUBLED, [APPLICATION]),
    ("GET", "/api/applications?", None, DOUBLED, [APPLICATION]),
    ("GET", "/api/applications/{me}", None, DOUBLED, [APPLICATION]),
    ("POST", "/api/application?", sla(application(name="more")), DOUBLED, [{"applicationID": str}]),
    ("GET", "/api/application/{app}", None, PLAIN, APPLICATION),
    ("PUT", "/api/application/{app}", {**APPLICATION, "application_desc": "new"}, PLAIN,
     {"message": "Application is updated"}),
    ("DELETE", "/api/application/{app}", None, PLAIN, {"message": "Application Deleted"}),
    ("GET", "/api/services/", None, DOUBLED, [SERVICE]),
    ("GET", "/api/services/?", None, DOUBLED, [SERVICE]),
    ("GET", "/api/services", None, DOUBLED, [SERVICE]),
    ("GET", "/api/services/{app}?", None, DOUBLED, [SERVICE]),
    ("POST", "/api/service/", MORE, PLAIN,
     {"job_id": str, "deployed_services": [{"service_name": "db", "status": 200}], "failed_services": []}),
    ("POST", "/api/service", MORE, PLAIN, {"job_id": str}),
    ("GET", "/api/service/{service}?", None, DOUBLED, SERVICE),
    ("DELETE", "/api/service/{service}", None, PLAIN, {"message": "Job deleted"}),
    ("POST", "/api/service/{service}/instance?", None, PLAIN, {"message": "ok"}),
    ("POST", "/api/service/{service}/instance", {"microserviceID": "{service}"}, PLAIN, {"message": "ok"}),
    ("DELETE", "/api/service/{service}/instance/0?", None, PLAIN, {"message": "ok"}),
    ("DELETE", "/api/service/{service}/instance/-1", None, PLAIN, {"message": "ok"}),
    ("GET", "/api/clusters/?", None, PLAIN, [CLUSTER_SHAPE]),
    ("GET", "/api/clusters", None, PLAIN, [CLUSTER_SHAPE]),
    ("GET", "/api/clusters/active?", None, PLAIN, [CLUSTER_SHAPE]),
    ("GET", "/docs/openapi.json", None, PLAIN,
     {"openapi": "3.0.2", "info": {"title": "Oakestra root api", "version": "v1"}, "paths": dict}),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "url", "body", "encoding", "shape"), ROUTES, ids=lambda value: str(value)[:40]
)
def test_what_a_route_answers(
    world: World, method: str, url: str, body: Any, encoding: str, shape: Any
) -> None:
    answer = world.admin.ask(method, filled(url, world.names), filled(body, world.names))
    assert answer.status == 200, answer.body
    assert answer.headers["Content-Type"].startswith("application/json")
    fits(answer.twice if encoding == DOUBLED else answer.json, filled(shape, world.names))
    assert not answer.headers.get("Location")


def test_doubled_answers_end_with_a_line_feed_and_begin_with_a_quote(world: World) -> None:
    body = world.admin.ask("GET", "/api/services/").body
    assert (body[:1], body[-1:]) == (b'"', b"\n")


ERROR = {"code": int, "status": str, "message": str}
REFUSALS: list[tuple[str, str, Any, int, Any]] = [
    ("POST", "/api/auth/login", {"username": "Admin", "password": "no"}, 401, ERROR),
    ("POST", "/api/auth/login", {"username": "", "password": ""}, 401, ERROR),
    ("POST", "/api/auth/login", {"username": {"$ne": None}, "password": "Admin"}, 400, ERROR),
    ("POST", "/api/auth/login", {"username": "Admin", "password": "Admin", "organization_name": "x"}, 404, ERROR),
    ("POST", "/api/auth/login", None, 403, ERROR),
    ("POST", "/api/auth/login", b"{", 400,
     {"code": 400, "errors": {"json": ["Invalid JSON body."]}, "status": "Bad Request"}),
    ("POST", "/api/application/", b"{", 400, {"errors": {"json": ["Invalid JSON body."]}}),
    ("POST", "/api/service/", b"{", 400, {"errors": {"json": ["Invalid JSON body."]}}),
    ("GET", "/api/permission/other", None, 403, {"message": "You have not enough permissions!"}),
    ("POST", "/api/user/Admin", {"oldPassword": "x", "newPassword": "y"}, 400,
     {"message": "Old password is not valid!"}),
    ("POST", "/api/user/Admin", {"oldPassword": "Admin", "newPassword": "Admin"}, 400,
     {"message": "Old password can't be the new password!"}),
    ("PUT", "/api/user/", {"token": "x", "password": "y"}, 400,
     {"message": "Link invalid! Please request a new one!"}),
    ("POST", "/api/application/", {"api_version": "v2.0"}, 422, ERROR),
    ("POST", "/api/application/", sla(application(name="with space")), 422, ERROR),
    ("POST", "/api/application/", sla(application(microservice("a.b"))), 422, ERROR),
    ("POST", "/api/application/", sla(application(microservice(microserviceID="4"))), 422, ERROR),
    ("POST", "/api/application/", sla(), 409, ERROR),
    ("GET", f"/api/application/{NOWHERE}", None, 404, ERROR),
    ("GET", "/api/application/malformed", None, 404, ERROR),
    ("GET", f"/api/services/{NOWHERE}", None, 404, ERROR),
    ("GET", f"/api/service/{NOWHERE}", None, 404, ERROR),
    ("POST", "/api/service/", sla(application(microservice(), applicationID=NOWHERE)), 400, ERROR),
    ("POST", "/api/service/", sla(application(microservice(virtualization="unikernel"))), 400, ERROR),
    ("POST", "/api/service/", {}, 404, ERROR),
    ("PUT", "/api/service/{service}", MORE, 400, ERROR),
    ("DELETE", "/api/service/{service}/instance/one", None, 400, ERROR),
    ("GET", "/api/nothing", None, 404, ERROR),
    ("DELETE", "/api/application/", None, 405, ERROR),
    ("PATCH", "/api/services/", None, 405, ERROR),
]  # fmt: skip


@pytest.mark.parametrize(
    ("method", "url", "body", "status", "shape"), REFUSALS, ids=lambda value: str(value)[:40]
)
def test_what_a_route_refuses(
    world: World, method: str, url: str, body: Any, status: int, shape: Any
) -> None:
    answer = world.admin.ask(method, filled(url, world.names), filled(body, world.names))
    assert answer.status == status, answer.body
    fits(answer.json, shape)


STRICT = ("/api/applications/", "/api/application/{app}", "/api/organization/")
LENIENT = (
    "/api/services/",
    "/api/service/{service}",
    "/api/users/",
    "/api/user/Admin",
    "/api/permission/Admin",
)


@pytest.mark.parametrize("url", STRICT)
def test_bad_tokens_on_application_and_organization_routes(world: World, url: str) -> None:
    url = filled(url, world.names)
    login = world.nobody.ask("POST", "/api/auth/login", {"username": "Admin", "password": "Admin"}).json
    cases = [
        (world.nobody, {}, 401, "Missing Authorization Header"),
        (world.nobody, {"Authorization": "Basic x"}, 401,
         "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'"),
        (Client(world.root.url, "garbage"), {}, 422, "Not enough segments"),
        (Client(world.root.url, login["refresh_token"]), {}, 422, "Only non-refresh tokens are allowed"),
        (Client(world.root.url, login["token"][:-6] + "AAAAAA"), {}, 422, "Signature verification failed"),
    ]  # fmt: skip
    for client, headers, status, said in cases:
        answer = client.ask("GET", url, **headers)
        assert (answer.status, answer.json["msg"]) == (status, said)
    world.root.do(lambda api: setattr(api.clock, "now_s", api.clock.now_s + 601))
    expired = world.admin.ask("GET", url)
    assert (expired.status, expired.json["msg"]) == (401, "Token has expired")
    again = Client(world.root.url, login["refresh_token"]).ask("POST", "/api/auth/refresh", {})
    assert Client(world.root.url, again.json["token"]).ask("GET", url).status == 200


@pytest.mark.parametrize("url", LENIENT)
def test_bad_tokens_on_service_and_user_routes(world: World, url: str) -> None:
    for client in (world.nobody, Client(world.root.url, "garbage")):
        answer = client.ask("GET", filled(url, world.names))
        assert (answer.status, answer.json["message"]) == (401, "Missing authentication token")


def test_who_has_no_role_is_refused_what_administrators_may(world: World) -> None:
    world.admin.ask("POST", "/api/auth/register", ANN)
    ann = world.nobody.login("ann", "pw")
    for url in ("/api/applications/", "/api/services/", "/api/users/", "/api/organization/"):
        answer = ann.ask("GET", url)
        assert (answer.status, answer.json["message"]) == (403, "You have not enough permissions!")
    assert ann.ask("GET", filled("/api/applications/{me}", world.names)).status == 401
    assert ann.ask("GET", filled("/api/service/{service}", world.names)).status == 404


@pytest.mark.parametrize(
    "url", ["/api/applications/", "/api/applications", "/api/auth/login", "/api/nothing"]
)
def test_browsers_of_any_origin_are_let_in(world: World, url: str) -> None:
    asked = {"Origin": "http://a.test", "Access_Control_Request_Method": "PUT",
             "Access_Control_Request_Headers": "authorization, content-type"}  # fmt: skip
    preflight = world.nobody.ask("OPTIONS", url, **asked)
    assert preflight.status == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == "http://a.test"
    assert preflight.headers["Access-Control-Allow-Headers"] == "authorization, content-type"
    assert preflight.headers["Access-Control-Allow-Methods"] == "DELETE, GET, HEAD, OPTIONS, PATCH, POST, PUT"
    answer = world.nobody.ask("GET", url, Origin="http://a.test")
    assert answer.headers["Access-Control-Allow-Origin"] == "http://a.test"
    assert "Origin" in answer.headers["Vary"]


def test_a_token_tells_what_clients_show(world: World) -> None:
    middle = world.admin.token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(middle + "=" * (-len(middle) % 4)))
    fits(claims, {"sub": "Admin", "user": "Admin", "type": "access", "roles": [str], "exp": int, "iat": int,
                  "nbf": int, "jti": str, "csrf": str, "fresh": False, "organization": world.names["org"]})  # fmt: skip
    assert claims["exp"] - claims["iat"] == 600
    assert set(claims["roles"]) == {
        "Admin", "Organization_Admin", "Application_Provider", "Infrastructure_Provider",
    }  # fmt: skip


def test_instance_numbers_count_on(world: World) -> None:
    url = filled("/api/service/{service}", world.names)
    for _ in range(2):
        world.admin.ask("POST", f"{url}/instance")
    world.admin.ask("DELETE", f"{url}/instance/1")
    world.admin.ask("POST", f"{url}/instance")
    service = world.admin.ask("GET", url).twice
    assert [instance["instance_number"] for instance in service["instance_list"]] == [0, 2, 3]
    assert service["next_instance_progressive_number"] == 4
    assert world.admin.ask("DELETE", f"{url}/instance/-1").status == 200
    service = world.admin.ask("GET", url).twice
    assert service["instance_list"] == []
    assert service["status"] in STATUSES


def test_a_service_has_no_status_before_its_first_instance(world: World) -> None:
    id = world.admin.ask("POST", "/api/service/", filled(MORE, world.names)).json["job_id"]
    service = world.admin.ask("GET", f"/api/service/{id}").twice
    assert not {"status", "status_detail"} & set(service)
    assert service["instance_list"] == []
    world.admin.ask("POST", f"/api/service/{id}/instance")
    service = world.admin.ask("GET", f"/api/service/{id}").twice
    assert service["status"] == "REQUESTED"
    fits(service["instance_list"], [INSTANCE])
    application = world.admin.ask("GET", filled("/api/application/{app}", world.names)).json
    assert application["microservices"] == [world.names["service"], id]
    assert world.root.do(lambda api: api.state.services[ServiceId(id)].next_slot) == 1


def test_a_script_that_always_parses_twice(world: World) -> None:
    for url in ("/api/applications/", "/api/services/", "/api/organization/"):
        assert isinstance(json.loads(json.loads(world.admin.ask("GET", url).body)), list)
