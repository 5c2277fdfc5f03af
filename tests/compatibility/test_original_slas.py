"""SLA documents as the original's own tests have them, made anew: what it accepts we accept, what it refuses we refuse."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from root_api import start_api

LATENCY = {
    "type": "latency",
    "area": "munich-1",
    "threshold": 100,
    "rigidness": 0.99,
    "convergence_time": 300,
}
FULL = {
    "microserviceID": "", "microservice_name": "front", "microservice_namespace": "ns", "virtualization": "container",
    "memory": 100, "vcpus": 1, "vgpus": 0, "vtpus": 0, "bandwidth_in": 0, "bandwidth_out": 0, "storage": 0,
    "code": "docker.io/x/y:z", "state": "", "port": "9080", "added_files": [], "args": [],
    "addresses": {"RR_ip": "10.30.30.30"}, "constraints": [LATENCY, {**LATENCY, "area": "hamburg-2"}],
    "connectivity": [
        {"target_microservice_id": "back", "con_constraints": []},
        {"target_microservice_id": "db", "con_constraints": [
            {"type": "latency", "threshold": 10, "rigidness": 0.5, "convergence_time": 300}]},
    ],
}  # fmt: skip
PLAIN = {"microservice_name": "a1", "microservice_namespace": "b2", "virtualization": "docker", "code": "x"}
AMOUNTS = ("memory", "vcpus", "vgpus", "vtpus", "bandwidth_in", "bandwidth_out", "storage")


def document(*services: dict[str, Any], version: str | None = "v2.0", **application: Any) -> dict[str, Any]:
    """Return an SLA of one application; a key that is None is left out."""
    keys = {"application_name": "42", "application_namespace": "default", **application}
    sla = {
        "customerID": "10",
        "args": [],
        "applications": [
            {**{k: v for k, v in keys.items() if v is not None}, "microservices": list(services)}
        ],
    }
    return sla if version is None else {"sla_version": version, **sla}


GOOD = {
    "full": document(FULL, applicationID="", application_desc="demo"),
    "without amounts": document(PLAIN),
    "amounts of nothing": document({**PLAIN, **dict.fromkeys(AMOUNTS, 0)}),
    "without services": document(),
    "what only later parts look at": document(
        {**PLAIN, "arch": ["amd64"], "vm_images": [1], "platform": {"x": 1}}
    ),
    "whole numbers with a point": document({**PLAIN, "memory": 64.0}),
}
BAD = {
    "no version": (document(version=None) | {"api_version": "v2.0"}, "sla_version"),
    "the old version": (document(version="v1.0"), "sla_version"),
    "nothing": ({}, "sla_version"),
    "a space in the name": (document(PLAIN, application_name="my app"), "application_name"),
    "no namespace": (document(PLAIN, application_namespace=None), "application_namespace"),
    "no namespace of the service": (
        document({key: value for key, value in PLAIN.items() if key != "microservice_namespace"}),
        "microservice_namespace",
    ),
    "an id of ones own": (document({**PLAIN, "microserviceID": "4"}), "microserviceID"),
    "a number for a name": (document({**PLAIN, "microservice_name": 4}), "microservice_name"),
    "a number for a port": (document({**PLAIN, "port": 9080}), "port"),
    "dots in the name": (document({**PLAIN, "microservice_name": "a.b"}), "microservice_name"),
    "a hyphen in the name": (document({**PLAIN, "microservice_name": "a-b"}), "microservice_name"),
    "text for a command": (document({**PLAIN, "cmd": "sh -c true"}), "cmd"),
    "half a core": (document({**PLAIN, "vcpus": 0.5}), "vcpus"),
    "a condition without a type": (
        document(
            {**PLAIN, "connectivity": [{"target_microservice_id": "", "con_constraints": [{"threshold": 1}]}]}
        ),
        "con_constraints[0]",
    ),
    "an untouched latency form": (
        document(
            {**PLAIN, "constraints": [{"type": "latency", "area": "", "threshold": "", "rigidness": ""}]}
        ),
        "constraints[0].threshold",
    ),
    "a unikernel for no architecture": (document({**PLAIN, "virtualization": "unikernel"}), "arch"),
}


def posted(directory: Path, sla: dict[str, Any]) -> tuple[int, Any]:
    """Return the status and the body of the answer to an SLA."""

    async def post() -> tuple[int, Any]:
        admin = await (await start_api(directory)).admin()
        reply = await admin.post("/api/application/", sla)
        return reply.status, reply.json()

    return asyncio.run(post())


@pytest.mark.parametrize("name", GOOD)
def test_what_the_original_accepts(tmp_path: Path, name: str) -> None:
    status, body = posted(tmp_path, GOOD[name])
    assert status == 200, body


@pytest.mark.parametrize("name", BAD)
def test_what_the_original_refuses(tmp_path: Path, name: str) -> None:
    sla, place = BAD[name]
    status, body = posted(tmp_path, sla)
    assert (status, place in body["message"]) == (422, True), body
