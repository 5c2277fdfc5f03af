"""Whatever JSON arrives, it is understood or refused with a sentence; nothing else can happen."""

from __future__ import annotations

from typing import Any

import jsonschema
import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.service import ServiceAddresses
from oakestra.wire.sla import SLA_SCHEMA, Sla, SlaInvalid, parse_sla, service_spec
from sla_samples import application, microservice, sla

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.integers(0, 2)
    | st.sampled_from(["10.30.0.1", "fdff:2000::1", "80:80", "A=1", "direct", "unikernel", "v2.0"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
INNER = (
    "type", "cluster", "node", "allowed", "needs", "area", "threshold", "rr_ip", "rr_ip_v6", "instances",
    "volume_id", "csi_driver", "config", "target_microservice_id", "con_constraints",
    "http", "tcp", "exec", "port", "path", "command", "interval_s", "unhealthy_threshold", "restart_after_s",
)  # fmt: skip
parts = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
)
names = st.from_regex("[a-zA-Z0-9]{1,30}", fullmatch=True)
texts = st.lists(st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=5), max_size=3)
amounts = st.integers(0, 2) | st.sampled_from([1.0, 1 << 40])
good: dict[str, st.SearchStrategy[Any]] = {
    "microserviceID": st.just(""),
    "microservice_name": names,
    "microservice_namespace": names,
    "virtualization": st.sampled_from(["container", "docker", "vm"]),
    "code": st.sampled_from(["nginx", "oci-archive:/a.tar", "https://x.test/a.tar.gz"]),
    "memory": amounts,
    "vcpus": amounts,
    "storage": amounts,
    "port": st.sampled_from(["", "80", "8080:80/udp;90"]),
    "one_shot": st.booleans(),
    "privileged": st.booleans(),
    "restart": st.sampled_from(["always", "on_failure", "never"]),
    "health_check": st.sampled_from(
        [
            {"http": {"port": 80.0, "path": "/up"}, "interval_s": 1.5, "restart_after_s": "never"},
            {"tcp": {"port": 65535}, "healthy_threshold": 2.0, "start_period_s": 0},
            {"exec": {"command": ["true"]}, "restart_after_s": 0.5},
        ]
    ),
    "cmd": texts,
    "args": texts,
    "arch": texts,
    "state": st.just(""),
    "environment": st.lists(st.sampled_from(["A=1", "", "B="])),
    "addresses": st.sampled_from([{}, {"rr_ip": "10.30.0.9"}, {"rr_ip_v6": "fdff:2000::9", "instances": []}]),
    "RR_ip": st.sampled_from(["", "10.30.0.8"]),
    "RR_ip_v6": st.sampled_from(["", "fdff:2000::8"]),
    "volumes": st.lists(st.just({"volume_id": "v", "csi_driver": "c", "config": {"a": "b"}}), max_size=2),
    "constraints": st.lists(
        st.sampled_from(
            [
                {"type": "direct", "cluster": "east", "node": "n1;n2"},
                {"type": "clusters", "allowed": ["east"]},
                {"type": "latency", "area": "a", "threshold": 1.5, "rigidness": 0, "convergence_time": 3},
            ]
        ),
        max_size=2,
    ),
    "connectivity": st.lists(st.just({"target_microservice_id": "", "con_constraints": []}), max_size=2),
}
good_services = st.fixed_dictionaries({}, optional=good)
services = st.fixed_dictionaries({}, optional={key: likely | parts for key, likely in good.items()})


def accepted(document: object) -> Sla | None:
    """Parse; what comes back must be usable to the end."""
    try:
        parsed = parse_sla(document)
    except SlaInvalid:
        return None
    for found in parsed.applications:
        for service in found.microservices:
            spec = service_spec(
                service,
                id=ServiceId("a" * 24),
                application_id=ApplicationId("b" * 24),
                tenant=OrganizationId("c" * 24),
                application=(found.name, found.namespace),
                addresses=ServiceAddresses(),
            )
            assert spec.name.count(".") == 3
            assert spec.resources.memory_mib >= 0
    if isinstance(document, dict):
        jsonschema.validate(document, SLA_SCHEMA)  # the description lets through what is accepted
    msgspec.json.encode(parsed)
    return parsed


@given(values)
def test_any_json(document: Any) -> None:
    accepted(document)


@given(good_services)
def test_a_good_service_is_accepted(keys: dict[str, Any]) -> None:
    assert accepted(sla(application({**microservice(), **keys}))) is not None


@given(services)
def test_any_service_in_a_good_document(keys: dict[str, Any]) -> None:
    accepted(sla(application({**microservice(), **keys})))


@given(st.binary(max_size=200) | st.text(max_size=200))
def test_any_text(document: bytes | str) -> None:
    accepted(document)


@given(services)
def test_what_was_accepted_is_accepted_again_from_what_is_kept(keys: dict[str, Any]) -> None:
    parsed = accepted(sla(application({**microservice(), **keys})))
    if parsed is not None:
        kept = parsed.applications[0].microservices[0]
        assert parse_sla(sla(application(kept.document))).applications[0].microservices[0] == kept
