"""Root without its records takes over what clusters claim, as it is, and never twice."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from oakestra.model.errors import Unavailable
from oakestra.model.event import EventKind
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement, Slot
from oakestra.model.service import (
    Application,
    DisconnectPolicy,
    InstanceAddress,
    Reconcile,
    ServiceAddresses,
    ServiceSpec,
)
from oakestra.root.decisions import ForgetService
from oakestra.root.execute import BURIED_MAX, apply, stamp
from oakestra.root.observe import REBUILT_AFTER_S, ClusterSeen, Observed, observe
from oakestra.root.operations import Operations
from oakestra.root.plan import plan
from oakestra.root.rebuild.execute import begin_anew
from oakestra.root.rebuild.numbers import holds, joined, without
from oakestra.root.rebuild.plan import Decline
from oakestra.root.render import cluster_assignments
from oakestra.root.state import (
    Aside,
    Availability,
    ClusterRecord,
    ClusterView,
    Leaving,
    OrganizationRecord,
    RolloutState,
    RootState,
    ServiceRecord,
    UserRecord,
    slot_key,
)
from oakestra.root.story import decided
from oakestra.root.users.access import ADMIN, APPLICATION_PROVIDER, Principal
from oakestra.root.users.accounts import organization_id
from oakestra.store.event_log import EventLog
from oakestra.store.fake import Disk, FakeStore
from oakestra.wire.native import AssignedSlot, Claim, ClusterAssignment, ClusterReport, Origin, Version
from oakestra.wire.sequence import digest
from oakestra.wire.sla import checked_name, parse_sla
from root_api import TABLES, HandClock
from sla_samples import application, microservice, sla

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
ANN = Principal(user=OWNER, name="ann", organization=TENANT, roles=frozenset({APPLICATION_PROVIDER}))
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

    def __init__(self, disk: Disk | None = None) -> None:
        self.state = RootState(FakeStore(TABLES, disk=disk))
        self.now_s = 1.0
        for id, name in ((HERE, "here"), (THERE, "there")):
            self.state.clusters.put(id, ClusterRecord(id=id, name=name, key=name))

    def hear(
        self,
        cluster: ClusterId,
        *claims: Claim,
        epoch: int = 1,
        generation: int = 0,
        statuses: tuple[InstanceStatus, ...] = (),
        availability: str = "",
    ) -> None:
        report = ClusterReport(
            version=Version(),
            applied=Version(epoch=epoch, generation=generation),
            complete=True,
            claims=claims,
            statuses=statuses,
            availability=availability,
        )
        self.state.views[cluster] = ClusterView(last_seen_s=0.0, report=report)

    def operations(self) -> Operations:
        """What users may do meanwhile."""
        events = EventLog(self.state.records, self.state.events)
        return Operations(self.state, events, clock=HandClock(), random=Random(1), wake=lambda: None)

    def passes(self) -> tuple[object, ...]:
        decisions = plan(self.observed())
        apply(self.state, decisions, now_wall_s=1.0)
        return decisions

    def observed(self) -> Observed:
        return observe(self.state, now_s=self.now_s, now_wall_s=1.0, since_s=0.0, lost_after_s=1000.0)

    def seen(self, cluster: ClusterId) -> ClusterSeen:
        return self.observed().clusters[cluster]

    def assignment(self, cluster: ClusterId) -> ClusterAssignment:
        return cluster_assignments(self.observed())[cluster]

    def assigned(self, cluster: ClusterId) -> tuple[tuple[AssignedSlot, ...], tuple[Placement, ...]]:
        assignment = self.assignment(cluster)
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


def test_what_is_on_record_beside_a_later_claim_stays_while_that_is_declined() -> None:
    """One placement serves, one leaves and one is set aside when somebody claims what all of them replaced."""
    root = Afresh()
    third = ClusterId("c" * 24)
    root.state.clusters.put(third, ClusterRecord(id=third, name="third", key="third"))
    root.hear(HERE, claim((0, 4)))
    root.hear(third)
    root.passes()
    key = slot_key(Slot(SERVICE, 0))
    service = root.state.services[SERVICE]
    wants_back = replace(SPEC, disconnect=DisconnectPolicy(reconcile=Reconcile.KEEP_ORIGINAL))
    root.state.services.put(SERVICE, replace(service, spec=wants_back))
    record = replace(
        root.state.slots[key],
        leaving=Leaving(cluster=THERE, placement=3, reason="drained"),
        aside=Aside(cluster=third, placement=2, since_generation=99, revision=SPEC.revision),
    )
    root.state.slots.put(key, record)
    root.hear(THERE, claim((0, 1)))
    root.passes()
    assert root.state.slots[key].rightful == record.rightful
    assert root.assigned(THERE)[1] == (Placement(SERVICE, 0, 1),)


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


OTHERS = tuple(ServiceId(digit * 24) for digit in "638")


def sibling(id: ServiceId, position: int) -> Claim:
    """A claim of a service that has no instances."""
    addresses = ServiceAddresses(round_robin_v4=f"10.30.7.{position}")
    spec = replace(SPEC, id=id, name=f"shop.prod.s{position}.prod", addresses=addresses)
    origin = Origin(service=id, application=APPLICATION, organization="acme", position=position, spec=spec)
    return Claim(service=spec, origin=origin)


def test_services_without_instances_are_found_again_in_their_order() -> None:
    root = Afresh()
    first, second, third = OTHERS
    web = replace(claim((0, 1)), origin=replace(claim().origin, position=2))
    root.hear(HERE, web, sibling(third, 3), sibling(first, 0), sibling(second, 1))
    root.passes()
    assert root.state.applications[APPLICATION.id].services == (first, second, SERVICE, third)
    assert root.state.services[first].spec.addresses.round_robin_v4 == "10.30.7.0"
    assert [slot.slot.service for slot in root.state.slots.values()] == [SERVICE]
    assert not root.passes()


def test_clusters_are_told_of_every_service_of_an_application_they_have_some_of() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)), sibling(OTHERS[0], 1))
    root.passes()
    origins = {origin.service: origin for origin in root.assignment(HERE).origins}
    assert origins.keys() == {SERVICE, OTHERS[0]}
    assert origins[SERVICE].spec is None, "it is among the services"
    assert origins[OTHERS[0]].spec == root.state.services[OTHERS[0]].spec
    assert {origin.epoch for origin in origins.values()} == {1}
    assert root.assignment(THERE).origins == ()


def test_what_was_removed_and_forgotten_does_not_come_back_with_a_late_claim() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    service = root.state.services[SERVICE]
    root.state.services.put(SERVICE, replace(service, removed=((0, 1), (5, 6))))
    root.state.slots.remove(slot_key(Slot(SERVICE, 0)))
    root.hear(HERE)
    root.hear(THERE, claim((0, 2), (5, 1), (6, 1)))
    root.passes()
    assert [slot.slot.number for slot in root.state.slots.values()] == [6]
    assert set(root.assigned(THERE)[1]) == {Placement(SERVICE, 0, 2), Placement(SERVICE, 5, 1)}


def test_one_cluster_knows_what_was_removed_from_another() -> None:
    root = Afresh()
    told = claim((1, 1))
    root.hear(HERE, replace(told, origin=replace(told.origin, removed=((0, 1),))))
    root.hear(THERE, claim((0, 1)))
    root.passes()
    assert [slot.slot.number for slot in root.state.slots.values()] == [1]
    assert root.assigned(THERE)[1] == (Placement(SERVICE, 0, 1),)


def test_what_came_back_with_an_older_copy_is_not_removed_by_what_is_older_still() -> None:
    root = Afresh()
    copy, lost = claim((0, 1)), claim()
    root.hear(HERE, replace(copy, origin=replace(copy.origin, epoch=2)))
    root.hear(THERE, replace(lost, origin=replace(lost.origin, epoch=1, removed=((0, 2),))))
    root.passes()
    assert [slot.slot.number for slot in root.state.slots.values()] == [0]
    assert root.state.services[SERVICE].removed == ((1, 2),), "it is not told to be removed either"
    assert not root.passes()


def test_what_was_deleted_is_remembered_when_nothing_is_left_of_it() -> None:
    root = Afresh()
    root.hear(HERE, claim((0, 1)))
    root.passes()
    root.state.slots.remove(slot_key(Slot(SERVICE, 0)))
    root.state.services.put(SERVICE, replace(root.state.services[SERVICE], deleted=True))
    root.hear(HERE)
    root.passes()
    assert SERVICE not in root.state.services
    root.hear(THERE, claim((1, 1)), sibling(OTHERS[0], 1))
    root.passes()
    assert SERVICE not in root.state.services, "it was deleted"
    assert OTHERS[0] in root.state.services, "this was not"
    assert root.assigned(THERE)[1] == (Placement(SERVICE, 1, 1),)


def test_of_all_that_was_deleted_the_newest_is_remembered() -> None:
    root = Afresh()
    for number in range(BURIED_MAX + 3):
        id = ServiceId(f"{number:024x}")
        root.state.services.put(id, ServiceRecord(spec=replace(SPEC, id=id), deleted=True))
        apply(root.state, [ForgetService(service=id)], now_wall_s=float(number))
    assert len(root.state.buried) == BURIED_MAX
    assert ServiceId(f"{2:024x}") not in root.state.buried


def test_what_was_on_its_way_goes_on_serving_where_it_was() -> None:
    root = Afresh()
    ready = InstanceStatus(key=InstanceKey(SERVICE, 0, 1, 1), phase=Phase.RUNNING, ready=True)
    root.hear(THERE, claim((0, 2)))
    root.passes()
    root.hear(HERE, claim((0, 1)), statuses=(ready,))
    root.passes()
    record = root.state.slots[slot_key(Slot(SERVICE, 0))]
    assert (record.cluster, record.placement) == (THERE, 2)
    assert record.leaving is not None
    assert (record.leaving.cluster, record.leaving.placement) == (HERE, 1)
    assert record.serving == (HERE, Placement(SERVICE, 0, 1))
    root.passes()
    assert root.assigned(HERE)[1] == ()


def test_a_cluster_stays_closed_unless_somebody_opened_it_since() -> None:
    root = Afresh()
    root.hear(HERE, availability="draining")
    assert root.seen(HERE).availability is Availability.DRAINING, "at once"
    root.passes()
    assert root.state.clusters[HERE].availability is Availability.DRAINING
    assert root.assignment(HERE).availability == "draining"
    opened = replace(root.state.clusters[HERE], availability=Availability.ACTIVE)
    root.state.clusters.put(HERE, opened)
    assert not root.passes()
    assert root.state.clusters[HERE].availability is Availability.ACTIVE


def test_while_records_are_new_clusters_hear_which_others_have_told_what_they_hold() -> None:
    root = Afresh()
    assert root.assignment(HERE).heard == ()
    root.hear(THERE, claim((0, 1)))
    root.passes()
    assert root.assignment(HERE).heard == (), "it has not told itself what it needs of others"
    root.hear(HERE)
    assert root.assignment(HERE).heard == (THERE,)
    root.now_s = 1.0 + REBUILT_AFTER_S
    root.passes()
    assert root.assignment(HERE).heard is None


def test_numbers_are_kept_as_few_ranges() -> None:
    assert joined([(3, 4), (0, 1)], [(1, 2), (4, 6), (5, 5)]) == ((0, 2), (3, 6))
    assert without(((0, 2), (3, 6)), [1, 4, 7]) == ((0, 1), (3, 4), (5, 6))
    assert [number for number in range(8) if holds(((0, 2), (3, 6)), number)] == [0, 1, 3, 4, 5]


def updated(image: str) -> Afresh:
    """Root that took a service over at revision 3, and of which somebody then asked for another image of it."""
    root = Afresh()
    document = {
        "microservice_name": "web",
        "microservice_namespace": "prod",
        "virtualization": "container",
        "memory": 100,
        "code": "old",
    }
    first = claim((0, 1))
    root.hear(HERE, replace(first, origin=replace(first.origin, document=document)))
    root.passes()
    root.hear(HERE)
    service = asyncio.run(root.operations().update_service(ANN, SERVICE, {"code": image}))
    assert (service.spec.revision, service.spec.image) == (4, image)
    return root


@pytest.mark.parametrize("revision", [4, 5])
def test_what_somebody_asks_for_goes_before_updates_of_which_only_a_late_cluster_knows(revision: int) -> None:
    root = updated("newest")
    begin_anew(root.state, 7)
    asyncio.run(root.state.commit())
    lost = replace(SPEC, revision=revision, image="of lost records")
    root.hear(HERE, epoch=7)
    root.hear(THERE, claim((1, 1), spec=lost), claim((2, 1), spec=lost), epoch=7)
    seen = root.observed()
    decisions = root.passes()
    (event,) = [one for one in decided(decisions, seen, {}) if one.kind is EventKind.UPDATED]  # type: ignore[arg-type]
    assert event.reason == (
        f"revision 4 is revision {revision + 1} now: it goes before revision {revision}, which a cluster knows "
        "from records that root lost"
    )
    service = root.state.services[SERVICE]
    assert service.spec.image == "newest"
    assert not service.spec.covers(revision), "every cluster must carry it out"
    assert service.rollout is not None
    assert service.rollout.state is RolloutState.ROLLING
    root.passes()
    assert root.state.services[SERVICE].spec == service.spec


def test_what_nobody_changed_since_the_copy_follows_what_clusters_know_and_that_is_told() -> None:
    root = updated("of the copy")
    root.state.changed_here.clear()  # this process is not the one in which it was asked for
    begin_anew(root.state, 7)
    asyncio.run(root.state.commit())
    root.hear(THERE, claim((1, 1), spec=replace(SPEC, revision=5, image="later")), epoch=7)
    seen = root.observed()
    decisions = root.passes()
    (event,) = [one for one in decided(decisions, seen, {}) if one.kind is EventKind.UPDATED]  # type: ignore[arg-type]
    assert event.reason == "revision 5, which a cluster knows from records that root lost, follows revision 4"
    assert root.state.services[SERVICE].spec.image == "later"


@pytest.mark.parametrize("wanted", [1, 2, 4])
def test_whoever_scales_has_exactly_so_many_whatever_is_heard_of_later(wanted: int) -> None:
    root = Afresh()
    first, late = claim((0, 1), (1, 1)), claim((2, 1), (3, 1))
    root.hear(HERE, replace(first, origin=replace(first.origin, next_slot=4)))
    root.passes()
    asyncio.run(root.operations().scale(ANN, SERVICE, wanted))
    root.hear(THERE, replace(late, origin=replace(late.origin, next_slot=4)))
    root.passes()
    root.passes()
    assert sum(record.wanted for record in root.state.slots.values()) == wanted


def test_a_disk_that_is_full_for_a_moment_costs_nobody_an_address() -> None:
    root = Afresh(disk := Disk({name: {} for name in TABLES}, epoch=1))
    asyncio.run(root.state.commit())
    root.hear(HERE, claim((0, 1)))
    disk.full = True
    root.passes()
    with pytest.raises(Unavailable):
        asyncio.run(root.state.commit())
    root.passes()
    assert root.state.slots[slot_key(Slot(SERVICE, 0))].address == claim((0, 1)).slots[0].address
    assert root.state.services[SERVICE].spec.addresses == SPEC.addresses


def test_an_application_that_comes_late_is_called_otherwise_where_there_is_one_of_its_name() -> None:
    root = Afresh()
    again = sla(application(microservice("web"), name="shop"))
    (new,) = asyncio.run(root.operations().create_applications(ANN, parse_sla(again)))
    late = claim((0, 1))
    namesake = replace(APPLICATION, namespace=new.application.namespace)
    root.hear(THERE, replace(late, origin=replace(late.origin, application=namesake)))
    root.passes()
    old = root.state.applications[APPLICATION.id].application
    assert (new.application.name, old.name) == ("shop", "shop44444444")
    assert checked_name(old.name)
    assert root.state.services[SERVICE].spec.name == f"shop44444444.{old.namespace}.web.prod"
    root.hear(HERE, claim((1, 1), spec=replace(SPEC, revision=4)))
    root.passes()
    known = root.state.services[SERVICE].spec
    assert (known.revision, known.name) == (4, f"shop44444444.{old.namespace}.web.prod")
