"""Carry into root's records what `plan` decided to take over from a cluster."""

from __future__ import annotations

import logging
from dataclasses import replace

from oakestra.model.service import Application, InstanceAddress, ServiceSpec
from oakestra.root.rebuild.numbers import joined, without
from oakestra.root.rebuild.plan import HeardOut, Holder, Insist, Learn, Rebuilt, TakeOver
from oakestra.root.state import (
    REBUILT,
    ApplicationRecord,
    Leaving,
    OrganizationRecord,
    Rollout,
    RolloutState,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.root.users.access import ADMIN
from oakestra.wire.native import Origin
from oakestra.wire.sla import NAME_MAX, WantedAddresses

logger = logging.getLogger(__name__)

MARK = 8
"""So many digits of its id tell an application from another one of its name."""
NO_STORE = 0
"""No cluster's store has this epoch."""


def begin_anew(state: RootState, epoch: int) -> None:
    """Go on under a new epoch: these records are an older copy. What clusters say of an instance is truer than they are.

    Placements that were withdrawn since the copy was made may be given out again: statuses of both have the same order.
    What somebody said since the copy is used is newer than what clusters were told before.
    """
    state.records.renew(epoch)
    for id in sorted(state.changed_here & {record.id for record in state.clusters.values()}):
        state.clusters.put(id, replace(state.clusters[id], availability_epoch=epoch))
    for service in sorted(state.changed_here & {record.spec.id for record in state.services.values()}):
        state.services.put(service, replace(state.services[service], revised_epoch=epoch))
    for key, record in tuple(state.slots.items()):
        state.slots.put(key, replace(record, status_store=NO_STORE))


def rebuild(
    state: RootState, decision: Learn | Insist | TakeOver | HeardOut | Rebuilt, *, now_wall_s: float
) -> None:
    """Put a decision into the records."""
    match decision:
        case Learn():
            _learn(state, decision)
        case Insist():
            _insist(state, decision, now_wall_s)
        case TakeOver():
            _take_over(state, decision, now_wall_s)
        case HeardOut():
            _heard_out(state, decision)
        case Rebuilt(epoch=epoch):
            state.settings.put(REBUILT, str(epoch))


def _learn(state: RootState, news: Learn) -> None:
    """Record a service as it is to be from now on, with its application and organization where they are not known.

    Users are not in any cluster's hands: what belonged to one that is gone belongs to Admin from now on.
    """
    spec, origin = news.spec, news.origin
    application = _have_application(state, origin)
    known = state.services.get(spec.id)
    if known is None:
        named = replace(spec, name=_name_in(application, spec))
        known = ServiceRecord(spec=_addressed(state, named), document=origin.document)
        logger.info("service taken over", extra={"service": spec.name})
    elif known.spec.revision < spec.revision:
        spec = replace(spec, name=known.spec.name, addresses=known.spec.addresses)
        known = replace(known, spec=spec, document=origin.document, earlier=None, rollout=None)
    state.services.put(
        spec.id,
        replace(
            known,
            next_slot=max(known.next_slot, origin.next_slot),
            removed=joined(known.removed, news.removed),
        ),
    )


def _insist(state: RootState, decision: Insist, now_wall_s: float) -> None:
    """Make what is asked of a service a later revision, like no other that anybody may have carried out."""
    known = state.services[decision.service]
    state.services.put(
        decision.service,
        replace(
            known,
            spec=replace(known.spec, revision=decision.revision, same_as=()),
            rollout=Rollout(state=RolloutState.ROLLING, began_wall_s=now_wall_s, moved_wall_s=now_wall_s),
        ),
    )


def _take_over(state: RootState, claim: TakeOver, now_wall_s: float) -> None:
    """Record a slot that runs in a cluster. Its service is known."""
    holder, earlier = claim.holder, claim.earlier
    slot, cluster = holder.placed.slot, state.clusters[holder.cluster]
    service = state.services[slot.service]
    state.services.put(
        slot.service,
        replace(
            service,
            next_slot=max(service.next_slot, slot.number + 1),
            removed=without(service.removed, [slot.number]),
        ),
    )
    known = state.slots.get(slot_key(slot))
    record = known or SlotRecord(slot=slot, address=_slot_address(state, holder), requested_wall_s=now_wall_s)
    serving = earlier if earlier is not None and not holder.serves else holder
    state.slots.put(
        slot_key(slot),
        replace(
            record,
            placement=holder.placed.placement,
            cluster=holder.cluster,
            since_generation=cluster.generation + 1,
            reason=f"{cluster.name} has it from records that root lost",
            leaving=_leaving(earlier) if earlier is not None else None,
            aside=None,
            verdicts=(),
            status=serving.status,
            status_store=serving.store,
            changed_wall_s=now_wall_s,
        ),
    )
    about = {"service": service.spec.name, "instance": slot.number, "cluster": cluster.name}
    logger.info("taken over", extra=about)


def _leaving(earlier: Holder) -> Leaving:
    return Leaving(
        cluster=earlier.cluster,
        placement=earlier.placed.placement,
        reason="it was being moved when root lost its records",
    )


def _heard_out(state: RootState, decision: HeardOut) -> None:
    """Record that a cluster has told what it holds, and whether it takes instances by the word of records that are gone."""
    epoch = state.records.epoch
    record = replace(state.clusters[decision.cluster], heard_epoch=epoch)
    if decision.availability is not None:
        record = replace(record, availability=decision.availability, availability_epoch=epoch)
    state.clusters.put(decision.cluster, record)


def _slot_address(state: RootState, claim: Holder) -> InstanceAddress:
    return claim.address if state.pool.keep(claim.address) else state.pool.instance()


def _addressed(state: RootState, spec: ServiceSpec) -> ServiceSpec:
    """Return the spec with its addresses, or others if somebody was given them since."""
    if all(state.pool.keep(address) for address in spec.addresses.both):
        return spec
    return replace(spec, addresses=state.pool.service(WantedAddresses()))


def _have_application(state: RootState, origin: Origin) -> Application:
    """Let there be the application, and the service in its place there; return the application."""
    known = state.applications.get(origin.application.id)
    if known is None:
        _have_organization(state, origin)
        owner = origin.application.owner
        if owner not in state.users:
            owner = next((user.id for user in state.users.values() if user.name == ADMIN), owner)
        name = _application_name(state, origin.application)
        application = replace(origin.application, name=name, owner=owner, deleted=False)
        known = ApplicationRecord(application=application, created_wall_s=origin.created_wall_s)
    if origin.service not in known.services:
        before, after = known.services[: origin.position], known.services[origin.position :]
        known = replace(known, services=(*before, origin.service, *after))
    state.applications.put(origin.application.id, known)
    return known.application


def _application_name(state: RootState, wanted: Application) -> str:
    """Return what an application is called: as ever, or with its id if its organization has another of that name by now."""
    full = (wanted.tenant, wanted.name, wanted.namespace)
    others = [record.application for record in state.applications.values()]
    if not any((one.tenant, one.name, one.namespace) == full for one in others if not one.deleted):
        return wanted.name
    name = f"{wanted.name[: NAME_MAX - MARK]}{wanted.id[:MARK]}"
    logger.warning(
        "application taken over under another name: there is one of its name",
        extra={"application": f"{wanted.name}.{wanted.namespace}", "id": wanted.id, "name_now": name},
    )
    return name


def _name_in(application: Application, spec: ServiceSpec) -> str:
    """Return what a service is called, after its application."""
    return ".".join((application.name, application.namespace, *spec.name.split(".")[2:]))


def _have_organization(state: RootState, origin: Origin) -> None:
    """Let there be the organization it belongs to. It keeps its id, which keeps tenants apart on every worker."""
    id = origin.application.tenant
    if id not in state.organizations:
        taken = {record.name for record in state.organizations.values()}
        name = f"{origin.organization} {id}" if origin.organization in taken else origin.organization
        state.organizations.put(id, OrganizationRecord(id=id, name=name or id))
