"""Misspelt keys of an SLA are told of, and what the original knows is not."""

from __future__ import annotations

from typing import Any

from oakestra.wire.unknown import unknown_keys


def sla(**keys: Any) -> dict[str, Any]:
    service = {"microservice_name": "web", "virtualization": "docker", "code": "web", "memory": 100, **keys}
    return {
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": [{"application_name": "shop", "microservices": [service]}],
    }


def test_what_nobody_knows_is_told_with_its_place_and_what_may_be_meant() -> None:
    place = "applications[0].microservices[0]"
    assert unknown_keys(sla(memroy=5, disconnect={"lost_after": 5})) == (
        f"{place}: no key is called 'memroy', so it has no effect; 'memory' may be meant",
        f"{place}.disconnect: no key is called 'lost_after', so it has no effect; 'lost_after_s' may be meant",
    )
    assert unknown_keys({**sla(), "zzz": 1}) == ("the SLA: no key is called 'zzz', so it has no effect",)


def test_what_is_known_or_no_sla_at_all_is_not_told_of() -> None:
    known = {
        "environment": {"A": "b"}, "addresses": {"rr_ip": "10.30.0.5"}, "connectivity": [],
        "constraints": [{"type": "latency", "area": "munich"}], "state": "", "added_files": [], "port": "80",
        "sla_violation_strategy": "", "target_node": "", "args": ["a"], "cmd": ["b"],
    }  # fmt: skip
    assert unknown_keys(sla(**known)) == ()
    nothing: tuple[object, ...] = (None, 3, [], {"applications": 5}, {"applications": [5]})
    for document in nothing:
        assert unknown_keys(document) == ()
