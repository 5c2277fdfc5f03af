"""Work out what this machine's part of the overlay should be. Pure."""

from __future__ import annotations

from dataclasses import replace

from oakestra.model.address import Backend, Route
from oakestra.network import Overlay, Publication, Source
from oakestra.worker.desired import Desired, namespace_address
from oakestra.worker.observe import Observed
from oakestra.worker.plan import running, unwell


def basis(observed: Observed) -> tuple[object, ...]:
    """Return all that an overlay follows from besides what is desired: what runs, how well, and what is attached."""
    here = [(instance.number, bool(unwell(observed, instance))) for instance in running(observed)]
    return (here, observed.attached)


def overlay(observed: Observed, *, underlay_v4: str) -> Overlay:
    """Return what the kernel should do now.

    The cluster says who is ready everywhere; what happens to instances on this very machine is known here first,
    so a local instance that does not run, or is not well, is left out at once, whatever the cluster still says.
    """
    desired = observed.desired
    here = {
        address
        for instance in desired.instances
        if (address := namespace_address(desired, instance.number)) is not None
    }
    alive = {
        address
        for instance in running(observed)
        if not unwell(observed, instance)
        and (address := namespace_address(desired, instance.number)) is not None
    }

    def usable(backend: Backend) -> bool:
        return backend.address in alive or (backend.address not in here and not backend.local)

    routes = tuple(
        route
        if all(map(usable, route.backends))
        else replace(route, backends=tuple(filter(usable, route.backends)))
        for route in desired.routes
    )
    return Overlay(
        subnets=desired.subnets,
        subnet_index=desired.subnet_index,
        routes=_without_repeats(routes),
        sources=_sources(observed),
        publications=_publications(observed),
        peers=desired.peers,
        underlay_v4=underlay_v4,
    )


def _without_repeats(routes: tuple[Route, ...]) -> tuple[Route, ...]:
    return tuple({route.address: route for route in routes}.values())


def _sources(observed: Observed) -> tuple[Source, ...]:
    desired = observed.desired
    return tuple(
        Source(namespace=address, instance=instance.address, tenant=instance.spec.tenant)
        for instance in desired.instances
        if instance.number in observed.attached
        and (address := namespace_address(desired, instance.number)) is not None
    )


def _publications(observed: Observed) -> tuple[Publication, ...]:
    desired = observed.desired
    return tuple(
        Publication(port=port, namespace=address)
        for instance in running(observed)
        for port in instance.spec.ports
        if port.host_port and (address := namespace_address(desired, instance.number)) is not None
    )


def resolv_conf(name_servers: tuple[str, ...]) -> str:
    """Return the resolver configuration of every instance: patient enough for an agent's restart."""
    lines = [f"nameserver {server}" for server in name_servers]
    return "\n".join([*lines, "options timeout:1 attempts:5"]) + "\n"


def host_name(desired: Desired, number: int) -> str:
    """Return the host name of an instance: the service's own name and the slot."""
    instance = desired.by_number[number]
    parts = instance.spec.name.split(".")
    short = parts[2] if len(parts) == 4 else instance.spec.name  # noqa: PLR2004 - app, namespace, service, namespace
    return f"{short}-{instance.key.number}"[:63]
