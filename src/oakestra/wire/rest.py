"""Render what root knows as the original's REST documents: its keys, its types, its three encodings.

Published clients decode strictly: instance measurements are strings, capacities are integers without a fraction,
lists are never missing. Every key is always there, with a default.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

import msgspec

from oakestra.model.ids import ClusterId, OrganizationId, UserId, WorkerId
from oakestra.model.machine import InstanceUsage
from oakestra.model.service import Application, InstanceAddress, ServiceSpec
from oakestra.wire.documents import (
    ApplicationDocument,
    ArchitectureSums,
    ClusterDocument,
    InstanceDocument,
    Load,
    Measured,
    ObjectId,
    OrganizationDocument,
    ServiceDocument,
    UserDocument,
)
from oakestra.wire.native import WorkerSummary

LOCATION_UNKNOWN = "location-unknown"
NO_DETAIL = "No extra information"
NO_WORKER = WorkerId("")
NO_ADDRESS = InstanceAddress()
_ROOTS_OWN = ("_id", "status", "status_detail", "instance_list", "next_instance_progressive_number")
"""Keys of a service that only root sets, whatever the SLA said."""


class Seen(NamedTuple):
    """What was measured at a time: of an instance its memory in bytes, of a cluster as a ratio."""

    at_wall_s: float
    cpu_ratio: float
    memory: float


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """A slot as the API shows it."""

    number: int
    status: str
    detail: str = ""
    cluster: ClusterId | None = None
    cluster_location: str = ""
    worker: WorkerId = NO_WORKER
    host: str = ""
    tunnel_port: int = 0
    address: InstanceAddress = NO_ADDRESS
    usage: InstanceUsage | None = None
    history: Sequence[Seen] = ()
    """The oldest first."""
    changed_wall_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceView:
    """A service as the API shows it."""

    spec: ServiceSpec
    document: Mapping[str, Any]
    next_slot: int
    status: str | None
    detail: str
    instances: tuple[InstanceView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterView:
    """A cluster as the API shows it."""

    id: ClusterId
    name: str
    location: str
    host: str
    api_port: int
    active: bool
    seen_wall_s: float
    cpu_ratio: float
    memory_ratio: float
    workers: tuple[WorkerSummary, ...]
    history: Sequence[Seen] = ()


def plain(value: object) -> bytes:
    """Return a value as JSON."""
    return msgspec.json.encode(value)


def doubled(value: object) -> bytes:
    """Return a value as a JSON string that holds JSON: some of the original's answers must be parsed twice."""
    return msgspec.json.encode(msgspec.json.encode(value).decode()) + b"\n"


def object_id(id: str) -> ObjectId:
    """Return an id as the original's database writes it."""
    return {"$oid": id}


def application_document(
    application: Application, *, owner: str, services: Sequence[str], extra: Mapping[str, Any]
) -> ApplicationDocument:
    """Return an application; `owner` is its owner's user name."""
    known: ApplicationDocument = {
        "_id": object_id(application.id),
        "applicationID": application.id,
        "application_name": application.name,
        "application_namespace": application.namespace,
        "application_desc": application.description,
        "userId": owner,
        "microservices": list(services),
    }
    return cast("ApplicationDocument", {**extra, **known})


def service_document(service: ServiceView) -> ServiceDocument:
    """Return a service with its instances; `status` is absent until somebody asked for an instance."""
    spec = service.spec
    app_name, app_namespace, name, namespace = spec.name.split(".")
    known: ServiceDocument = {
        "_id": object_id(spec.id),
        "microserviceID": spec.id,
        "applicationID": spec.application_id,
        "job_name": spec.name,
        "app_name": app_name,
        "app_ns": app_namespace,
        "microservice_name": name,
        "microservice_namespace": namespace,
        "service_name": name,
        "service_ns": namespace,
        "virtualization": spec.virtualization,
        "image": spec.image,
        "code": spec.image,
        "cmd": list(spec.command),
        "next_instance_progressive_number": service.next_slot,
        "instance_list": [instance_document(instance) for instance in service.instances],
        "RR_ip": spec.addresses.round_robin_v4,
        "RR_ip_v6": spec.addresses.round_robin_v6,
    }
    if service.status is not None:
        known |= {"status": service.status, "status_detail": service.detail or NO_DETAIL}
    sent = {key: value for key, value in service.document.items() if key not in _ROOTS_OWN}
    return cast("ServiceDocument", {**sent, **known})


def instance_document(instance: InstanceView) -> InstanceDocument:
    """Return an instance. Measurements are strings."""
    usage = instance.usage or InstanceUsage()
    return {
        "instance_number": instance.number,
        "cluster_id": instance.cluster or "",
        "cluster_location": instance.cluster_location or LOCATION_UNKNOWN,
        "status": instance.status,
        "status_detail": instance.detail or NO_DETAIL,
        "publicip": instance.host,
        "host_ip": instance.host,
        "host_port": instance.tunnel_port,
        "worker_id": instance.worker,
        "instance_ip": instance.address.v4,
        "instance_ip_v6": instance.address.v6,
        "cpu_percent": _percent(usage.cpu_ratio),
        "memory_percent": str(usage.memory_bytes),
        "disk": str(usage.disk_bytes),
        "logs": usage.log_tail,
        "last_modified_timestamp": float(instance.changed_wall_s),
        "cpu_history": [_measured(seen, _percent(seen.cpu_ratio)) for seen in instance.history],
        "memory_history": [_measured(seen, str(int(seen.memory))) for seen in instance.history],
    }


def cluster_document(cluster: ClusterView) -> ClusterDocument:
    """Return a cluster under the newer names and their older aliases. Its `_id` is a plain string."""
    live = [worker for worker in cluster.workers if worker.live]
    totals = [worker.capacity.resources for worker in live]
    cpu_percent = round(cluster.cpu_ratio * 100, 2)
    memory_mib = sum(worker.free.memory_mib for worker in live)
    vcpus, vgpus = sum(total.vcpus for total in totals), sum(total.vgpus for total in totals)
    return {
        "_id": cluster.id,
        "candidate_name": cluster.name,
        "candidate_location": cluster.location,
        "cluster_name": cluster.name,
        "cluster_location": cluster.location or "Unknown Location",
        "ip": cluster.host,
        "port": str(cluster.api_port),
        "active": cluster.active,
        "last_modified_timestamp": float(cluster.seen_wall_s),
        "active_nodes": len(live),
        "cpu_percent": cpu_percent,
        "aggregated_cpu_percent": cpu_percent,
        "memory_percent": round(cluster.memory_ratio * 100, 2),
        "memory": memory_mib,
        "memory_in_mb": memory_mib,
        "vcpus": vcpus,
        "total_cpu_cores": vcpus,
        "vgpus": vgpus,
        "total_gpu_cores": vgpus,
        "gpu_percent": 0,
        "gpu_temp": 0.0,
        "gpu_drivers": [],
        "vram": 0,
        "vram_percent": 0.0,
        "virtualization": _distinct(worker.capacity.virtualizations for worker in live),
        "supported_addons": _distinct(worker.capacity.addons for worker in live),
        "csi_drivers": _distinct(worker.capacity.csi_drivers for worker in live),
        "cpu_history": [_load(seen, seen.cpu_ratio) for seen in cluster.history],
        "memory_history": [_load(seen, seen.memory) for seen in cluster.history],
        "aggregation_per_architecture": _by_architecture(live),
    }


def user_document(
    *, id: UserId, name: str, email: str, created_at: str, roles: Sequence[str] | None = None
) -> UserDocument:
    """Return a user. The key `password` is there, as clients send the whole user back; it is always empty."""
    document: UserDocument = {
        "_id": object_id(id),
        "name": name,
        "email": email,
        "password": "",
        "created_at": created_at,
    }
    if roles is not None:
        document["roles"] = list(roles)
    return document


def organization_document(
    *, id: OrganizationId, name: str, members: Iterable[tuple[UserId, Sequence[str]]]
) -> OrganizationDocument:
    """Return an organization with its members and their roles."""
    return {
        "_id": object_id(id),
        "name": name,
        "member": [{"user_id": user, "roles": list(roles)} for user, roles in members],
    }


def _percent(ratio: float) -> str:
    return f"{ratio * 100:.2f}"


def _measured(seen: Seen, value: str) -> Measured:
    at = datetime.fromtimestamp(seen.at_wall_s, UTC).replace(tzinfo=None)
    return {"value": value, "timestamp": at.isoformat()}


def _load(seen: Seen, ratio: float) -> Load:
    return {"value": round(ratio * 100, 2), "timestamp": seen.at_wall_s}


def _distinct(names: Iterable[Iterable[str]]) -> list[str]:
    return list(dict.fromkeys(name for some in names for name in some))


def _by_architecture(workers: Sequence[WorkerSummary]) -> dict[str, ArchitectureSums]:
    found: dict[str, ArchitectureSums] = {}
    for worker in workers:
        sums = found.setdefault(
            worker.capacity.architecture, {"cpu_cores": 0, "memory": 0, "memory_in_mb": 0}
        )
        sums["cpu_cores"] += worker.capacity.resources.vcpus
        sums["memory"] += worker.free.memory_mib
        sums["memory_in_mb"] += worker.free.memory_mib
    return found
