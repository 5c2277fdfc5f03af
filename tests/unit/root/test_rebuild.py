"""Root without its records takes over what clusters claim, as it is, and never twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import Placement, Slot
from oakestra.model.service import (
    Application,
    DisconnectPolicy,
    InstanceAddress,
    Reconcile,
    ServiceAddresses,
    ServiceSpec,
)
from oakestra.root.execute import apply, stamp
from oakestra.root.observe import observe
from oakestra.root.plan import plan
from oakestra.root.rebuild.plan import Decline
from oakestra.root.render import cluster_assignments
from oakestra.root.state import (
    Aside,
    ClusterRecord,
    ClusterView,
    OrganizationRecord,
    RootState,
    UserRecord,
    slot_key,
)
from oakestra.root.users.access import ADMIN
from oakestra.root.users.accounts import organization_id
from oakestra.store.fake import FakeStore
from oakestra.wire.native import AssignedSlot, Claim, ClusterReport, Origin, Version
from oakestra.wire.sequence import digest
from root_api import TABLES

HERE, THERE = ClusterId("a" * 24), ClusterId("b" * 24)
SERVICE, TENANT, OWNER = ServiceId("5" * 24), OrganizationId("7" * 24), UserId("9" * 24)
APPLICATION = Application(
    id=ApplicationId("4" * 24),
    name="shop",
    namespace="prod",
    description="sells",
    owner=OWNER,
    tenant=TENANT,
)
SPEC = ServiceSpec(
    id=SERVICE,
    application_id=APPLICATION.id,
    tenant=TENANT,
    name="shop.prod.web.prod",
    revision=3,
    addresses=ServiceAddresses(round_robin_v4="10.30.0.1", closest_v4="10.30.0.2"),
)
DOCUMENT = {"microservice_name": "web", "memory": 100}


def claim(*placed: tuple[int, int], spec: ServiceSpec = SPEC) -> Claim:
    """A claim of these slots and placements of the service."""
    return Claim(
        service=spec,
        origin=Origin(
            service=SERVICE, application=APPLICATION, organization="acme", document=DOCUMENT, next_slot=9
        ),
        slots=tuple(
            AssignedSlot(
                placed=Placement(SERVICE, number, placement),
                address=InstanceAddress(v4=f"10.30.0.{10 + number}"),
            )
            for number, placement in placed
        ),
    )


class Afresh:
    """Root with new records, and clusters that claim something."""

    def __init__(self) -> None:
        self.state = RootState(FakeStore(TABLES))
        for id, name in ((HERE, "here"), (THERE, "there")):
            self.state.clusters.put(id, ClusterRecord(id=id, name=name, key=name))

    def hear(self, cluster: ClusterId, *claims: Claim, epoch: int = 1, generation: int = 0) -> None:
        version = Version(epoch=epoch, generation=generation)
        report = ClusterReport(version=Version(), applied=version, complete=True, claims=claims)
        self.state.views[cluster] = ClusterView(last_seen_s=0.0, report=report)

    def passes(self) -> tuple[object, ...]:
        observed = observe(self.state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0)
        decisions = plan(observed)
        apply(self.state, decisions, now_wall_s=1.0)
        return decisions

    def assigned(self, cluster: ClusterId) -> tuple[tuple[AssignedSlot, ...], tuple[Placement, ...]]:
        observed = observe(self.state, now_s=1.0, now_wall_s=1.0, since_s=0.0, lost_after_s=15.0)
        assignment = cluster_assignments(observed)[cluster]
        stamp(self.state, cluster, digest(assignment))
        return assignment.slots, assignment.withdrawn


def test_what_a_cluster_claims_is_taken_over_as_it_is() -> None:
    root = Afresh()
    admin = UserId("1" * 24)
    root.state.users.put(admin, UserRecord(id=admin, name=ADMIN))
    root.hear(HERE, claim((0, 1), (4, 2)))
    root.passes()

    service = root.state.services[SERVICE]
    assert (service.spec, service.document, service.next_slot) == (SPEC, DOCUMENT, 9)
    application = root.state.applications[APPLICATION.id]
    assert application.application == replace(APPLICATION, owner=admin)
    assert application.services == (SERVICE,)
    assert root.state.organizations[TENANT].name == "acme"
    assert root.assigned(HERE) == (claim((0, 1), (4, 2)).slots, ())
    assert root.state.pool.instance().v4 not in {"10.30.0.1", "10.30.0.2", "10.30.0.10", "10.30.0.14"}
    assert not root.passes(), "an answer that has not arrived is not given again"


def test_of_two_claims_to_a_slot_the_later_placement_is_taken_over() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.hear(THERE, claim((0, 2)))
    root.passes()
    assert root.assigned(HERE) == ((), (Placement(SERVICE, 0, 1),))
    assert root.assigned(THERE)[0] == claim((0, 2)).slots


def test_who_comes_late_with_an_earlier_placement_is_declined() -> None:
    root = Afresh()
    root.hear(THERE, claim((0, 2)))
    root.passes()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    assert root.assigned(HERE) == ((), (Placement(SERVICE, 0, 1),))
    assert root.assigned(THERE)[0] == claim((0, 2)).slots


def test_an_older_copy_of_the_records_learns_what_came_after_it() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    later = replace(SPEC, revision=5, image="new")
    root.hear(THERE, claim((0, 2), spec=later))
    decisions = root.passes()
    assert Decline(placed=Placement(SERVICE, 0, 1), cluster=HERE, reason="a later placement was found") in (
        decisions
    )
    assert root.state.services[SERVICE].spec == later
    assert root.assigned(HERE) == ((), (Placement(SERVICE, 0, 1),))
    assert root.state.slots[slot_key(Slot(SERVICE, 0))].address == InstanceAddress(v4="10.30.0.10")


def test_what_one_that_was_taken_back_has_replaced_is_not_taken_over() -> None:
    """Its number is the higher one, and root knows that it was given."""
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    key = slot_key(Slot(SERVICE, 0))
    root.state.slots.put(key, replace(root.state.slots[key], highest_placement=2))
    root.hear(THERE, claim((0, 2)))
    root.passes()
    assert root.assigned(HERE)[0] == claim((0, 1)).slots
    assert root.assigned(THERE) == ((), (Placement(SERVICE, 0, 2),))


def test_what_is_set_aside_needs_no_claim_and_goes_where_a_later_placement_is_found() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    key, revision = slot_key(Slot(SERVICE, 0)), SPEC.revision
    service = root.state.services[SERVICE]
    wants_back = replace(SPEC, disconnect=DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    root.state.services.put(SERVICE, replace(service, spec=wants_back))
    aside = Aside(cluster=HERE, placement=1, since_generation=99, revision=revision)
    root.state.slots.put(
        key, replace(root.state.slots[key], cluster=THERE, placement=2, aside=aside, status=None)
    )
    root.passes()
    ((held,), withdrawn) = root.assigned(HERE)
    assert (held.placed, held.turned, withdrawn) == (Placement(SERVICE, 0, 1), True, ())
    root.hear(HERE)
    root.hear(THERE, claim((0, 3)))
    root.passes()
    assert root.assigned(HERE) == ((), (Placement(SERVICE, 0, 1),))
    assert (root.state.slots[key].placement, root.state.slots[key].aside) == (3, None)


def test_what_users_removed_since_is_not_taken_over_again() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    service = root.state.services[SERVICE]
    root.state.services.put(SERVICE, replace(service, deleted=True))
    root.hear(THERE, claim((1, 1)))
    root.passes()
    assert slot_key(Slot(SERVICE, 1)) not in root.state.slots
    assert root.assigned(THERE) == ((), (Placement(SERVICE, 1, 1),))


def test_an_address_that_somebody_was_given_since_is_not_given_twice() -> None:
    root = Afresh()
    taken = root.state.pool.instance()
    root.hear(HERE, claim((0, 1), spec=replace(SPEC, addresses=ServiceAddresses(round_robin_v4=taken.v4))))
    root.passes()
    addresses = root.state.services[SERVICE].spec.addresses
    assert addresses.round_robin_v4 not in ("", taken.v4)


def test_an_organization_keeps_its_id_even_if_another_has_its_name() -> None:
    root = Afresh()
    id = OrganizationId("e" * 24)
    root.state.organizations.put(id, OrganizationRecord(id=id, name="acme"))
    root.hear(HERE, claim((0, 1)))
    root.passes()
    assert root.state.applications[APPLICATION.id].application.tenant == TENANT
    assert {id: record.name for id, record in root.state.organizations.items()} == {
        id: "acme",
        TENANT: f"acme {TENANT}",
    }


def test_an_organization_made_anew_is_the_one_it_was() -> None:
    first, second = RootState(FakeStore(TABLES)), RootState(FakeStore(TABLES))
    id = organization_id(first, "acme", Random(1))
    assert organization_id(second, "acme", Random(2)) == id != organization_id(second, "other", Random(2))
    second.organizations.put(id, OrganizationRecord(id=id, name="renamed"))
    assert organization_id(second, "acme", Random(2)) != id


def test_a_claim_against_other_records_counts_for_nothing() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)), epoch=7)
    assert not root.passes()


def test_what_was_taken_over_is_on_disk() -> None:
    async def story() -> None:
        root = Afresh()
        root.hear(HERE, claim((0, 1)))
        root.passes()
        await root.state.commit()
        root.state.records.load()
        assert root.state.slots[slot_key(Slot(SERVICE, 0))].cluster == HERE

    asyncio.run(story())
