"""What may come back, and what must, when root lost its records: all that anybody else has written down, and no more."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TypeVar

import msgspec

from oakestra.cluster.state import RootRecord
from oakestra.cluster.state import SlotRecord as HeldSlot
from oakestra.model.ids import ApplicationId, ServiceId
from oakestra.model.instance import Slot
from oakestra.model.service import ServiceSpec
from oakestra.root.state import Availability, ClusterRecord, ServiceRecord, SlotRecord
from oakestra.store.fake import Disk
from oakestra.wire.native import Origin

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Named:
    """A service, as users know it."""

    id: ServiceId
    application: ApplicationId
    name: str


@dataclass(slots=True, kw_only=True)
class Kept:
    """Services and slots that are written down somewhere."""

    services: dict[ServiceId, Named] = field(default_factory=dict)
    slots: set[Slot] = field(default_factory=set)

    def both(self, other: Kept) -> Kept:
        """Return what is written down in both places."""
        services = {id: named for id, named in self.services.items() if id in other.services}
        return Kept(services=services, slots=self.slots & other.slots)

    def without(self, service: ServiceId) -> Kept:
        """Return the rest."""
        return Kept(
            services={id: named for id, named in self.services.items() if id != service},
            slots={slot for slot in self.slots if slot.service != service},
        )


def kept_by_root(disk: Disk) -> Kept:
    """Return what these records of root's say is wanted."""
    services = [one.spec for one in _rows(disk, "services", _SERVICE) if not one.deleted]
    slots = {one.slot for one in _rows(disk, "slots", _SLOT) if one.wanted}
    return Kept(services=_named(services), slots=slots)


def kept_by_cluster(disk: Disk) -> Kept:
    """Return what a cluster could tell root of."""
    slots = {one.placed.slot for one in _rows(disk, "slots", _HELD)}
    origins = list(_rows(disk, "origins", _ORIGIN))
    told = {slot.service for slot in slots} | {origin.service for origin in origins}
    here = [spec for spec in _rows(disk, "services", _SPEC) if spec.id in told]
    return Kept(services=_named([*here, *(one.spec for one in origins if one.spec)]), slots=slots)


def held_by_cluster(disk: Disk) -> Kept:
    """Return what a cluster will still be able to tell root of, as it has instances of the application."""
    kept = kept_by_cluster(disk)
    applications = {
        named.application
        for named in kept.services.values()
        if named.id in {slot.service for slot in kept.slots}
    }
    services = {id: named for id, named in kept.services.items() if named.application in applications}
    return Kept(services=services, slots=kept.slots)


def availability(root: Disk, cluster: Disk) -> str:
    """Return whether a cluster takes instances: what it was told goes before what root's records say."""
    told = [one.availability for one in _rows(cluster, "settings", _TOLD)]
    ids = [one.cluster for one in _rows(cluster, "settings", _TOLD)]
    known = [one.availability.value for one in _rows(root, "clusters", _CLUSTER) if one.id in ids]
    return next((word for word in (*told, *known) if word), Availability.ACTIVE.value)


def all_of(many: Iterable[Kept]) -> Kept:
    """Return what is written down anywhere."""
    found = Kept()
    for one in many:
        found.services |= one.services
        found.slots |= one.slots
    return found


def _named(specs: Iterable[ServiceSpec]) -> dict[ServiceId, Named]:
    return {spec.id: Named(spec.id, spec.application_id, spec.name) for spec in specs}


def _rows(disk: Disk, table: str, decode: Callable[[bytes], T]) -> Iterator[T]:
    return map(decode, disk.tables[table].values())


def _cached(kind: type[T]) -> Callable[[bytes], T]:
    return lru_cache(maxsize=4096)(msgspec.json.Decoder(kind).decode)


_SERVICE, _SLOT = _cached(ServiceRecord), _cached(SlotRecord)
_TOLD, _CLUSTER = _cached(RootRecord), _cached(ClusterRecord)
_SPEC, _HELD, _ORIGIN = _cached(ServiceSpec), _cached(HeldSlot), _cached(Origin)
