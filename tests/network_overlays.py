"""Any overlay that a cluster might send, as a strategy."""

from __future__ import annotations

from hypothesis import strategies as st

from oakestra.model.address import Backend, Peer, Route, RouteKind, host_address, worker_subnet
from oakestra.model.ids import OrganizationId, ServiceId
from oakestra.model.service import InstanceAddress, PublishedPort, TransportProtocol
from oakestra.network import Overlay, Publication, Source

SUBNET = worker_subnet(7)
TENANTS = st.sampled_from([OrganizationId(name) for name in ("", "acme", "other")])
FAMILIES = st.sampled_from([("v4",), ("v6",), ("v4", "v6"), ()])


@st.composite
def semantics(draw: st.DrawFn) -> InstanceAddress:
    number = draw(st.integers(1, 12))
    both = {"v4": f"10.30.0.{number}", "v6": f"fdff::{number:x}"}
    return InstanceAddress(**{family: both[family] for family in draw(FAMILIES)})


@st.composite
def namespaces(draw: st.DrawFn) -> InstanceAddress:
    return host_address(worker_subnet(draw(st.integers(5, 9))), draw(st.integers(2, 5)))


@st.composite
def backends(draw: st.DrawFn) -> Backend:
    return Backend(slot=draw(st.integers(0, 3)), address=draw(namespaces()), local=draw(st.booleans()))


@st.composite
def routes(draw: st.DrawFn) -> Route:
    return Route(
        service=ServiceId("s"),
        kind=draw(st.sampled_from(RouteKind)),
        address=draw(semantics()),
        backends=tuple(draw(st.lists(backends(), max_size=4))),
        tenant=draw(TENANTS),
        senders=tuple(draw(st.lists(namespaces(), max_size=2))),
    )


@st.composite
def publications(draw: st.DrawFn) -> Publication:
    port = PublishedPort(
        host_port=draw(st.integers(40000, 40003)),
        container_port=draw(st.integers(1, 65535)),
        protocol=draw(st.sampled_from(TransportProtocol)),
    )
    return Publication(port=port, namespace=draw(namespaces()))


@st.composite
def peers(draw: st.DrawFn) -> Peer:
    index = draw(st.integers(5, 9))
    return Peer(
        subnet_index=index,
        subnets=(worker_subnet(index),),
        host=draw(st.sampled_from(["198.18.0.5", "198.18.0.6", "worker.example", ""])),
        port=draw(st.sampled_from([50103, 60103])),
    )


@st.composite
def overlays(draw: st.DrawFn) -> Overlay:
    """An overlay in which a semantic address has one meaning, as root and `worker.overlay` see to."""
    taken: set[str] = set()
    found = []
    for route in draw(st.lists(routes(), max_size=6)):
        own = {route.address.v4, route.address.v6} - {""}
        if own.isdisjoint(taken):
            taken |= own
            found.append(route)
    sources = draw(st.lists(st.tuples(namespaces(), semantics(), TENANTS), max_size=3))
    return Overlay(
        subnets=(SUBNET,),
        subnet_index=7,
        routes=tuple(found),
        sources=tuple(
            Source(namespace=namespace, instance=instance, tenant=tenant)
            for namespace, instance, tenant in sources
        ),
        publications=tuple(draw(st.lists(publications(), max_size=3))),
        peers=tuple(draw(st.lists(peers(), max_size=4))),
        underlay_v4="198.18.0.17",
    )
