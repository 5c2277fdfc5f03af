"""Carry into root's records what `plan` decided to take over from a cluster."""

from __future__ import annotations

import logging
from dataclasses import replace

from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.root.rebuild.plan import TakeOver
from oakestra.root.state import (
    ApplicationRecord,
    OrganizationRecord,
    RootState,
    ServiceRecord,
    SlotRecord,
    slot_key,
)
from oakestra.root.users.access import ADMIN
from oakestra.wire.native import Origin
from oakestra.wire.sla import WantedAddresses

logger = logging.getLogger(__name__)


def take_over(state: RootState, claim: TakeOver, *, now_wall_s: float) -> None:
    """Record a slot that runs in a cluster, with its service, application and organization where they are not known.

    Users are not in any cluster's hands: what belonged to one that is gone belongs to Admin from now on.
    """
    service = _service(state, claim)
    number = claim.placed.number
    next_slot = max(service.next_slot, claim.origin.next_slot, number + 1)
    state.services.put(service.spec.id, replace(service, next_slot=next_slot))
    cluster = state.clusters[claim.cluster]
    known = state.slots.get(slot_key(claim.placed.slot))
    record = known or SlotRecord(
        slot=claim.placed.slot, address=_slot_address(state, claim), requested_wall_s=now_wall_s
    )
    state.slots.put(
        slot_key(claim.placed.slot),
        replace(
            record,
            placement=claim.placed.placement,
            cluster=claim.cluster,
            since_generation=cluster.generation + 1,
            reason=f"{cluster.name} has it from records that root lost",
            leaving=None,
            aside=None,
            verdicts=(),
            status=None,
            changed_wall_s=now_wall_s,
        ),
    )
    logger.info(
        "taken over", extra={"service": service.spec.name, "instance": number, "cluster": cluster.name}
    )


def _slot_address(state: RootState, claim: TakeOver) -> InstanceAddress:
    return claim.address if state.pool.keep(claim.address) else state.pool.instance()


def _service(state: RootState, claim: TakeOver) -> ServiceRecord:
    """Return the service as it is to be from now on: the later revision of what is known and what is claimed."""
    known = state.services.get(claim.spec.id)
    if known is not None and known.spec.revision >= claim.spec.revision:
        return known
    _have_application(state, claim.origin)
    if known is not None:
        spec = replace(claim.spec, addresses=known.spec.addresses)
        return replace(known, spec=spec, document=claim.origin.document, earlier=None, rollout=None)
    return ServiceRecord(spec=_addressed(state, claim.spec), document=claim.origin.document)


def _addressed(state: RootState, spec: ServiceSpec) -> ServiceSpec:
    """Return the spec with its addresses, or others if somebody was given them since."""
    if all(state.pool.keep(address) for address in spec.addresses.both):
        return spec
    return replace(spec, addresses=state.pool.service(WantedAddresses()))


def _have_application(state: RootState, origin: Origin) -> None:
    known = state.applications.get(origin.application.id)
    if known is None:
        _have_organization(state, origin)
        owner = origin.application.owner
        if owner not in state.users:
            owner = next((user.id for user in state.users.values() if user.name == ADMIN), owner)
        known = ApplicationRecord(application=replace(origin.application, owner=owner, deleted=False))
    if origin.service not in known.services:
        known = replace(known, services=(*known.services, origin.service))
    state.applications.put(origin.application.id, known)


def _have_organization(state: RootState, origin: Origin) -> None:
    """Let there be the organization it belongs to. It keeps its id, which keeps tenants apart on every worker."""
    id = origin.application.tenant
    if id not in state.organizations:
        taken = {record.name for record in state.organizations.values()}
        name = f"{origin.organization} {id}" if origin.organization in taken else origin.organization
        state.organizations.put(id, OrganizationRecord(id=id, name=name or id))
