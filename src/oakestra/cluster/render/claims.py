"""Tell a root that lost its records what this cluster holds by their word. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from oakestra.cluster.observe import Observed
from oakestra.model.ids import ServiceId, UserId
from oakestra.model.service import Application, ServiceSpec
from oakestra.wire.native import AssignedSlot, Claim, Origin


def claims(observed: Observed) -> Iterator[Claim]:
    """Yield what earlier records of root's told, and put here, and its present ones never mentioned."""
    if not observed.root_known:
        return
    held: defaultdict[ServiceId, list[AssignedSlot]] = defaultdict(list)
    for slot, record in sorted(observed.slots.items()):
        if record.epoch != observed.root_epoch:
            held[slot.service].append(AssignedSlot(placed=record.placed, address=record.address))
    told = {id for id, origin in observed.origins.items() if origin.epoch != observed.root_epoch}
    for service in sorted(held.keys() | told):
        origin = observed.origins.get(service)
        spec = observed.services.get(service) or (origin.spec if origin is not None else None)
        if spec is not None:
            yield Claim(service=spec, origin=origin or _told_by(spec), slots=tuple(held[service]))


def _told_by(spec: ServiceSpec) -> Origin:
    """Return what a spec tells of its origin, for one that came from a root that did not yet tell more."""
    name, namespace, *_ = spec.name.split(".")
    application = Application(
        id=spec.application_id,
        name=name,
        namespace=namespace,
        description="",
        owner=UserId(""),
        tenant=spec.tenant,
    )
    return Origin(service=spec.id, application=application, organization="")
