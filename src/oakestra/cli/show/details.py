"""What there is to say about one service. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from oakestra.cli.client import Document
from oakestra.cli.show.cells import (
    counted,
    hindrance,
    image,
    mebibytes,
    readiness,
    service_condition,
    updated,
    wanted,
)
from oakestra.cli.show.table import facts


def service_facts(service: Document) -> str:
    """Return a service's spec and state, a fact a line; what was not asked for is left out."""
    spec = service["spec"]
    addresses = spec["addresses"]
    return facts(
        [
            ("service", service["name"]),
            ("id", service["id"]),
            ("application", ".".join(service["name"].split(".")[:2])),
            ("status", service_condition(service)),
            ("reason", hindrance(service)),
            ("ready", f"{readiness(service)} instances"),
            ("image", image(service)),
            ("revision", str(spec["revision"])),
            ("update", _update(service)),
            ("update policy", _policy(spec["update"])),
            ("health check", _check(spec["health_check"])),
            ("runtime", spec["virtualization"]),
            ("command", " ".join(spec["command"])),
            ("environment", " ".join(spec["environment"])),
            ("needs", _needs(spec)),
            ("machines", ", ".join(spec["architectures"])),
            ("round robin", _both(addresses["round_robin_v4"], addresses["round_robin_v6"])),
            ("closest", _both(addresses["closest_v4"], addresses["closest_v6"])),
            ("ports", ", ".join(_ports(spec))),
            ("constraints", "; ".join(_rule(rule) for rule in spec["constraints"])),
            ("restarts", spec["restart"].replace("_", " ")),
            ("runs once", "yes" if spec["one_shot"] else ""),
            ("privileged", "yes" if spec["privileged"] else ""),
        ]
    )


def _update(service: Document) -> str:
    """Return how the last update stands, and why."""
    rollout = service["rollout"]
    if not rollout:
        return ""
    said = f"{len(updated(service))} of {len(wanted(service))} updated"
    why = "; ".join(
        part for part in (said if rollout["state"] == "rolling" else "", rollout["reason"]) if part
    )
    return f"{rollout['state'].replace('_', ' ')}{f': {why}' if why else ''}"


def _policy(policy: Document) -> str:
    order = policy["order"].replace("_", " ")
    failing = "goes back" if policy["rollback"] else "stays as it is"
    return (
        f"{order}, {policy['parallel']} at a time in each cluster, ready for {policy['min_ready_s']:g} s each; "
        f"done when all are ready for {policy['monitor_s']:g} s; {failing} after {policy['progress_deadline_s']:g} s "
        "without progress"
    )


def _check(check: Document | None) -> str:
    if not check:
        return ""
    asked = {
        "http": f"http port {check['port']} {check['path']}",
        "tcp": f"tcp port {check['port']}",
        "exec": f"exec {' '.join(check['command'])}",
    }.get(check["kind"], str(check["kind"]))
    again_s = check["restart_after_s"]
    return (
        f"{asked} every {check['interval_s']:g} s, within {check['timeout_s']:g} s; "
        f"unhealthy after {check['unhealthy_threshold']} in a row"
        + ("" if again_s is None else f", started again after {again_s:g} s of that")
    )


def _needs(spec: Document) -> str:
    needs = spec["resources"]
    parts = [
        (needs["memory_mib"], f"{mebibytes(needs['memory_mib'])} memory"),
        (needs["vcpus"], counted(needs["vcpus"], "vcpu")),
        (needs["vgpus"], counted(needs["vgpus"], "gpu")),
        (needs["vtpus"], counted(needs["vtpus"], "tpu")),
        (needs["storage_mib"], f"{mebibytes(needs['storage_mib'])} storage"),
    ]
    return ", ".join(text for amount, text in parts if amount)


def _both(v4: str, v6: str) -> str:
    return ", ".join(address for address in (v4, v6) if address)


def _ports(spec: Document) -> Iterable[str]:
    return (f"{port['host_port']} → {port['container_port']}/{port['protocol']}" for port in spec["ports"])


def _rule(rule: Document) -> str:
    """Return a constraint and what it says: `direct cluster=east nodes=w1,w2`."""
    parts = [
        f"{key}={','.join(value) if isinstance(value, list) else value}"
        for key, value in rule.items()
        if key != "kind" and value
    ]
    return " ".join([rule["kind"], *parts])
