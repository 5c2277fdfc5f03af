"""Netlink: what goes to the kernel byte by byte, and what its answers mean."""

from __future__ import annotations

import errno
import struct
import sys
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Interface

import pytest

from oakestra.network import netlink
from oakestra.network.netlink import NLM_F_CREATE, Message, conntrack, nft
from oakestra.network.netlink import route as rt

pytestmark = pytest.mark.skipif(
    sys.byteorder != "little", reason="the bytes below are a little-endian machine's"
)


def hexa(text: str) -> bytes:
    return bytes.fromhex(text)


def test_attributes_are_padded_to_four_bytes() -> None:
    assert netlink.attribute(3, b"abc") == hexa("0700 0300 616263 00")
    assert netlink.text(1, "lo") == hexa("0700 0100 6c6f00 00")
    assert netlink.number(4, 1450) == hexa("0800 0400 aa050000")
    assert netlink.nested(1, netlink.number(2, 1)) == hexa("0c00 0180 0800 0200 01000000")


def test_attributes_are_read_back_without_their_flags() -> None:
    raw = netlink.text(1, "lo") + netlink.nested(2, netlink.number(3, 7))
    assert list(netlink.parse(raw)) == [(1, b"lo\0"), (2, netlink.number(3, 7))]
    assert list(netlink.parse(b"\x03\0\1\0")) == [], "a length below four would never end"


def test_an_element_of_a_map() -> None:
    """As `nft --debug=mnl add element inet t m { 10.0.0.1 : 10.0.0.2 }` shows it."""
    (message,) = nft._change("t", nft.Change("add", "m", [(b"\x0a\0\0\1", b"\x0a\0\0\2")]))
    assert (message.kind, message.flags) == (0x0A0C, NLM_F_CREATE)
    assert message.body == hexa(
        "01 00 0000"  # inet
        "0600 0100 7400 0000"  # table t
        "0600 0200 6d00 0000"  # map m
        "2000 0380"  # elements
        "1c00 0180"  # one
        "0c00 0180 0800 0100 0a000001"  # its key
        "0c00 0280 0800 0100 0a000002"  # where it leads
    )


def test_an_element_that_leads_to_a_chain() -> None:
    raw = nft._element(b"\x0a\0\0\1", "c")
    assert raw == hexa(
        "2800 0180"  # element
        "0c00 0180 0800 0100 0a000001"  # key
        "1800 0280 1400 0280 0800 0100 fffffffc 0600 0200 6300 0000"  # data: verdict: goto, chain c
    )
    assert nft._decoded(raw[4:]) == (b"\x0a\0\0\1", "c")


def test_elements_are_read_as_they_were_written() -> None:
    for key, value in ((b"key.", b"data"), (b"key.", None), (b"key.", "chain")):
        assert nft._decoded(nft._element(key, value)[4:]) == (key, value)


def test_many_elements_are_cut_into_messages_that_fit() -> None:
    elements = [(struct.pack(">I", number), struct.pack(">I", number)) for number in range(1500)]
    messages = list(nft._change("t", nft.Change("add", "m", elements)))
    assert len(messages) == 3
    assert all(len(message.body) < 1 << 16 for message in messages)


def test_removing_an_element_names_its_key_alone() -> None:
    (message,) = nft._change("t", nft.Change("remove", "m", [(b"\x0a\0\0\1", "chain")]))
    assert (message.kind, message.flags) == (0x0A0E, 0)
    assert message.body.endswith(hexa("1400 0380 1000 0180 0c00 0180 0800 0100 0a000001"))


def test_a_tables_comment_is_found_among_its_data() -> None:
    assert nft._comment(hexa("07 01 ff 00 03 6f6b00")) == "ok"
    assert nft._comment(b"") == ""


def test_an_address_of_either_family() -> None:
    four = rt.add_address(5, IPv4Interface("10.18.0.1/26")).body
    assert four == hexa("02 1a 00 00 05000000 0800 0200 0a120001 0800 0100 0a120001")
    six = rt.add_address(5, IPv6Interface("fd18::1/120")).body
    assert six[:8] == hexa("0a 78 02 00 05000000"), "IPv6 without duplicate detection: at once usable"


def test_a_route_over_a_gateway_on_the_link() -> None:
    message = rt.replace_route(IPv4Network("10.18.1.0/26"), device=7, gateway=IPv4Address("169.254.1.4"))
    assert message.body == hexa(
        "02 1a 00 00 fe 4f 00 01 04000000"  # main table, our protocol, universe, unicast, on link
        "0800 0100 0a120100"
        "0800 0500 a9fe0104"
        "0800 0400 07000000"
    )


def test_a_route_is_removed_whatever_its_scope() -> None:
    """A route over a gateway has another scope than one without; asked with the wrong one the kernel keeps it."""
    message = rt.delete_route(IPv4Network("10.18.1.0/26"), device=7)
    assert message.body == hexa("02 1a 00 00 fe 4f ff 01 000000000800 0100 0a1201000800 0400 07000000")


def test_a_forwarding_entry_with_a_port() -> None:
    message = rt.replace_forwarding(9, b"\x02\x0a\x12\0\4\xfe", IPv4Address("198.18.0.12"), 60103)
    assert message.body == hexa(
        "07 000000 09000000 8000 02 00"  # bridge, permanent, self
        "0a00 0200 020a120004fe 0000"
        "0800 0100 c612000c"
        "0600 0600 eac7 0000"
    )


def test_connections_are_forgotten_by_where_replies_come_from() -> None:
    message = conntrack._filtered(IPv4Address("10.18.0.2"), conntrack._TUPLE_REPLY)
    assert message == Message(
        0x0102,
        0,
        hexa(
            "02 00 0000"
            "1000 0280 0c00 0180 0800 0100 0a120002"  # the reply's source
            "1400 1980 0800 0100 00000000 0800 0200 01000000"  # compare nothing else
        ),
    )


def test_refusals_carry_the_kernels_own_words() -> None:
    head = netlink.HEADER.pack(40, 24, 5, 9, 0)
    said = netlink.text(1, "Nexthop has invalid gateway")
    error = netlink._error(2, 0x300, 3, struct.pack("=i", -errno.EINVAL) + head + said)
    assert error is not None
    assert (error.errno, error.index, error.strerror) == (errno.EINVAL, 3, "Nexthop has invalid gateway")
    assert netlink._error(2, 0x100, 3, struct.pack("=i", 0) + head) is None, "an acknowledgement"
    plain = netlink._error(2, 0x100, 3, struct.pack("=i", -errno.ENOENT) + head)
    assert plain is not None
    assert plain.strerror == "No such file or directory"


def test_a_links_name_must_fit() -> None:
    with pytest.raises(AssertionError, match="too long"):
        rt.new_bridge("sixteen-letters!", mac=bytes(6), mtu=1500)
