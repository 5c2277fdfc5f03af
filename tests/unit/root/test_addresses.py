"""Addresses are given out once, come back late, and those users choose are theirs or refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oakestra.model.errors import Conflict, Unavailable
from oakestra.model.service import InstanceAddress
from oakestra.root.addresses import POOL_SIZE, AddressPool
from oakestra.wire.sla import WantedAddresses

ANY = WantedAddresses()


def test_each_address_comes_from_its_network_and_has_a_twin() -> None:
    pool = AddressPool(lambda: ())
    instance, service = pool.instance(), pool.service(ANY)
    assert instance == InstanceAddress(v4="10.30.0.1", v6="fdff::1")
    assert (service.round_robin_v4, service.round_robin_v6) == ("10.30.0.2", "fdff:2000::2")
    assert (service.closest_v4, service.closest_v6) == ("10.30.0.3", "fdff:1000::3")
    for text, network in (
        (service.round_robin_v6, "fdff:2000::/21"),
        (service.closest_v6, "fdff:1000::/21"),
        (instance.v6, "fdff::/21"),
    ):
        assert ip_address(text) in ip_network(network)


def test_a_whole_walk_gives_no_address_twice_and_then_says_so() -> None:
    given_out: list[InstanceAddress] = []
    pool = AddressPool(lambda: given_out)
    given_out.extend(pool.instance() for _ in range(POOL_SIZE))
    assert (
        len({address.v4 for address in given_out}) == len({address.v6 for address in given_out}) == POOL_SIZE
    )
    octets = {int(part) for address in given_out for part in address.v4.split(".")[2:]}
    assert octets == set(range(254))
    with pytest.raises(Unavailable, match="in use"):
        pool.instance()
    back = given_out.pop(1234)
    assert pool.instance() == back


def test_what_was_released_is_not_next() -> None:
    held: list[InstanceAddress] = []
    pool = AddressPool(lambda: held)
    first = pool.instance()
    assert {pool.instance().v4 for _ in range(100)}.isdisjoint({first.v4})


def test_what_was_given_out_and_not_recorded_can_be_kept_by_whom_it_belongs_to() -> None:
    held: list[InstanceAddress] = []
    pool = AddressPool(lambda: held)
    lost = InstanceAddress(v4="10.30.0.7")
    assert pool.keep(lost)
    assert not pool.keep(lost)
    pool.look_again()
    assert pool.keep(lost)


def test_after_a_restart_what_is_held_is_left_alone() -> None:
    held = [InstanceAddress(v4="10.30.0.1", v6="fdff::1"), InstanceAddress(v4="10.30.9.9", v6="fdff::2")]
    assert AddressPool(lambda: held).instance() == InstanceAddress(v4="10.30.0.3", v6="fdff::3")


def test_a_chosen_address_is_given_with_its_twin() -> None:
    service = AddressPool(lambda: ()).service(WantedAddresses(round_robin_v4="10.30.5.7"))
    assert (service.round_robin_v4, service.round_robin_v6) == ("10.30.5.7", "fdff:2000::507")


def test_a_chosen_address_is_not_given_to_others_later() -> None:
    pool = AddressPool(lambda: ())
    pool.service(WantedAddresses(round_robin_v4="10.30.0.2", round_robin_v6="fdff:2000::4"))
    taken = [pool.service(ANY) for _ in range(3)]
    assert "10.30.0.2" not in {found.round_robin_v4 for found in taken} | {
        found.closest_v4 for found in taken
    }
    assert "fdff:2000::4" not in {found.round_robin_v6 for found in taken}


@pytest.mark.parametrize(
    "wanted",
    [
        WantedAddresses(round_robin_v4="10.30.5.5"),
        WantedAddresses(round_robin_v6="fdff:2000::505"),
        WantedAddresses(round_robin_v4="10.30.6.6", round_robin_v6="fdff:2000::505"),
    ],
)
def test_what_belongs_to_another_service_is_refused(wanted: WantedAddresses) -> None:
    pool = AddressPool(lambda: [InstanceAddress(v4="10.30.5.5", v6="fdff:2000::505")])
    with pytest.raises(Conflict, match="belongs to another service"):
        pool.service(wanted)


def test_an_address_at_rest_goes_back_to_whose_it_was() -> None:
    pool = AddressPool(lambda: [InstanceAddress(v4="10.30.5.5", v6="fdff:2000::505")])
    own = frozenset({"10.30.5.5", "fdff:2000::505"})
    assert (
        pool.service(WantedAddresses(round_robin_v4="10.30.5.5"), claimable=own).round_robin_v4 == "10.30.5.5"
    )


@settings(max_examples=50)
@given(st.lists(st.sampled_from(["instance", "service", "chosen", "release"]), max_size=60), st.randoms())
def test_nothing_is_ever_held_twice(story: list[str], random: object) -> None:
    held: list[InstanceAddress] = []
    pool = AddressPool(lambda: held)
    for event in story:
        if event == "instance":
            held.append(pool.instance())
        elif event == "release" and held:
            held.pop(random.randrange(len(held)))  # type: ignore[attr-defined]
        else:
            low = random.randint(1, 9)  # type: ignore[attr-defined]
            wanted = WantedAddresses(round_robin_v4=f"10.30.0.{low}") if event == "chosen" else ANY
            try:
                service = pool.service(wanted)
            except Conflict:
                continue
            held.append(InstanceAddress(v4=service.round_robin_v4, v6=service.round_robin_v6))
            held.append(InstanceAddress(v4=service.closest_v4, v6=service.closest_v6))
        texts = [text for address in held for text in (address.v4, address.v6)]
        assert len(set(texts)) == len(texts)
