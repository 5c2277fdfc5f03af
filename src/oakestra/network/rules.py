"""Work out the rules that move packets, and what of them changes. Pure: text and bytes, no kernel.

The chains are always the same (`skeleton`); what differs from one moment to the next is elements of sets and maps
(`elements`). So a change costs one small transaction, and a packet one look-up however many services there are.

Every instance has a link of its own, and the link's group says whose it is: tenants are told apart by where a packet
comes from and not by what it says about itself.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import count

from oakestra.model.address import (
    OVERLAY_NETWORK_V4,
    SERVICE_NETWORK_V4,
    SERVICE_NETWORK_V6,
    WORKER_NETWORK_V6,
    Peer,
    Route,
    RouteKind,
    Subnet,
    host_address,
)
from oakestra.model.ids import OrganizationId
from oakestra.model.service import InstanceAddress, PublishedPort, TransportProtocol
from oakestra.network import Overlay
from oakestra.network.names import Names
from oakestra.network.paths import usable

Value = bytes | str | None
Elements = dict[str, dict[bytes, Value]]
"""By set or map: each key, and what it leads to: bytes, a chain, or nothing in a set."""

FAMILIES = (4, 6)
READY_SIZES = range(1, 33)
"""Numbers of backends that a chain is always there for; others get theirs when first needed."""
METADATA_V6 = "fd00:ec2::254, fd20:ce::254"
"""Where clouds tell a machine's secrets to whoever asks over IPv6; over IPv4 it is a link-local address."""
_PROTOCOLS = {TransportProtocol.TCP: 6, TransportProtocol.UDP: 17}


@dataclass(frozen=True, slots=True)
class Difference:
    """What has to be taken from one set or map, and what to be put into it, in this order."""

    set: str
    remove: tuple[tuple[bytes, Value], ...]
    add: tuple[tuple[bytes, Value], ...]


# --- elements ---------------------------------------------------------------------------------------------------------


def elements(overlay: Overlay, groups: Mapping[OrganizationId, int]) -> Elements:
    """Return all elements that the kernel should have. `groups` numbers every tenant of the overlay."""
    found: Elements = {name: {} for name in SETS}
    for route in overlay.routes:
        group = _native(groups[route.tenant])
        for family, address, backends in _by_family(route):
            _add_route(found, family, address, backends, group)
        for sender in route.senders:
            _add_sender(found, sender, route.address, group)
    for source in overlay.sources:
        _add_sender(found, source.namespace, source.instance, _native(groups[source.tenant]))
    for publication in overlay.publications:
        port, key = publication.port, publication_key(publication.port)
        for family, namespace in _addresses(publication.namespace):
            found[f"pub{family}"].setdefault(key, namespace + _port(port.container_port))
    for peer in usable(overlay):
        host = _packed(peer.host)
        found["peers4"][host] = None
        found["ends4"][host + _port(peer.port)] = None
        for family, gateway in _gateways(peer):
            found[f"hosts{family}"][gateway] = None
    return found


def _add_route(found: Elements, family: int, address: bytes, backends: list[bytes], group: bytes) -> None:
    reach = found[f"reach{family}"]
    reach[address + group] = None
    for number, backend in enumerate(backends):
        reach[backend + group] = None
        found[f"be{family}"][address + _native(number)] = backend
    if backends:
        found[f"svc{family}"][address] = chain_name(family, len(backends))


def _add_sender(found: Elements, namespace: InstanceAddress, instance: InstanceAddress, group: bytes) -> None:
    seen_as = dict(_addresses(instance))
    for family, sender in _addresses(namespace):
        found[f"reach{family}"][sender + group] = None
        if family in seen_as:
            found[f"reach{family}"][seen_as[family] + group] = None
            found[f"src{family}"][sender] = seen_as[family]


def chain_name(family: int, size: int) -> str:
    """Return the name of the chain that chooses among `size` backends."""
    return f"rr{family}_{size}"


def _by_family(route: Route) -> Iterator[tuple[int, bytes, list[bytes]]]:
    backends = list(route.backends)
    if route.kind is RouteKind.CLOSEST:
        backends = sorted(backends, key=lambda backend: not backend.local)[:1]
    for family, address in _addresses(route.address):
        texts = (backend.address.v4 if family == FAMILIES[0] else backend.address.v6 for backend in backends)
        yield family, address, list(dict.fromkeys(_packed(text) for text in texts if text))


def _addresses(address: InstanceAddress) -> Iterator[tuple[int, bytes]]:
    if address.v4:
        yield 4, _packed(address.v4)
    if address.v6:
        yield 6, _packed(address.v6)


def _gateways(peer: Peer) -> Iterator[tuple[int, bytes]]:
    for subnet in peer.subnets:
        yield from _addresses(host_address(subnet, 1))


def _packed(address: str) -> bytes:
    return _packed_v6(address) if ":" in address else bytes(map(int, address.split(".")))


@lru_cache(maxsize=4096)
def _packed_v6(address: str) -> bytes:
    return IPv6Address(address).packed


def _native(number: int) -> bytes:
    return struct.pack("=I", number)


def _port(number: int) -> bytes:
    return struct.pack(">H2x", number)


def choose_groups(
    tenants: Iterable[OrganizationId], held: Mapping[OrganizationId, int]
) -> dict[OrganizationId, int]:
    """Number the tenants from 1. Who is in `held` keeps that number, and nobody else gets it."""
    groups = dict(held)
    taken = set(held.values())
    free = (number for number in count(1) if number not in taken)
    for tenant in sorted(set(tenants) - held.keys()):
        groups[tenant] = next(free)
    return groups


def tenants(overlay: Overlay) -> set[OrganizationId]:
    """Return everybody whose routes or instances are in the overlay."""
    return {route.tenant for route in overlay.routes} | {source.tenant for source in overlay.sources}


def publication_key(port: PublishedPort) -> bytes:
    """Return the key under which a port of the machine is published."""
    return bytes([_PROTOCOLS[port.protocol]]) + bytes(3) + _port(port.host_port)


# --- differences ------------------------------------------------------------------------------------------------------


def differences(old: Elements, new: Elements) -> tuple[Difference, ...]:
    """Return what turns `old` into `new`; nothing for sets that are equal. A changed value is taken out and put in."""
    found = []
    for name, wanted in new.items():
        there = old.get(name, {})
        if there == wanted:
            continue
        remove = tuple((key, value) for key, value in there.items() if wanted.get(key, there) != value)
        add = tuple((key, value) for key, value in wanted.items() if there.get(key, wanted) != value)
        found.append(Difference(name, remove, add))
    return tuple(found)


def missing_sizes(wanted: Elements, there: Iterable[int]) -> tuple[int, ...]:
    """Return the numbers of backends in `wanted` for which there is no chain yet."""
    chains = {chain for family in FAMILIES for chain in wanted[f"svc{family}"].values()}
    needed = {int(str(chain).partition("_")[2]) for chain in chains}
    return tuple(sorted(needed - set(there)))


# --- text -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Shape:
    """How a set or map is declared, and how its keys and values are put together."""

    declared: str
    key: tuple[str, ...]
    value: tuple[str, ...] = ()


def _shapes() -> Iterator[tuple[str, Shape]]:
    for family, ip in ((4, "ip"), (6, "ip6")):
        address = f"ipv{family}_addr"
        yield f"svc{family}", Shape(f"type {address} : verdict", (address,))
        slot = f"typeof {ip} daddr . numgen random mod 2 : {ip} daddr"
        yield f"be{family}", Shape(slot, (address, "number"), (address,))
        yield f"src{family}", Shape(f"type {address} : {address}", (address,), (address,))
        yield f"reach{family}", Shape(f"type {address} . devgroup", (address, "number"))
        target = (address, "port")
        published = f"type inet_proto . inet_service : {address} . inet_service"
        yield f"pub{family}", Shape(published, ("protocol", "port"), target)
        yield f"hosts{family}", Shape(f"type {address}", (address,))
    yield "peers4", Shape("type ipv4_addr", ("ipv4_addr",))
    yield "ends4", Shape("type ipv4_addr . inet_service", ("ipv4_addr", "port"))


SETS: Mapping[str, Shape] = dict(_shapes())
"""svc: service address -> chain that chooses; be: (service address, backend index) -> backend; src: an instance's
address, here or elsewhere -> its semantic one; reach: what a tenant's instances may talk with; pub: published ports; hosts: other workers'
own addresses in the overlay; peers: other workers' machines; ends: the UDP ports there where their tunnels end."""
_LENGTHS = {"ipv4_addr": 4, "ipv6_addr": 16, "number": 4, "port": 4, "protocol": 4}


def render_elements(found: Elements) -> str:
    """Return the elements as nft commands' inner text, for a table that is made as a whole."""
    return "".join(
        f"  {_kind(name)} {name} {{\n    {shape.declared};{_render_all(shape, found.get(name, {}))}\n  }}\n"
        for name, shape in SETS.items()
    )


def _kind(name: str) -> str:
    return "map" if ":" in SETS[name].declared else "set"


def _render_all(shape: Shape, some: Mapping[bytes, Value]) -> str:
    if not some:
        return ""
    lines = ",\n      ".join(_render(shape, key, value) for key, value in some.items())
    return f"\n    elements = {{\n      {lines}\n    }}"


def _render(shape: Shape, key: bytes, value: Value) -> str:
    if value is None:
        return _fields(shape.key, key)
    target = f"goto {value}" if isinstance(value, str) else _fields(shape.value, value)
    return f"{_fields(shape.key, key)} : {target}"


def _fields(kinds: tuple[str, ...], raw: bytes) -> str:
    fields, offset = [], 0
    for kind in kinds:
        fields.append(_field(kind, raw[offset : offset + _LENGTHS[kind]]))
        offset += _LENGTHS[kind]
    return " . ".join(fields)


def _field(kind: str, raw: bytes) -> str:
    match kind:
        case "number":
            return str(struct.unpack("=I", raw)[0])
        case "port":
            return str(struct.unpack(">H2x", raw)[0])
        case "protocol":
            return str(raw[0])
        case _:
            return str(ip_address(raw))


def render_choosers(sizes: Iterable[int]) -> str:
    """Return the chains that choose among so many backends, at random for every connection.

    Between two look-ups of one packet the kernel may go on to the next generation of rules; if the chosen backend is
    gone by then, the first one does.
    """
    chains = []
    for size in sizes:
        for family, ip in ((4, "ip"), (6, "ip6")):
            choices = dict.fromkeys((size, 1))
            rules = "".join(
                f"    dnat {ip} to {ip} daddr . numgen random mod {choice} map @be{family}\n"
                for choice in choices
            )
            chains.append(f"  chain {chain_name(family, size)} {{\n{rules}  }}\n")
    return "".join(chains)


def digest(names: Names, subnets: Iterable[Subnet], *, tunnel_port: int) -> str:
    """Return what tells one skeleton from another; it stands in the comment of the table."""
    text = render_chains(names, subnets, tunnel_port=tunnel_port)
    shapes = repr(sorted(SETS.items()))
    return f"oakestra {hashlib.sha256(f'{text}{shapes}'.encode()).hexdigest()[:16]}"


def render_table(
    names: Names, subnets: Iterable[Subnet], *, tunnel_port: int, found: Elements, sizes: Iterable[int]
) -> str:
    """Return the whole table as nft reads it: it takes the place of what is there, elements included, at once."""
    subnets = tuple(subnets)
    comment = digest(names, subnets, tunnel_port=tunnel_port)
    return "".join(
        (
            f"table inet {names.table} {{ }}\ndelete table inet {names.table}\n",
            f'table inet {names.table} {{\n  comment "{comment}"\n',
            render_choosers(sizes),
            render_elements(found),
            render_chains(names, subnets, tunnel_port=tunnel_port),
            "}\n",
        )
    )


def render_more_choosers(names: Names, sizes: Iterable[int]) -> str:
    """Return what adds chains to a table that is there."""
    return f"table inet {names.table} {{\n{render_choosers(sizes)}}}\n"


def render_chains(names: Names, subnets: Iterable[Subnet], *, tunnel_port: int) -> str:
    """Return the chains through which packets come."""
    subnets = tuple(subnets)
    return _CHAINS.format(
        ours=f'"{names.links}*"',
        instances=f'"{names.instances}*"',
        gateway=f'"{names.gateway}"',
        tunnel=f'"{names.tunnel}"',
        subnets4=", ".join(str(ip_network(subnet.v4)) for subnet in subnets),
        subnets6=", ".join(str(ip_network(subnet.v6)) for subnet in subnets),
        port=tunnel_port,
        svc4=SERVICE_NETWORK_V4,
        svc6=SERVICE_NETWORK_V6,
        overlay4=OVERLAY_NETWORK_V4,
        workers6=WORKER_NETWORK_V6,
        metadata6=METADATA_V6,
    )


# Priorities: `raw` is before connections are tracked; NAT comes 5 before Docker's and Kubernetes', because the first
# mapping of a connection wins. Who is refused is told so at once, TCP by a reset, because the kernel sends only a few
# ICMP errors a second. A stranger from the tunnel is dropped instead: it may be an instance we have not heard of yet,
# that tries again. Who speaks is translated where the listener is, connection by connection: two attempts of one slot
# have one semantic address, and each gets its own answers. No instance may speak to the end of a tunnel: masqueraded as this machine, it would be believed. `fib saddr . iif oif missing` is a source that does not live where the packet came from.
_CHAINS = """\
  chain refuse {{
    meta l4proto tcp reject with tcp reset
    meta l4proto udp reject with icmpx type port-unreachable
    reject with icmpx type host-unreachable
  }}
  chain raw_pre {{
    type filter hook prerouting priority raw; policy accept;
    udp dport {port} ip saddr @peers4 notrack accept
    udp dport {port} fib daddr type local drop
  }}
  chain raw_out {{
    type filter hook output priority raw; policy accept;
    udp dport {port} ip daddr @peers4 notrack
  }}
  chain services {{
    ip daddr vmap @svc4
    ip6 daddr vmap @svc6
  }}
  chain published {{
    ip daddr != 127.0.0.0/8 fib daddr type local dnat ip to meta l4proto . th dport map @pub4
    ip6 daddr != ::1 fib daddr type local dnat ip6 to meta l4proto . th dport map @pub6
  }}
  chain nat_pre {{
    type nat hook prerouting priority dstnat - 5; policy accept;
    iifname {instances} ip daddr . iifgroup @reach4 jump services
    iifname {instances} ip6 daddr . iifgroup @reach6 jump services
    iifname != {tunnel} jump published
  }}
  chain nat_out {{
    type nat hook output priority -105; policy accept;
    jump services
    jump published
  }}
  chain nat_post {{
    type nat hook postrouting priority srcnat - 5; policy accept;
    oifname {instances} snat ip to ip saddr map @src4
    oifname {instances} snat ip6 to ip6 saddr map @src6
    ip saddr {{ {subnets4} }} oifname != {ours} masquerade
    ip6 saddr {{ {subnets6} }} oifname != {ours} masquerade
  }}
  chain from_instance {{
    fib saddr . iif oif missing drop
    oifname {gateway} jump refuse
    oifname {ours} ip daddr . iifgroup @reach4 accept
    oifname {ours} ip6 daddr . iifgroup @reach6 accept
    oifname {instances} ct status dnat accept
    ip daddr . udp dport @ends4 drop
    ip daddr {{ {overlay4}, 169.254.0.0/16 }} jump refuse
    ip6 daddr {{ {svc6}, {workers6}, fe80::/10, {metadata6} }} jump refuse
  }}
  chain from_peer {{
    fib saddr . iif oif missing drop
    oifname {gateway} jump refuse
    oifname != {instances} drop
    ip saddr . oifgroup @reach4 accept
    ip6 saddr . oifgroup @reach6 accept
    ip saddr @hosts4 accept
    ip6 saddr @hosts6 accept
    drop
  }}
  chain from_outside {{
    oifname {instances} ct status dnat accept
    drop
  }}
  chain forward {{
    type filter hook forward priority filter - 5; policy accept;
    ct state established,related accept
    iifname {instances} jump from_instance
    iifname {tunnel} jump from_peer
    oifname {ours} jump from_outside
  }}
  chain to_host {{
    ct state established,related accept
    fib saddr . iif oif missing drop
    icmp type echo-request accept
    icmpv6 type echo-request accept
    iifname {instances} meta l4proto {{ tcp, udp }} th dport 53 accept
    jump refuse
  }}
  chain input {{
    type filter hook input priority filter - 5; policy accept;
    iifname {ours} jump to_host
  }}
  chain output {{
    type filter hook output priority filter - 5; policy accept;
    oifname {gateway} ip daddr {svc4} jump refuse
    oifname {gateway} ip6 daddr {svc6} jump refuse
  }}
"""
