"""Tell a root that lost its records what this cluster holds by their word. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from oakestra.cluster.observe import Observed
from oakestra.model.ids import ServiceId, UserId
from oakestra.model.service import Application, ServiceSpec
from oakestra.wire.native import AssignedSlot, Claim, Origin


def claims(observed: Observed) -> Iterator[Claim]:
    """Yield what earlier records of root's put here and its present ones never mentioned."""
    held: defaultdict[ServiceId, list[AssignedSlot]] = defaultdict(list)
    for slot, record in sorted(observed.slots.items()):
        if observed.root_known and record.epoch != observed.root_epoch:
            held[slot.service].append(AssignedSlot(placed=record.placed, address=record.address))
    for service, slots in sorted(held.items()):
        spec = observed.services.get(service)
        if spec is not None:
            origin = observed.origins.get(service) or _told_by(spec)
            yield Claim(service=spec, origin=origin, slots=tuple(slots))


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
