"""What `oak service inspect` says of a service, a fact a line."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from oakestra.cli.show.details import service_facts
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.service import CheckKind, HealthCheck, ServiceSpec


def told(**keys: Any) -> str:
    spec = asdict(
        ServiceSpec(
            id=ServiceId("s"), application_id=ApplicationId("a"), tenant=OrganizationId("t"),
            name="shop.prod.web.front", image="example:2", revision=2,
            health_check=HealthCheck(kind=CheckKind.HTTP, port=80, path="/up"),
        )
    )  # fmt: skip
    instance = {"number": 0, "wanted": True, "ready": True, "revision": 1, "status": "RUNNING"}
    service = {
        "id": "s", "name": "shop.prod.web.front", "status": "RUNNING", "detail": "its health check passes",
        "spec": spec, "rollout": None, "instances": [instance], **keys,
    }  # fmt: skip
    return service_facts(service)


def test_an_update_its_policy_and_the_health_check_have_a_line_each() -> None:
    lines = told(rollout={"state": "rolling", "reason": "instance 0: PULLING no such image"}).splitlines()
    facts = {line[:15].strip(): line[15:] for line in lines}
    assert facts["application"] == "shop.prod"
    assert facts["revision"] == "2"
    assert facts["image"] == "example:2 (0/1 updated)"
    assert facts["update"] == "rolling: 0 of 1 updated; instance 0: PULLING no such image"
    assert facts["update policy"].startswith("start first, 1 at a time")
    assert facts["health check"].startswith(
        "http port 80 /up every 5 s, within 2 s; unhealthy after 3 in a row"
    )


def test_one_instances_reason_is_not_the_services() -> None:
    assert "its health check passes" not in told()


def test_how_an_update_failed_stays_to_be_read() -> None:
    why = "instance 0 of revision 2 has failed: no such image"
    assert f"rolled back: {why}" in told(rollout={"state": "rolled_back", "reason": why})
