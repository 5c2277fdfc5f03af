"""Whatever JSON arrives, it is understood or refused with a sentence; nothing else can happen."""

from __future__ import annotations

from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.service import ServiceAddresses
from oakestra.wire.sla import Sla, SlaInvalid, parse_sla, service_spec
from sla_samples import application, microservice, sla

scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(1 << 70), 1 << 70)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["10.30.0.1", "fdff:2000::1", "80:80", "A=1", "direct", "unikernel", "v2.0"])
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
)
KEYS = (
    "microserviceID", "microservice_name", "microservice_namespace", "virtualization", "code", "memory", "vcpus",
    "storage", "port", "one_shot", "privileged", "restart", "cmd", "environment", "arch", "addresses", "volumes",
    "constraints", "connectivity", "args", "state",
)  # fmt: skip
INNER = (
    "type", "cluster", "node", "allowed", "needs", "area", "threshold", "rr_ip", "rr_ip_v6", "instances",
    "volume_id", "csi_driver", "config", "target_microservice_id", "con_constraints",
)  # fmt: skip
parts = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=4),
)
services = st.dictionaries(st.sampled_from(KEYS), parts, max_size=8)


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
    msgspec.json.encode(parsed)
    return parsed


@given(values)
def test_any_json(document: Any) -> None:
    accepted(document)


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
