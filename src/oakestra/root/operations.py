"""What users do with applications, services and instances, whatever they do it with.

Each operation checks who asks, records what is wanted, waits until that is durable, and wakes the loop. Nothing
here acts. Between the first change of a record and `commit` nothing is awaited: a failed commit takes back
everybody's uncommitted changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from oakestra.control.clock import Clock
from oakestra.control.entropy import new_id
from oakestra.control.failpoints import Point, reach
from oakestra.model.errors import Conflict, Invalid, NotFound, OakestraError
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import Slot, is_done
from oakestra.model.service import Application, InstanceAddress, ServiceAddresses
from oakestra.root.execute import rolled_back
from oakestra.root.rebuild.numbers import holds, joined, without
from oakestra.root.state import (
    ApplicationRecord,
    Availability,
    ClusterRecord,
    Earlier,
    Rollout,
    RolloutState,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.root.users.access import Principal
from oakestra.store.event_log import EventLog
from oakestra.wire.native import NumberRange
from oakestra.wire.sla import (
    Microservice,
    Sla,
    SlaApplication,
    WantedAddresses,
    checked_name,
    parse_microservice,
    service_spec,
)

logger = logging.getLogger(__name__)

INSTANCES_MAX = 1000
"""Instances of one service; the sets that tiers exchange are made for so many."""

ALL = -1
"""In place of an instance's number: every one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServiceRefused:
    """A service of an SLA that was not created, and why."""

    name: str
    error: OakestraError


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesAdded:
    """What became of the services of an SLA."""

    created: tuple[ServiceRecord, ...]
    refused: tuple[ServiceRefused, ...]


class Operations:
    """What users may do; each call raises `NotFound` for what the asker may not know about."""

    def __init__(
        self, state: RootState, events: EventLog, *, clock: Clock, random: Random, wake: Callable[[], None]
    ) -> None:
        self._state = state
        self._events = events
        self._clock = clock
        self._random = random
        self._wake = wake

    # --- applications ------------------------------------------------------------------------------------------

    async def create_applications(self, asker: Principal, sla: Sla) -> list[ApplicationRecord]:
        """Create every application of an SLA with its services, or none; return the new ones."""
        asker.must_provide_applications()
        for wanted in sla.applications:
            self._must_be_new(asker, wanted)
        drafts = [self._draft(asker, wanted) for wanted in sla.applications]
        _no_address_twice([service for _, services in drafts for service in services])
        for record, services in drafts:
            self._state.applications.put(record.application.id, record)
            self._tell(f"application {_name(record)} was created by {asker.name}", subject=_name(record))
            for service in services:
                self._put_new(service)
                self._tell(f"created by {asker.name}", service)
        await self._commit(
            "applications created", asker, applications=[record.application.id for record, _ in drafts]
        )
        return [record for record, _ in drafts]

    def applications(self, asker: Principal, *, owner: UserId | None = None) -> list[ApplicationRecord]:
        """Return the applications the asker may see, or those of them that `owner` owns, oldest first."""
        found = (
            record
            for record in self._state.applications.values()
            if not record.application.deleted
            and asker.may_see(record.application)
            and owner in (None, record.application.owner)
        )
        return sorted(found, key=lambda record: record.created_wall_s)

    def application(self, asker: Principal, id: str) -> ApplicationRecord:
        """Return an application."""
        record = self._state.applications.get(id)
        if record is None or record.application.deleted or not asker.may_see(record.application):
            raise NotFound(f"there is no application {id!r} of yours; `oak app ls` shows what there is")
        return record

    async def update_application(
        self, asker: Principal, id: str, *, name: str | None, namespace: str | None, description: str | None
    ) -> ApplicationRecord:
        """Change an application's description, and its name as long as no service is called by it.

        None leaves things as they are.
        """
        asker.must_provide_applications()
        record = self.application(asker, id)
        application = record.application
        name = application.name if name is None else checked_name(name)
        namespace = application.namespace if namespace is None else checked_name(namespace)
        description = application.description if description is None else description
        if (name, namespace) != (application.name, application.namespace):
            if self.services_of(record):
                raise Conflict(
                    f"{application.name}.{application.namespace} has services, whose names contain it; "
                    "delete them first, or create a new application"
                )
            self._must_be_new(asker, SlaApplication(name=name, namespace=namespace))
        changed = replace(application, name=name, namespace=namespace, description=description)
        updated = replace(record, application=changed)
        self._state.applications.put(application.id, updated)
        await self._commit("application updated", asker, application=id)
        return updated

    async def delete_application(self, asker: Principal, id: str) -> None:
        """Delete an application with everything in it."""
        asker.must_provide_applications()
        record = self.application(asker, id)
        for service in self.services_of(record):
            self._tell(f"deleted with its application by {asker.name}", service)
            self._bury(service)
        self._tell(f"application {_name(record)} was deleted by {asker.name}", subject=_name(record))
        application = replace(record.application, deleted=True)
        self._state.applications.put(application.id, replace(record, application=application))
        await self._commit("application deleted", asker, application=id)

    # --- services ----------------------------------------------------------------------------------------------

    async def create_services(self, asker: Principal, sla: Sla) -> ServicesAdded:
        """Add the services of the SLA's first application to the application it names.

        A service that cannot be created is reported with its reason; the others are created.
        """
        asker.must_provide_applications()
        if not sla.applications:
            raise Invalid("the SLA names no application to add services to")
        wanted = sla.applications[0]
        record = self.application(asker, wanted.id)
        created: list[ServiceRecord] = []
        refused: list[ServiceRefused] = []
        for microservice in wanted.microservices:
            try:
                self._must_be_new_service(record, microservice)
                service = self._draft_service(record.application, microservice)
            except OakestraError as error:
                refused.append(ServiceRefused(name=microservice.name, error=error))
            else:
                self._put_new(service)
                self._tell(f"created by {asker.name}", service)
                created.append(service)
        ids = (*record.services, *(service.spec.id for service in created))
        self._state.applications.put(record.application.id, replace(record, services=ids))
        await self._commit("services created", asker, services=[service.spec.name for service in created])
        return ServicesAdded(created=tuple(created), refused=tuple(refused))

    def services(self, asker: Principal) -> list[ServiceRecord]:
        """Return every service the asker may see: those of each application in the order of its SLA."""
        return [service for record in self.applications(asker) for service in self.services_of(record)]

    def services_of(self, application: ApplicationRecord) -> list[ServiceRecord]:
        """Return an application's services."""
        return [
            self._state.services[id]
            for id in application.services
            if id in self._state.services and not self._state.services[id].deleted
        ]

    def service(self, asker: Principal, id: str) -> ServiceRecord:
        """Return a service."""
        record = self._state.services.get(id)
        if record is not None and not record.deleted:
            application = self._state.applications.get(record.spec.application_id)
            if (
                application is not None
                and not application.application.deleted
                and asker.may_see(application.application)
            ):
                return record
        raise NotFound(f"there is no service {id!r} of yours; `oak service ls` shows what there is")

    async def delete_service(self, asker: Principal, id: str) -> None:
        """Delete a service with its instances."""
        asker.must_provide_applications()
        service = self.service(asker, id)
        self._tell(f"deleted by {asker.name}", service)
        self._bury(service)
        await self._commit("service deleted", asker, service=id)

    async def update_service(self, asker: Principal, id: str, change: Mapping[str, Any]) -> ServiceRecord:
        """Make a new revision of a service; `change` has the keys of its SLA that are to be other than they are.

        Raises `Invalid` naming every mistake. Nothing happens if nothing is other than it is.
        """
        asker.must_provide_applications()
        service = self.service(asker, id)
        wanted = parse_microservice({**service.document, **change})
        if (wanted.name, wanted.namespace) != tuple(service.spec.name.split(".")[2:]):
            raise Invalid("a service keeps its name; create another service, or leave the name out")
        _must_keep(wanted.addresses, service.spec.addresses)
        spec = replace(
            service_spec(
                wanted,
                id=service.spec.id,
                application_id=service.spec.application_id,
                tenant=service.spec.tenant,
                application=(service.spec.name.split(".")[0], service.spec.name.split(".")[1]),
                addresses=service.spec.addresses,
            ),
            revision=service.spec.revision,
            same_as=service.spec.same_as,
        )
        if spec == service.spec:
            return service
        now_wall_s = self._clock.wall_s()
        updated = replace(
            service,
            spec=replace(spec, revision=service.spec.revision + 1, same_as=()),
            document=wanted.document,
            earlier=Earlier(spec=service.spec, document=service.document),
            rollout=Rollout(state=RolloutState.ROLLING, began_wall_s=now_wall_s, moved_wall_s=now_wall_s),
        )
        updated = self._revised(updated)
        self._tell(f"update to revision {updated.spec.revision} begun by {asker.name}", service)
        await self._commit("service updated", asker, service=service.spec.id, revision=updated.spec.revision)
        return updated

    async def roll_back_service(self, asker: Principal, id: str) -> ServiceRecord:
        """Go back to the revision before the last update. Raises `Conflict` if there is none."""
        asker.must_provide_applications()
        service = self.service(asker, id)
        if service.earlier is None:
            raise Conflict(
                f"{service.spec.name} has no revision to go back to: it was not updated since it was created "
                "or last rolled back"
            )
        now_wall_s = self._clock.wall_s()
        back = rolled_back(service, f"rolled back by {asker.name}", now_wall_s)
        back = self._revised(back)
        self._tell(
            f"rolled back by {asker.name} from revision {service.spec.revision} to revision "
            f"{service.earlier.spec.revision}, which is revision {back.spec.revision} now",
            service,
        )
        await self._commit("service rolled back", asker, service=service.spec.id, revision=back.spec.revision)
        return back

    # --- clusters ----------------------------------------------------------------------------------------------

    def _cluster(self, id: str) -> ClusterRecord:
        record = self._state.clusters.get(id)
        if record is None:
            raise NotFound(f"there is no cluster {id!r}; `oak cluster ls` shows what there is")
        return record

    async def set_cluster(self, asker: Principal, id: str, availability: str) -> ClusterRecord:
        """Let a cluster take instances, no new ones, or none at all."""
        record = self._cluster(id)
        if availability not in set(Availability):
            raise Invalid(f"availability: expected one of {', '.join(Availability)}, found {availability!r}")
        changed = replace(
            record, availability=Availability(availability), availability_epoch=self._state.records.epoch
        )
        self._state.clusters.put(record.id, changed)
        self._state.changed_here.add(record.id)
        if changed.availability is not record.availability:
            self._tell(f"cluster {record.name} is {availability}, as {asker.name} asked", subject=record.name)
        await self._commit("availability changed", asker, cluster=record.name, availability=availability)
        return changed

    async def remove_cluster(self, asker: Principal, id: str) -> ClusterRecord:
        """Forget a cluster that is lost or holds nothing; should it come back, it is a new member.

        What a lost one had is placed elsewhere, whatever its policy: who removes it says that it is gone for good.
        """
        record = self._cluster(id)
        if record.id not in self._state.last.lost:
            self._must_hold_nothing(record)
        self._state.clusters.remove(record.id)
        self._tell(f"cluster {record.name} was removed by {asker.name}", subject=record.name)
        await self._commit("cluster removed", asker, cluster=record.name)
        self._state.views.pop(record.id, None)
        return record

    def _must_hold_nothing(self, cluster: ClusterRecord) -> None:
        held = sum(
            holder == cluster.id
            for slot in self._state.slots.values()
            if not is_done(self._state.services[slot.slot.service].spec, slot.status)
            for holder, _ in slot.placements
        )
        if held:
            raise Conflict(
                f"cluster {cluster.name} has {held} instance{'' if held == 1 else 's'}; move them away first: "
                f"oak cluster drain {cluster.name} (one that is lost may be removed with what it has)"
            )
        told = [one.placed.service for one in self._state.withdrawals.values() if one.cluster == cluster.id]
        ending = sum(self._state.services[service].spec.runs_alone for service in told)
        if ending:
            raise Conflict(
                f"cluster {cluster.name} has not ended {ending} instance{'' if ending == 1 else 's'} that must not run twice "
                "(disconnect.replace); ask again when it has, or when it is lost"
            )

    # --- instances ---------------------------------------------------------------------------------------------

    async def deploy(self, asker: Principal, id: str) -> Slot:
        """Ask for one more instance of a service; return its slot."""
        asker.must_provide_applications()
        service = self.service(asker, id)
        self._must_have_room(service, len(self._wanted(service)) + 1)
        self._tell_scaled(asker, service, len(self._wanted(service)) + 1)
        slot = self._add_slot(service)
        await self._commit("instance requested", asker, service=id, instance=slot.number)
        return slot

    async def undeploy(self, asker: Principal, id: str, number: int) -> None:
        """Remove one instance, or all if `number` is −1. One that is already gone is no error."""
        asker.must_provide_applications()
        service = self.service(asker, id)
        if not ALL <= number < service.next_slot:
            raise NotFound(f"{service.spec.name} never had an instance {number}")
        if number == ALL:
            self._tell_scaled(asker, service, 0)
        elif any(record.slot.number == number for record in self._wanted(service)):
            self._tell(f"instance {number} was removed by {asker.name}", service, slot=number)
        # also those numbers whose instances nobody has told these records of, if they are new
        self._release(service, (0, service.next_slot) if number == ALL else (number, number + 1))
        await self._commit("instance removed", asker, service=id, instance=number)

    async def scale(self, asker: Principal, id: str, instances: int) -> tuple[Slot, ...]:
        """Have exactly so many instances: add slots, or remove those with the highest numbers; return them all."""
        asker.must_provide_applications()
        service = self.service(asker, id)
        if instances < 0:
            raise Invalid(f"expected a number of instances, 0 or more, found {instances}")
        self._must_have_room(service, instances)
        wanted = self._wanted(service)
        self._tell_scaled(asker, service, instances)
        kept = [record.slot for record in wanted[:instances]]
        # also those numbers whose instances nobody has told these records of, if they are new
        self._release(service, *without([(0, service.next_slot)], [slot.number for slot in kept]))
        while len(kept) < instances:
            kept.append(self._add_slot(self._state.services[service.spec.id]))
        await self._commit("service scaled", asker, service=id, instances=instances)
        return tuple(kept)

    # --- recording ---------------------------------------------------------------------------------------------

    def _draft(
        self, asker: Principal, wanted: SlaApplication
    ) -> tuple[ApplicationRecord, list[ServiceRecord]]:
        application = Application(
            id=ApplicationId(new_id(self._random)),
            name=wanted.name,
            namespace=wanted.namespace,
            description=wanted.description,
            owner=asker.user,
            tenant=asker.organization,
        )
        services = [self._draft_service(application, microservice) for microservice in wanted.microservices]
        ids = tuple(service.spec.id for service in services)
        record = ApplicationRecord(
            application=application,
            services=ids,
            extra=dict(wanted.extra),
            created_wall_s=self._clock.wall_s(),
        )
        return record, services

    def _draft_service(self, application: Application, wanted: Microservice) -> ServiceRecord:
        spec = service_spec(
            wanted,
            id=ServiceId(new_id(self._random)),
            application_id=application.id,
            tenant=application.tenant,
            application=(application.name, application.namespace),
            addresses=self._state.pool.service(
                wanted.addresses, claimable=self._claimable(application.tenant)
            ),
        )
        return ServiceRecord(spec=spec, document=wanted.document)

    def _put_new(self, service: ServiceRecord) -> None:
        self._state.services.put(service.spec.id, service)
        given = set(_texts(service.spec.addresses.both))
        for key, resting in list(self._state.quarantine.items()):
            if given & set(_texts([resting.address])):
                self._state.quarantine.remove(key)
        for record in list(self._state.services.values()):
            if record.deleted and given & set(_texts([record.spec.addresses.round_robin])):
                left = replace(record.spec.addresses, round_robin_v4="", round_robin_v6="")
                self._state.services.put(
                    record.spec.id, replace(record, spec=replace(record.spec, addresses=left))
                )

    def _revised(self, service: ServiceRecord) -> ServiceRecord:
        """Record what somebody made of a service, which goes before what records that are gone asked for; return it."""
        revised = replace(service, revised_epoch=self._state.records.epoch)
        self._state.services.put(service.spec.id, revised)
        self._state.changed_here.add(service.spec.id)
        return revised

    def _bury(self, service: ServiceRecord) -> None:
        self._release(service, (0, service.next_slot))
        self._state.services.put(
            service.spec.id, replace(self._state.services[service.spec.id], deleted=True)
        )

    def _add_slot(self, service: ServiceRecord) -> Slot:
        slot = Slot(service.spec.id, service.next_slot)
        address = self._state.pool.instance()
        self._state.services.put(service.spec.id, replace(service, next_slot=service.next_slot + 1))
        now_wall_s = self._clock.wall_s()
        self._state.slots.put(
            slot_key(slot),
            SlotRecord(slot=slot, address=address, requested_wall_s=now_wall_s, changed_wall_s=now_wall_s),
        )
        return slot

    def _release(self, service: ServiceRecord, *numbers: NumberRange) -> None:
        gone = joined(numbers)
        removed = joined(service.removed, gone)
        self._state.services.put(service.spec.id, replace(service, removed=removed))
        for record in self._wanted(service):
            if holds(gone, record.slot.number):
                self._state.slots.put(slot_key(record.slot), replace(record, wanted=False))

    def _tell(
        self, what: str, service: ServiceRecord | None = None, *, slot: int = -1, subject: str = ""
    ) -> None:
        """Note what somebody did; it is durable with what he did."""
        about = service.spec.id if service is not None else ServiceId("")
        act = Event(kind=EventKind.ACT, reason=what, service=about, slot=slot, subject=subject)
        name = service.spec.name if service is not None else ""
        self._events.add([act], tier="root", now_wall_s=self._clock.wall_s(), name_of=lambda _: name)

    def _tell_scaled(self, asker: Principal, service: ServiceRecord, instances: int) -> None:
        """Note that a service is to have so many instances, before it has."""
        before = len(self._wanted(service))
        if before != instances:
            self._tell(f"scaled from {before} to {instances} by {asker.name}", service)

    async def _commit(self, what: str, asker: Principal, **about: Any) -> None:
        reach(Point.ROOT_CHANGED)
        await self._state.commit()
        reach(Point.ROOT_WRITTEN)
        logger.info(what, extra={"by": asker.name, "organization": asker.organization, **about})
        self._wake()

    # --- looking -----------------------------------------------------------------------------------------------

    def _wanted(self, service: ServiceRecord) -> list[SlotRecord]:
        return [record for record in self._state.slots_of(service.spec.id) if record.wanted]

    def _claimable(self, tenant: OrganizationId) -> frozenset[str]:
        """Return what this tenant's own services had: at rest, or of one that is deleted and still on its way out.

        Nobody else's traffic comes there, so creating anew what was deleted a moment ago just works.
        """
        resting = (record.address for record in self._state.quarantine.values() if record.tenant == tenant)
        leaving = (
            record.spec.addresses.round_robin
            for record in self._state.services.values()
            if record.deleted and record.spec.tenant == tenant
        )
        return frozenset(_texts((*resting, *leaving)))

    def _must_be_new(self, asker: Principal, wanted: SlaApplication) -> None:
        for record in self._state.applications.values():
            known = record.application
            same = (known.name, known.namespace) == (wanted.name, wanted.namespace)
            if same and known.tenant == asker.organization and not known.deleted:
                raise Conflict(
                    f"your organization already has an application {wanted.name}.{wanted.namespace}; "
                    "names of services come from it, so choose another name or namespace, or delete that one"
                )

    def _must_be_new_service(self, application: ApplicationRecord, wanted: Microservice) -> None:
        known = (application.application.name, application.application.namespace)
        name = ".".join((*known, wanted.name, wanted.namespace))
        if any(service.spec.name == name for service in self.services_of(application)):
            raise Conflict(f"the service {name} already exists; delete it first to replace it")

    @staticmethod
    def _must_have_room(service: ServiceRecord, instances: int) -> None:
        if instances > INSTANCES_MAX:
            raise Conflict(
                f"{service.spec.name} would have {instances} instances; a service has at most {INSTANCES_MAX}"
            )


def _name(record: ApplicationRecord) -> str:
    return f"{record.application.name}.{record.application.namespace}"


def _must_keep(wanted: WantedAddresses, has: ServiceAddresses) -> None:
    for chosen, present in (
        (wanted.round_robin_v4, has.round_robin_v4),
        (wanted.round_robin_v6, has.round_robin_v6),
    ):
        if chosen and chosen != present:
            raise Invalid(f"a service keeps its addresses: it has {present}, not {chosen}")


def _no_address_twice(services: Sequence[ServiceRecord]) -> None:
    seen: set[str] = set()
    for service in services:
        for text in _texts(service.spec.addresses.both):
            if text in seen:
                raise Conflict(
                    f"two services of this SLA ask for the address {text}; it can belong to one only"
                )
            seen.add(text)


def _texts(addresses: Iterable[InstanceAddress]) -> Iterator[str]:
    return (text for address in addresses for text in (address.v4, address.v6) if text)
