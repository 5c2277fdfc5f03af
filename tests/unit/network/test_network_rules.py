"""Rules: the table as text, and what elements an overlay needs. `python THIS_FILE` writes the golden table anew."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from oakestra.model.address import Backend, Peer, Route, RouteKind, host_address, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId
from oakestra.model.service import InstanceAddress, PublishedPort, TransportProtocol
from oakestra.network import Overlay, Publication, Source, rules
from oakestra.network.names import Names

GOLDEN = Path(__file__).with_name("table.nft")
NAMES = Names("abcde")
ACME, OTHER = OrganizationId("acme"), OrganizationId("other")
GROUPS = {ACME: 1, OTHER: 2}
HERE = host_address(worker_subnet(0), 2)
THERE = host_address(worker_subnet(5), 2)


def semantic(number: int) -> InstanceAddress:
    return InstanceAddress(v4=f"10.30.0.{number}", v6=f"fdff::{number:x}")


def route(number: int, *backends: InstanceAddress, kind: RouteKind = RouteKind.ROUND_ROBIN) -> Route:
    return Route(
        service=ServiceId("s"),
        kind=kind,
        address=semantic(number),
        backends=tuple(
            Backend(slot=slot, address=address, local=address == HERE)
            for slot, address in enumerate(backends)
        ),
        tenant=ACME,
    )


OVERLAY = Overlay(
    subnets=(worker_subnet(0), worker_subnet(1)),
    routes=(route(1, THERE, HERE), route(2, THERE, HERE, kind=RouteKind.CLOSEST), route(3)),
    sources=(
        Source(namespace=HERE, instance=semantic(4), tenant=ACME),
        Source(
            namespace=InstanceAddress(v4="10.18.0.3"), instance=InstanceAddress(v4="10.30.0.5"), tenant=OTHER
        ),
    ),
    publications=(
        Publication(port=PublishedPort(host_port=8080, container_port=80), namespace=HERE),
        Publication(
            port=PublishedPort(host_port=53, container_port=5353, protocol=TransportProtocol.UDP),
            namespace=HERE,
        ),
    ),
    peers=(Peer(subnet_index=5, subnets=(worker_subnet(5),), host="198.18.0.15", port=60103),),
)


def table() -> str:
    return rules.render_table(
        NAMES, OVERLAY.subnets, tunnel_port=50103, found=rules.elements(OVERLAY, GROUPS), sizes=(1, 2)
    )


def test_the_table_is_the_golden_one() -> None:
    assert table() == GOLDEN.read_text(), f"read the difference; if it is meant, run python {__file__}"


def rows(overlay: Overlay, name: str) -> set[str]:
    """Return the elements of one set as they stand in the text."""
    text = rules.render_elements({name: rules.elements(overlay, GROUPS)[name]})
    begin = text.index(f" {name} {{")
    inside = text[begin : text.index("\n  }\n", begin)].partition("elements = {")[2]
    return {line.strip(" ,") for line in inside.splitlines()} - {"", "}"}


def test_a_service_leads_to_a_chain_for_its_backends() -> None:
    assert rows(OVERLAY, "svc4") == {"10.30.0.1 : goto rr4_2", "10.30.0.2 : goto rr4_1"}
    assert rows(OVERLAY, "be4") == {
        "10.30.0.1 . 0 : 10.18.1.66",
        "10.30.0.1 . 1 : 10.18.0.2",
        "10.30.0.2 . 0 : 10.18.0.2",
    }, "the closest is the one here"


def test_the_closest_is_the_first_when_none_is_here() -> None:
    found = Overlay(routes=(route(2, THERE, semantic(9), kind=RouteKind.CLOSEST),))
    assert rows(found, "be4") == {"10.30.0.2 . 0 : 10.18.1.66"}


def test_a_backend_twice_is_one_backend() -> None:
    assert rows(Overlay(routes=(route(1, HERE, HERE),)), "svc4") == {"10.30.0.1 : goto rr4_1"}


def test_a_tenant_reaches_its_own_alone() -> None:
    assert rows(OVERLAY, "reach4") == {
        *(f"10.30.0.{number} . 1" for number in (1, 2, 3, 4)),
        "10.18.0.2 . 1",
        "10.18.1.66 . 1",
        "10.18.0.3 . 2",
        "10.30.0.5 . 2",
    }


def test_instances_speak_with_their_own_semantic_address() -> None:
    assert rows(OVERLAY, "src4") == {"10.18.0.2 : 10.30.0.4", "10.18.0.3 : 10.30.0.5"}
    assert rows(OVERLAY, "src6") == {"fd18::2 : fdff::4"}, "the other has no IPv6 address"


def test_what_runs_elsewhere_for_a_slot_is_seen_as_the_slot() -> None:
    """Two attempts at once, neither of them ready: they may speak, and nobody is led to them."""
    attempts = (THERE, host_address(worker_subnet(6), 2))
    slot = replace(route(4, kind=RouteKind.INSTANCE), senders=attempts)
    found = Overlay(routes=(slot,))
    assert rows(found, "src4") == {"10.18.1.66 : 10.30.0.4", "10.18.1.130 : 10.30.0.4"}
    assert rows(found, "reach4") == {"10.30.0.4 . 1", "10.18.1.66 . 1", "10.18.1.130 . 1"}
    assert rows(found, "svc4") == set()


def test_what_is_known_here_wins_over_what_was_said_of_elsewhere() -> None:
    slot = replace(route(4, kind=RouteKind.INSTANCE), senders=(HERE,))
    source = Source(namespace=HERE, instance=semantic(9), tenant=ACME)
    assert rows(Overlay(routes=(slot,), sources=(source,)), "src4") == {"10.18.0.2 : 10.30.0.9"}


def test_ports_lead_to_instances() -> None:
    assert rows(OVERLAY, "pub4") == {"6 . 8080 : 10.18.0.2 . 80", "17 . 53 : 10.18.0.2 . 5353"}


def test_of_two_who_publish_one_port_the_first_has_it() -> None:
    port = PublishedPort(host_port=8080, container_port=80)
    both = tuple(Publication(port=port, namespace=each) for each in (HERE, THERE))
    assert rows(Overlay(publications=both), "pub4") == {"6 . 8080 : 10.18.0.2 . 80"}


@pytest.mark.parametrize("host", ["", "worker.example", "fd31::1"])
def test_peers_that_the_tunnel_cannot_reach_are_left_out(host: str) -> None:
    peers = (Peer(subnet_index=6, subnets=(worker_subnet(6),), host=host), *OVERLAY.peers)
    found = Overlay(peers=peers)
    assert rows(found, "peers4") == {"198.18.0.15"}
    assert rows(found, "ends4") == {"198.18.0.15 . 60103"}
    assert rows(found, "hosts4") == {"10.18.1.65"}


def test_a_changed_value_is_taken_out_and_put_in() -> None:
    old = rules.elements(Overlay(routes=(route(1, HERE),)), GROUPS)
    new = rules.elements(Overlay(routes=(route(1, THERE),)), GROUPS)
    changes = {change.set: change for change in rules.differences(old, new)}
    assert set(changes) == {"be4", "be6", "reach4", "reach6"}
    assert [key for key, _ in changes["be4"].remove] == [key for key, _ in changes["be4"].add]


def test_tenants_keep_their_numbers() -> None:
    assert rules.choose_groups({OTHER, ACME}, {}) == {ACME: 1, OTHER: 2}
    assert rules.choose_groups({OTHER, ACME}, {OTHER: 1}) == {OTHER: 1, ACME: 2}
    assert rules.choose_groups({ACME}, {OTHER: 2}) == {OTHER: 2, ACME: 1}


def test_the_digest_tells_skeletons_apart() -> None:
    def digest(*indexes: int, tag: str = "abcde", port: int = 50103) -> str:
        return rules.digest(Names(tag), [worker_subnet(index) for index in indexes], tunnel_port=port)

    assert digest(1) == digest(1)
    assert len({digest(1), digest(2), digest(1, 2), digest(1, tag="abcdf"), digest(1, port=1)}) == 5


def test_many_backends_get_a_chain_of_their_own() -> None:
    backends = tuple(InstanceAddress(v4=f"10.18.{number >> 8}.{number & 255}") for number in range(1000))
    found = rules.elements(Overlay(routes=(route(1, *backends),)), GROUPS)
    assert rules.missing_sizes(found, rules.READY_SIZES) == (1000,)
    assert rules.missing_sizes(found, (1000,)) == ()
    assert "numgen random mod 1000 map @be4" in rules.render_more_choosers(NAMES, (1000,))


if __name__ == "__main__":
    GOLDEN.write_text(table())
