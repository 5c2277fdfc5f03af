"""What a worker should run, kept in one file so that it can boot without its cluster. Pure values and edits.

Everything about an instance that must survive the agent is here; everything else is seen by looking.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from oakestra.model.address import INSTANCES_PER_SUBNET, Peer, Route, Subnet, host_address, subnet_around
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.model.instance import InstanceKey, Phase
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.wire.native import Version, WorkerAssignment, service_of

_FIRST_HOST = 2
"""Address 1 of a subnet is the bridge."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How an instance ended for good."""

    phase: Phase
    exit_code: int | None
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalInstance:
    """An instance that was assigned here and is not gone yet."""

    key: InstanceKey
    number: int
    """This worker's own small number for it; names everything it has in runtime and kernel."""
    address: InstanceAddress
    """The slot's semantic address."""
    spec: ServiceSpec
    restart: int = 0
    crashes: int = 0
    """Ends in a row without having run well in between; sets the back-off."""
    withdrawn: bool = False
    outcome: Outcome | None = None
    healthy: bool = False
    """Its health check passed in this run, and no failing was noticed since: the next agent goes on routing to it."""
    given_up: str = ""
    """Why this run is to end although its process goes on; empty while it may go on."""
    last_run: str = ""
    """How the run before this one ended; empty for the first."""
    made_as: InstanceKey | None = None
    """The attempt that this run was begun as, if its cluster calls it by a later number now."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Desired:
    """The whole of what is kept."""

    worker: WorkerId = WorkerId("")
    cluster: ClusterId = ClusterId("")
    mqtt_port: int = 0
    incarnation: int = 0
    """Wall-clock second at which this state began: greater than that of any state lost before."""
    boots: int = 0
    """How often the agent started on this state; orders its reports."""
    applied: Version = field(default_factory=Version)
    instances: tuple[LocalInstance, ...] = ()
    subnets: tuple[Subnet, ...] = ()
    subnet_index: int = 0
    routes: tuple[Route, ...] = ()
    peers: tuple[Peer, ...] = ()

    @property
    def by_number(self) -> Mapping[int, LocalInstance]:
        return {instance.number: instance for instance in self.instances}


def accept(desired: Desired, assignment: WorkerAssignment) -> Desired:
    """Return what is desired after the cluster spoke. An older generation of the same epoch changes nothing.

    New instances get the lowest free numbers; withdrawn ones are marked; what is not mentioned stays.
    """
    older = (
        desired.applied.epoch == assignment.version.epoch
        and assignment.version.generation < desired.applied.generation
    )
    if older:
        return desired
    specs = service_of(assignment.services)
    withdrawn = set(assignment.withdrawn)
    names = {name: assigned.key for assigned in assignment.instances for name in assigned.former}
    kept = [_told(instance, withdrawn) for instance in _named(desired.instances, names)]
    known = {instance.key for instance in kept}
    numbers = _free_numbers(instance.number for instance in kept)
    for assigned in assignment.instances:
        if assigned.key not in known and assigned.key not in withdrawn and assigned.key.service in specs:
            spec = specs[assigned.key.service]
            kept.append(
                LocalInstance(key=assigned.key, number=next(numbers), address=assigned.address, spec=spec)
            )
    return replace(
        desired,
        applied=assignment.version,
        instances=tuple(kept),
        subnets=assignment.subnets or desired.subnets,
        subnet_index=assignment.subnet_index if assignment.subnets else desired.subnet_index,
        routes=assignment.routes,
        peers=assignment.peers,
    )


def follow(desired: Desired, assignment: WorkerAssignment) -> Desired:
    """Return what is desired when the cluster spoke and it cannot be written down: where others are may be forgotten
    again, and so may all of it if nothing starts, stops or gets another address by it.
    """
    accepted = accept(desired, assignment)
    if (accepted.instances, accepted.subnets) == (desired.instances, desired.subnets):
        return accepted
    return replace(desired, routes=accepted.routes, peers=accepted.peers)


def _named(
    instances: Sequence[LocalInstance], names: Mapping[InstanceKey, InstanceKey]
) -> Iterator[LocalInstance]:
    """Yield each instance under the name that the cluster has for it now; what runs is not touched for that.

    Of two that would have one name, the first gets it: the other is nobody's, and is told to go.
    """
    taken = {instance.key for instance in instances}
    for instance in instances:
        name = names.get(instance.key)
        if name is None or name in taken:
            yield instance
        else:
            taken.add(name)
            yield replace(instance, key=name, made_as=instance.made_as or instance.key)


def _told(instance: LocalInstance, withdrawn: set[InstanceKey]) -> LocalInstance:
    """Return the instance after the cluster spoke; it keeps its spec: another revision is another attempt's."""
    return replace(instance, withdrawn=instance.withdrawn or instance.key in withdrawn)


def adopt(desired: Desired, found: Iterable[tuple[LocalInstance, str]]) -> Desired:
    """Return what is desired after instances were found, each with its own IPv4 address.

    Those that this state does not know are taken over: its file was lost. So are the subnets of their addresses.
    """
    known = set(desired.by_number)
    strangers = [(instance, v4) for instance, v4 in found if instance.number not in known]
    if not strangers:
        return desired
    return replace(
        desired,
        instances=(*desired.instances, *(instance for instance, _ in strangers)),
        subnets=desired.subnets or _subnets_of({instance.number: v4 for instance, v4 in strangers}),
    )


def _subnets_of(addresses: Mapping[int, str]) -> tuple[Subnet, ...]:
    """Return the subnets that instances with these numbers and addresses were given theirs from."""
    subnets: list[Subnet] = []
    for number, v4 in sorted(addresses.items()):
        position = (number - 1) // INSTANCES_PER_SUBNET
        if position == len(subnets) and v4:
            subnets.append(subnet_around(v4))
    return tuple(subnets)


def edit(desired: Desired, instance: LocalInstance) -> Desired:
    """Return what is desired with this instance in place of the one with its number."""
    return replace(
        desired,
        instances=tuple(
            instance if known.number == instance.number else known for known in desired.instances
        ),
    )


def release(desired: Desired, number: int) -> Desired:
    """Return what is desired without this instance."""
    return replace(desired, instances=tuple(known for known in desired.instances if known.number != number))


def namespace_address(desired: Desired, number: int) -> InstanceAddress | None:
    """Return the addresses of the instance with this number, or None while the worker has too few subnets."""
    subnet, host = divmod(number - 1, INSTANCES_PER_SUBNET)
    if subnet >= len(desired.subnets):
        return None
    return host_address(desired.subnets[subnet], _FIRST_HOST + host)


def _free_numbers(taken: Iterable[int]) -> Iterator[int]:
    used = set(taken)
    number = 0
    while True:
        number += 1
        if number not in used:
            yield number
