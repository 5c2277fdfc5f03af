"""The original's REST documents, key by key. Types are what its published clients decode strictly."""

from __future__ import annotations

from typing import NotRequired, TypedDict

ObjectId = TypedDict("ObjectId", {"$oid": str})
"""An id as the original's database writes it."""


class ApplicationDocument(TypedDict):
    """An application. Further keys of its SLA are there, too."""

    _id: ObjectId
    applicationID: str
    application_name: str
    application_namespace: str
    application_desc: str
    userId: str
    microservices: list[str]


class Measured(TypedDict):
    """One point of an instance's history: the time is UTC, without a zone."""

    value: str
    timestamp: str


class InstanceDocument(TypedDict):
    """An instance. Measurements are text: CPU in percent of one core, memory and disk in bytes."""

    instance_number: int
    cluster_id: str
    cluster_location: str
    status: str
    status_detail: str
    publicip: str
    host_ip: str
    host_port: int
    worker_id: str
    instance_ip: str
    instance_ip_v6: str
    cpu_percent: str
    memory_percent: str
    disk: str
    logs: str
    last_modified_timestamp: float
    cpu_history: list[Measured]
    memory_history: list[Measured]


class ServiceDocument(TypedDict):
    """A service with its instances. Further keys of its SLA are there, too."""

    _id: ObjectId
    microserviceID: str
    applicationID: str
    job_name: str
    app_name: str
    app_ns: str
    microservice_name: str
    microservice_namespace: str
    service_name: str
    service_ns: str
    virtualization: str
    image: str
    code: str
    cmd: list[str]
    next_instance_progressive_number: int
    instance_list: list[InstanceDocument]
    RR_ip: str
    RR_ip_v6: str
    status: NotRequired[str]
    status_detail: NotRequired[str]


class Load(TypedDict):
    """One point of a cluster's history."""

    value: float
    timestamp: float


class ArchitectureSums(TypedDict):
    """What a cluster's live workers of one architecture have together."""

    cpu_cores: int
    memory: int
    memory_in_mb: int


class ClusterDocument(TypedDict):
    """A cluster under the newer names and their older aliases. Its `_id` is plain text."""

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
    cpu_percent: float
    aggregated_cpu_percent: float
    memory_percent: float
    memory: int
    memory_in_mb: int
    vcpus: int
    total_cpu_cores: int
    vgpus: int
    total_gpu_cores: int
    gpu_percent: int
    gpu_temp: float
    gpu_drivers: list[str]
    vram: int
    vram_percent: float
    virtualization: list[str]
    supported_addons: list[str]
    csi_drivers: list[str]
    cpu_history: list[Load]
    memory_history: list[Load]
    aggregation_per_architecture: dict[str, ArchitectureSums]


class UserDocument(TypedDict):
    """A user. `password` is always empty; `roles` are there where it is clear in which organization."""

    _id: ObjectId
    name: str
    email: str
    password: str
    created_at: str
    roles: NotRequired[list[str]]


class MemberDocument(TypedDict):
    """A user's roles in an organization."""

    user_id: str
    roles: list[str]


class OrganizationDocument(TypedDict):
    """An organization with its members."""

    _id: ObjectId
    name: str
    member: list[MemberDocument]
