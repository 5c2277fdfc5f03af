"""What tables of services, instances, workers and clusters have to say. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from oakestra.cli.client import Document
from oakestra.cli.client.names import short_names
from oakestra.cli.show.cells import (
    age,
    condition,
    duration,
    hindrance,
    image,
    mebibytes,
    painted,
    painted_readiness,
    percent,
    readiness,
    service_condition,
    size,
    why,
    yes,
)
from oakestra.cli.show.table import Column


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy:
    """An instance with the names that its service gives it."""

    name: str
    service: Document
    instance: Document


def copies(services: Sequence[Document], *, among: Sequence[Document] | None = None) -> list[Copy]:
    """Return every instance of `services`; names are as short as they can be `among` all services."""
    names = short_names(among or services)
    return [
        Copy(name=f"{names[service['id']]}.{instance['number']}", service=service, instance=instance)
        for service in services
        for instance in service["instances"]
    ]


def service_columns(services: Sequence[Document]) -> list[Column[Document]]:
    """Return the columns of a table of services; names are as short as they can be among these."""
    names = short_names(services)
    return [
        Column("SERVICE", lambda service: names[service["id"]]),
        Column("STATUS", service_condition, paint=painted),
        Column("READY", readiness, paint=painted_readiness),
        Column("ADDRESS", lambda service: service["spec"]["addresses"]["round_robin_v4"]),
        Column("IMAGE", image),
        Column("FULL NAME", lambda service: service["name"], wide=True),
        Column("ID", lambda service: service["id"], wide=True),
        Column("REASON", hindrance),
    ]


def instance_columns(now_wall_s: float) -> list[Column[Copy]]:
    """Return the columns of a table of instances; ages are told by root's time."""
    return [
        Column("INSTANCE", lambda copy: copy.name),
        Column("STATUS", lambda copy: condition(copy.instance), paint=painted),
        Column("READY", lambda copy: yes(copy.instance["ready"]), paint=painted),
        Column("CLUSTER", lambda copy: copy.instance["cluster"]),
        Column("WORKER", lambda copy: copy.instance["worker"]),
        Column("ADDRESS", lambda copy: copy.instance["address"]["v4"]),
        Column("RESTARTS", lambda copy: str(copy.instance["restart"])),
        Column("AGE", lambda copy: age(copy.instance["requested_wall_s"], now_wall_s)),
        Column("CPU", _cpu, wide=True),
        Column("MEMORY", _memory, wide=True),
        Column("HOST", lambda copy: copy.instance["host"], wide=True),
        Column("OWN ADDRESS", lambda copy: copy.instance["namespace_address"]["v4"], wide=True),
        Column("IPV6", lambda copy: copy.instance["address"]["v6"], wide=True),
        Column("REASON", lambda copy: why(copy.instance)),
    ]


def heard(cluster: Document) -> str:
    """Return when root last heard of a cluster."""
    silent_s = cluster["silent_s"]
    return "never" if silent_s is None else f"{duration(silent_s)} ago"


def _live(machine: Document) -> str:
    """Return whether it lives, as far as anybody knows, and whether it takes instances."""
    out = "" if machine["availability"] == "active" else f", {machine['availability']}"
    unknown = machine.get("liveness") == "unknown"
    return ("unknown" if unknown else yes(machine["live"])) + out


def _held(worker: Document) -> str:
    """Return how many instances a worker has; nothing while nobody knows."""
    return "" if worker.get("liveness") == "unknown" else str(worker["instances"])


def _free(worker: Document, kind: str) -> int | None:
    """Return what is free on a worker; None while nobody knows."""
    return worker["free"][kind] if worker["free"] is not None else None


def _free_mebibytes(worker: Document, kind: str) -> str:
    free = _free(worker, kind)
    return "" if free is None else mebibytes(free)


def _free_vcpus(worker: Document) -> str:
    free = _free(worker, "vcpus")
    return "" if free is None else str(free)


WORKER_COLUMNS: tuple[Column[Document], ...] = (
    Column("WORKER", lambda worker: worker["name"]),
    Column("CLUSTER", lambda worker: worker["cluster"]),
    Column("LIVE", _live, paint=painted),
    Column("INSTANCES", _held),
    Column("FREE VCPUS", _free_vcpus),
    Column("FREE MEMORY", lambda worker: _free_mebibytes(worker, "memory_mib")),
    Column("CORES", lambda worker: str(worker["total"]["vcpus"]), wide=True),
    Column("MEMORY", lambda worker: mebibytes(worker["total"]["memory_mib"]), wide=True),
    Column("FREE STORAGE", lambda worker: _free_mebibytes(worker, "storage_mib"), wide=True),
    Column("FREE GPUS", lambda worker: _of(worker, "vgpus"), wide=True),
    Column("CPU LOAD", lambda worker: _load(worker, "cpu_ratio")),
    Column("MEMORY USED", lambda worker: _load(worker, "memory_ratio")),
    Column("DISK USED", lambda worker: _load(worker, "disk_ratio"), wide=True),
    Column("MACHINE", lambda worker: worker["architecture"], wide=True),
    Column("RUNTIMES", lambda worker: ",".join(worker["virtualizations"]), wide=True),
    Column("HEARD", heard, wide=True),
    Column("ID", lambda worker: worker["id"], wide=True),
    Column("HOST", lambda worker: worker["host"]),
    Column("TROUBLE", lambda worker: worker["trouble"], wide=True),
)

CLUSTER_COLUMNS: tuple[Column[Document], ...] = (
    Column("CLUSTER", lambda cluster: cluster["name"]),
    Column("LIVE", _live, paint=painted),
    Column(
        "WORKERS", lambda cluster: f"{cluster['workers_live']}/{cluster['workers']}", paint=painted_readiness
    ),
    Column("INSTANCES", lambda cluster: str(cluster["instances"])),
    Column("FREE VCPUS", lambda cluster: str(cluster["free"]["vcpus"])),
    Column("FREE MEMORY", lambda cluster: mebibytes(cluster["free"]["memory_mib"])),
    Column("CORES", lambda cluster: str(cluster["total"]["vcpus"]), wide=True),
    Column("MEMORY", lambda cluster: mebibytes(cluster["total"]["memory_mib"]), wide=True),
    Column("HEARD", heard),
    Column("LOCATION", lambda cluster: cluster["location"], wide=True),
    Column("ID", lambda cluster: cluster["id"], wide=True),
    Column("HOST", lambda cluster: cluster["host"]),
)


def _load(worker: Document, ratio: str) -> str:
    """Return a measured share; nothing before there was a measurement."""
    usage = worker["usage"]
    return percent(usage[ratio]) if usage else ""


def _of(machine: Document, kind: str) -> str:
    free = _free(machine, kind)
    return f"{'-' if free is None else free}/{machine['total'][kind]}"


def _cpu(copy: Copy) -> str:
    usage = copy.instance["usage"]
    return percent(usage["cpu_ratio"]) if usage else ""


def _memory(copy: Copy) -> str:
    usage = copy.instance["usage"]
    return size(usage["memory_bytes"]) if usage else ""
