"""The original's documents have its keys and types, down to what a Go client decodes strictly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId, WorkerId
from oakestra.model.machine import Capacity, InstanceUsage
from oakestra.model.service import Application, InstanceAddress, Resources, ServiceAddresses, ServiceSpec
from oakestra.wire.native import WorkerSummary
from oakestra.wire.rest import (
    ClusterView,
    InstanceView,
    Seen,
    ServiceView,
    application_document,
    cluster_document,
    doubled,
    organization_document,
    service_document,
    user_document,
)

ID = "66aa0000000000000000000a"


class GoHistory(msgspec.Struct):
    """What the published Go client decodes, as it decodes it."""

    value: str
    timestamp: str


class GoInstance(msgspec.Struct, kw_only=True):
    instance_number: int
    cluster_id: str
    cluster_location: str
    status: str
    status_detail: str
    publicip: str
    host_ip: str
    host_port: int
    worker_id: str
    cpu_percent: str
    memory_percent: str
    disk: str
    logs: str
    last_modified_timestamp: float
    cpu_history: list[GoHistory]
    memory_history: list[GoHistory]


class GoService(msgspec.Struct, kw_only=True):
    microserviceID: str  # noqa: N815
    microservice_name: str
    microservice_namespace: str
    job_name: str
    applicationID: str  # noqa: N815
    app_name: str
    app_ns: str
    service_name: str
    service_ns: str
    image: str
    code: str
    virtualization: str
    next_instance_progressive_number: int
    RR_ip: str
    RR_ip_v6: str
    memory: int
    vcpus: int
    port: str
    instance_list: list[GoInstance]
    status: str | None = None
    status_detail: str | None = None


class GoCluster(msgspec.Struct, kw_only=True):
    _id: str
    candidate_name: str
    candidate_location: str
    cluster_name: str
    cluster_location: str
    ip: str
    port: str
    active: bool
    last_modified_timestamp: float
    active_nodes: int
    vcpus: int
    vgpus: int
    memory: int
    vram: int
    cpu_percent: float
    memory_percent: float
    gpu_percent: float
    gpu_temp: float
    vram_percent: float
    virtualization: list[str]
    supported_addons: list[str]
    csi_drivers: list[str]
    gpu_drivers: list[str]
    cpu_history: list[Any]
    memory_history: list[Any]
    aggregated_cpu_percent: float
    memory_in_mb: int
    total_cpu_cores: int
    total_gpu_cores: int


def service(**keys: Any) -> ServiceView:
    return ServiceView(
        spec=ServiceSpec(
            id=ServiceId(ID),
            application_id=ApplicationId(ID),
            tenant=OrganizationId(ID),
            name="shop.prod.web.front",
            image="nginx",
            addresses=ServiceAddresses(round_robin_v4="10.30.0.1", round_robin_v6="fdff:2000::1"),
        ),
        document={"memory": 64, "vcpus": 1, "port": "80", "_id": "mine", "status": "hacked", "later": [1]},
        next_slot=3,
        status=keys.get("status"),
        detail="",
        instances=keys.get("instances", ()),
    )


def test_an_instance_that_was_never_heard_of_has_every_key_in_its_type() -> None:
    document = service_document(
        service(instances=(InstanceView(number=0, status="REQUESTED"),), status="REQUESTED")
    )
    decoded = msgspec.json.decode(msgspec.json.encode(document), type=GoService, strict=True)
    assert decoded.instance_list[0].cluster_location == "location-unknown"
    assert decoded.instance_list[0].cpu_history == []
    assert decoded.status_detail == "No extra information"


def test_measurements_are_strings() -> None:
    view = InstanceView(
        number=2,
        status="RUNNING",
        cluster=ClusterId(ID),
        cluster_location="48.1,11.5,1000",
        worker=WorkerId(ID),
        host="192.0.2.1",
        tunnel_port=50103,
        address=InstanceAddress(v4="10.30.0.3"),
        usage=InstanceUsage(cpu_ratio=0.125, memory_bytes=1000, disk_bytes=7, log_tail="hi"),
        history=(Seen(0.0, 0.125, 1000.0),),
    )
    document = service_document(service(instances=(view,), status="RUNNING"))["instance_list"][0]
    msgspec.convert(document, GoInstance, strict=True)
    assert document["cpu_percent"] == "12.50"
    assert document["memory_percent"] == "1000"
    assert document["disk"] == "7"
    assert document["cpu_history"] == [{"value": "12.50", "timestamp": "1970-01-01T00:00:00"}]
    assert document["memory_history"] == [{"value": "1000", "timestamp": "1970-01-01T00:00:00"}]


def test_users_cannot_set_what_only_root_sets() -> None:
    document = service_document(service())
    assert document["_id"] == {"$oid": ID}
    assert "status" not in document
    assert dict(document)["later"] == [1]


def worker(name: str, *, live: bool = True) -> WorkerSummary:
    return WorkerSummary(
        id=WorkerId(name), name=name, host="192.0.2.1", live=live, instances=0,
        capacity=Capacity(
            resources=Resources(memory_mib=100, vcpus=4), architecture="amd64",
            virtualizations=("docker", "unikernel"),
        ),
        free=Resources(memory_mib=60, vcpus=3),
    )  # fmt: skip


def test_a_cluster_has_every_key_before_and_after_its_first_report() -> None:
    silent = ClusterView(
        id=ClusterId(ID), name="east", location="", host="", api_port=10100, active=False, seen_wall_s=0,
        cpu_ratio=0, memory_ratio=0, workers=(),
    )  # fmt: skip
    document = cluster_document(silent)
    assert document["_id"] == ID
    decoded = msgspec.json.decode(msgspec.json.encode(document), type=GoCluster, strict=True)
    assert decoded.virtualization == []
    workers = (worker("a"), worker("b"), worker("c", live=False))
    document = cluster_document(replace(silent, cpu_ratio=0.125, workers=workers))
    decoded = msgspec.json.decode(msgspec.json.encode(document), type=GoCluster, strict=True)
    assert decoded.active_nodes == 2
    assert decoded.total_cpu_cores == 8
    assert decoded.memory_in_mb == 120
    assert decoded.virtualization == ["docker", "unikernel"]
    assert decoded.aggregated_cpu_percent == 12.5


def test_applications_users_and_organizations() -> None:
    application = Application(
        id=ApplicationId(ID), name="shop", namespace="prod", description="", owner=UserId(ID),
        tenant=OrganizationId(ID),
    )  # fmt: skip
    document = application_document(application, owner="Admin", services=["s1"], extra={"_id": 1, "more": 2})
    assert document == {
        "_id": {"$oid": ID}, "applicationID": ID, "application_name": "shop", "application_namespace": "prod",
        "application_desc": "", "userId": "Admin", "microservices": ["s1"], "more": 2,
    }  # fmt: skip
    user = user_document(id=UserId(ID), name="eve", email="", created_at="")
    assert user["password"] == ""
    assert "roles" not in user
    organization = organization_document(
        id=OrganizationId(ID), name="acme", members=[(UserId(ID), ("Admin",))]
    )
    assert organization["member"] == [{"user_id": ID, "roles": ["Admin"]}]


def test_some_answers_must_be_parsed_twice() -> None:
    assert doubled([{"a": "ü"}]) == b'"[{\\"a\\":\\"\xc3\xbc\\"}]"\n'
