"""Whatever the overlay was and becomes: the difference leads from one to the other, and tenants stay apart."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st

from network_overlays import TENANTS, overlays
from oakestra.model.ids import OrganizationId
from oakestra.network import Overlay, rules
from oakestra.network.rules import Difference, Elements


def elements(overlay: Overlay) -> Elements:
    return rules.elements(overlay, rules.choose_groups(rules.tenants(overlay), {}))


def carry_out(there: Elements, differences: Iterable[Difference]) -> Elements:
    """Do what the kernel does: refuse to take what is not there, and to put what is."""
    after = {name: dict(elements) for name, elements in there.items()}
    for change in differences:
        for key, value in change.remove:
            assert after[change.set].pop(key) == value
        for key, value in change.add:
            assert key not in after[change.set]
            after[change.set][key] = value
    return after


@given(overlays(), overlays())
def test_the_difference_leads_from_the_old_to_the_new(before: Overlay, after: Overlay) -> None:
    old, new = elements(before), elements(after)
    assert carry_out(old, rules.differences(old, new)) == new


@given(overlays())
def test_nothing_changes_when_nothing_changed(overlay: Overlay) -> None:
    assert rules.differences(elements(overlay), elements(overlay)) == ()


@given(overlays())
def test_every_service_that_leads_anywhere_has_all_its_backends(overlay: Overlay) -> None:
    found = elements(overlay)
    for family in rules.FAMILIES:
        chosen = found[f"svc{family}"]
        needed = {
            address + struct.pack("=I", number)
            for address, chain in chosen.items()
            for number in range(int(str(chain).partition("_")[2]))
        }
        assert needed == found[f"be{family}"].keys()


@given(overlays())
def test_a_tenant_reaches_only_what_a_route_or_instance_of_its_own_names(overlay: Overlay) -> None:
    groups = rules.choose_groups(rules.tenants(overlay), {})
    found = rules.elements(overlay, groups)
    for tenant, group in groups.items():
        own: set[str] = set()
        for route in overlay.routes:
            if route.tenant == tenant:
                named = (*(each.address for each in route.backends), *route.senders)
                own |= {route.address.v4, *(each.v4 for each in named)}
        for source in overlay.sources:
            if source.tenant == tenant:
                own |= {source.namespace.v4, source.instance.v4}
        reached = {
            ".".join(map(str, key[:4])) for key in found["reach4"] if struct.unpack("=I", key[4:])[0] == group
        }
        assert reached <= own


@given(st.sets(TENANTS), st.dictionaries(TENANTS, st.integers(1, 5)))
def test_no_two_tenants_have_one_number(wanted: set[OrganizationId], held: dict[OrganizationId, int]) -> None:
    distinct = {tenant: group for group, tenant in {group: tenant for tenant, group in held.items()}.items()}
    groups = rules.choose_groups(wanted, distinct)
    assert len(set(groups.values())) == len(groups)
    assert 0 not in groups.values(), "the group of everybody else's links"
    assert distinct.items() <= groups.items()
    assert wanted <= groups.keys()
