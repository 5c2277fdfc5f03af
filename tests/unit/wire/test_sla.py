"""SLA documents are understood as the original does, and mistakes are named with their place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from oakestra.model.errors import Invalid
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.service import (
    Constraint,
    ConstraintKind,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceAddresses,
    TransportProtocol,
)
from oakestra.wire.sla import Microservice, SlaInvalid, parse_ports, parse_sla, service_spec
from sla_samples import application, microservice, sla

COMPLETE = microservice(
    cmd=["sh", "-c", "true"],
    environment=["A=1", "", "B="],
    memory=100,
    vcpus=1.0,
    vgpus=0,
    storage=5,
    bandwidth_in=0,
    port="8080:80; 9090/udp",
    one_shot=False,
    privileged=True,
    arch=["amd64"],
    addresses={"rr_ip": "10.30.5.5", "rr_ip_v6": "fdff:2000::5", "RR_ip": "kept"},
    volumes=[{"volume_id": "v", "csi_driver": "fast", "config": {"a": "b"}}],
    constraints=[
        {"type": "direct", "cluster": "site1", "node": "n1; n2"},
        {"type": "clusters", "allowed": ["site1"]},
        {"type": "addons", "needs": ["flops"]},
        {"type": "latency", "area": "munich", "threshold": 100, "rigidness": 0.9, "convergence_time": 300},
        {"type": "invented"},
    ],
    connectivity=[
        {
            "target_microservice_id": "",
            "con_constraints": [{"type": "geo", "threshold": 1, "rigidness": 0.5, "convergence_time": 3}],
        },
        {"target_microservice_id": "x", "con_constraints": []},
    ],
    unknown_key={"kept": True},
)


def the_only_service(document: dict[str, Any]) -> Microservice:
    ((service,),) = [found.microservices for found in parse_sla(document).applications]
    return service


def test_everything_a_service_says_is_understood() -> None:
    service = the_only_service(sla(application(COMPLETE)))
    assert service.virtualization == "docker"
    assert service.resources == Resources(memory_mib=100, vcpus=1, storage_mib=5)
    assert service.environment == ("A=1", "B=")
    assert service.ports == (
        PublishedPort(host_port=8080, container_port=80),
        PublishedPort(host_port=9090, container_port=9090, protocol=TransportProtocol.UDP),
    )
    assert service.csi_drivers == ("fast",)
    assert service.restart is RestartPolicy.ALWAYS
    assert service.addresses.round_robin_v4 == "10.30.5.5"
    assert service.constraints[:3] == (
        Constraint(kind=ConstraintKind.DIRECT, cluster="site1", nodes=("n1", "n2")),
        Constraint(kind=ConstraintKind.CLUSTERS, allowed=("site1",)),
        Constraint(kind=ConstraintKind.ADDONS, needs=("flops",)),
    )
    assert [rule.kind for rule in service.constraints[3:]] == [ConstraintKind.LATENCY, ConstraintKind.UNKNOWN]


def test_an_address_may_stand_where_it_once_stood() -> None:
    old = the_only_service(sla(application(microservice(RR_ip="10.30.5.5", RR_ip_v6="fdff:2000::5"))))
    assert (old.addresses.round_robin_v4, old.addresses.round_robin_v6) == ("10.30.5.5", "fdff:2000::5")
    new = the_only_service(sla(application(microservice(RR_ip="10.30.5.5", addresses={}))))
    assert new.addresses.round_robin_v4 == ""
    with pytest.raises(SlaInvalid, match=r"RR_ip: expected an address in 10\.30\.0\.0/16"):
        parse_sla(sla(application(microservice(RR_ip="10.31.5.5"))))


def test_unknown_keys_are_kept_and_whole_numbers_become_integers() -> None:
    service = the_only_service(sla(application(COMPLETE)))
    assert service.document["unknown_key"] == {"kept": True}
    assert type(service.document["vcpus"]) is int
    found = parse_sla(sla(application(extra=[1], _id="x", userId="me", action="y"))).applications[0]
    assert found.extra == {"extra": [1]}


def test_a_spec_is_named_after_application_and_service() -> None:
    spec = service_spec(
        the_only_service(sla(application(COMPLETE))),
        id=ServiceId("a" * 24),
        application_id=ApplicationId("b" * 24),
        tenant=OrganizationId("c" * 24),
        application=("shop", "prod"),
        addresses=ServiceAddresses(round_robin_v4="10.30.5.5"),
    )
    assert spec.name == "shop.prod.web.front"
    assert spec.privileged
    assert spec.architectures == ("amd64",)


def test_a_one_shot_service_is_not_run_again_once_it_succeeded() -> None:
    service = the_only_service(sla(application(microservice(one_shot=True))))
    assert (service.one_shot, service.restart) == (True, RestartPolicy.ON_FAILURE)


def test_text_and_object_are_the_same() -> None:
    document = sla(application(COMPLETE))
    assert parse_sla(msgspec.json.encode(document)) == parse_sla(document)


def test_an_application_may_be_empty() -> None:
    assert parse_sla(sla(application())).applications[0].microservices == ()
    assert parse_sla({**sla(), "applications": []}).applications == ()


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "sla_version: expected 'v2.0', the only version there is, found nothing"),
        ({"api_version": "v2.0"}, "sla_version: .* found nothing"),
        (sla(sla_version="v1.0"), "sla_version: .*found 'v1.0'"),
        ({"sla_version": "v2.0"}, "'customerID' is missing.*'applications' is missing"),
        (sla(application(name="with space")), r"applications\[0\].application_name: expected 1 to 30"),
        (sla(application(name="newline\n")), "application_name: expected"),
        (sla(application(name="")), "application_name: expected"),
        (sla(application(name="a" * 31)), "application_name: expected"),
        (sla(application(microservice("dots.inside"))), r"microservices\[0\].microservice_name"),
        (sla(application(microservice(4))), "microservice_name: .*found the number 4"),  # type: ignore[arg-type]
        (sla(application(microservice(microserviceID="4"))), "microserviceID: expected nothing"),
        (
            sla(application(microservice(memory=-1))),
            "memory: expected a whole number, 0 or more, found the number -1",
        ),
        (sla(application(microservice(memory=1.5))), "memory: expected a whole number"),
        (sla(application(microservice(memory=True))), "memory: .*found true"),
        (sla(application(microservice(memory=None))), "memory: .*found null"),
        (sla(application(microservice(memory=1 << 70))), "at most 63 bits"),
        (sla(application(microservice(cmd="sh"))), "cmd: expected a list, found 'sh'"),
        (sla(application(microservice(cmd=None))), "cmd: expected a list, found null"),
        (sla(application(microservice(cmd=["a\0b"]))), r"cmd\[0\]: text must not contain a NUL"),
        (sla(application(microservice(environment=["NOVALUE"]))), "NAME=value"),
        (sla(application(microservice(environment=["=x"]))), "a name before the ="),
        (sla(application(microservice(code=" "))), "code: expected an image"),
        (sla(application(microservice(port=80))), "port: expected text"),
        (sla(application(microservice(port="80:x"))), "port: expected host:container"),
        (sla(application(microservice(virtualization="unikernel"))), "needs 'arch'"),
        (
            sla(application(microservice(constraints=[{"node": "n1"}]))),
            r"constraints\[0\]: 'type' is missing",
        ),
        (
            sla(application(microservice(connectivity=[{"target_microservice_id": 3}]))),
            "'con_constraints' is missing.*target_microservice_id: expected text",
        ),
        (
            sla(application(microservice(volumes=[{"csi_driver": "x"}]))),
            r"volumes\[0\]: 'volume_id' is missing",
        ),
        (sla(application(microservice(addresses={"rr_ip": "10.31.0.1"}))), "addresses.rr_ip: .*10.30.0.0/16"),
        (sla(application(microservice(addresses={"rr_ip": "10.30.999.1"}))), "addresses.rr_ip"),
        (sla(application(microservice(addresses={"rr_ip": "10.30.0.0"}))), "addresses.rr_ip"),
        (sla(application(microservice(addresses={"rr_ip_v6": "fdff:3000::1"}))), "addresses.rr_ip_v6"),
        (sla(application(microservice(addresses={"rr_ip_v6": "fdff:2000::1%eth0"}))), "addresses.rr_ip_v6"),
        (sla(application(microservice(), microservice())), r"microservices\[1\]: web.front is there twice"),
        (sla(application(), application()), r"applications\[1\]: shop.prod is there twice"),
        (sla(application(microservice(restart="sometimes"))), "one of always, on_failure, never"),
        ([], "the document: expected an object, found a list of 0"),
        ("[1", "not JSON"),
        ("[" * 5000 + "]" * 5000, "not JSON|nested deeper"),
        (b'{"sla_version": "\xff"}', "not JSON"),
        ("x" * (1 << 21), "larger than"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(document: object, complaint: str) -> None:
    with pytest.raises(SlaInvalid, match=complaint):
        parse_sla(document)


def test_all_mistakes_are_told_at_once_up_to_a_bound() -> None:
    with pytest.raises(SlaInvalid) as caught:
        parse_sla(sla(application(microservice(memory=-1, port=3, cmd="x"), name="a b")))
    assert all(word in str(caught.value) for word in ("memory", "port", "cmd", "application_name"))
    with pytest.raises(SlaInvalid, match="and 80 more"):
        parse_sla(sla(application(*[microservice(f"s{n}", memory=-1) for n in range(100)])))


def test_absurd_documents_are_refused_before_they_cost_anything() -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"in": deep}
    with pytest.raises(SlaInvalid, match="nested deeper"):
        parse_sla(sla(application(extra=deep)))
    with pytest.raises(SlaInvalid, match="more than 50000 values"):
        parse_sla(sla(application(extra=[0] * 60_000)))
    with pytest.raises(SlaInvalid, match="more than 100"):
        parse_sla(sla(*[application(name=f"a{n}") for n in range(101)]))


@pytest.mark.parametrize(
    ("text", "ports"),
    [
        ("", []),
        ("9080", [(9080, 9080, "tcp")]),
        ("80:8080", [(80, 8080, "tcp")]),
        (" 80:8080/UDP ; 443 ;", [(80, 8080, "udp"), (443, 443, "tcp")]),
        ("53/tcp;53/udp", [(53, 53, "tcp"), (53, 53, "udp")]),
    ],
)
def test_ports(text: str, ports: list[tuple[int, int, str]]) -> None:
    found = [(port.host_port, port.container_port, port.protocol.value) for port in parse_ports(text)]
    assert found == ports


@pytest.mark.parametrize(
    "text", ["0", "65536", "80:", ":80", "80:90:100", "80/icmp", "80/", "８０", "+80", "80;80", "50103/udp"]
)
def test_ports_that_cannot_be(text: str) -> None:
    with pytest.raises(Invalid):
        parse_ports(text)


def test_a_spec_is_the_same_after_it_was_kept() -> None:
    """What is kept and read again must not be sent anew for it: whole numbers of seconds are seconds like others."""
    found = microservice(
        disconnect={"lost_after_s": 20},
        update_policy={"min_ready_s": 2, "monitor_s": 5},
        health_check={"tcp": {"port": 80}, "interval_s": 3, "restart_after_s": "never"},
    )
    spec = service_spec(
        the_only_service(sla(application(found))),
        id=ServiceId("a" * 24),
        application_id=ApplicationId("b" * 24),
        tenant=OrganizationId("c" * 24),
        application=("shop", "prod"),
        addresses=ServiceAddresses(),
    )
    again = msgspec.json.decode(msgspec.json.encode(spec), type=type(spec))
    assert msgspec.msgpack.encode(again) == msgspec.msgpack.encode(spec)
