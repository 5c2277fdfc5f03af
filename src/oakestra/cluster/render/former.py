"""What is known of other clusters while root's records are new. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from oakestra.wire.native import ClusterAssignment, RemoteInstance


def with_former(former: ClusterAssignment | None, told: ClusterAssignment) -> ClusterAssignment:
    """Return what root told, and of clusters that it has not heard of since its records are new what was known before."""
    if former is None or told.heard is None:
        return told
    kept = tuple(_kept(former, told))
    services = {spec.id for spec in (*told.services, *told.remote_services)}
    needed = {one.placed.service for one in kept} - services
    peers = {peer.subnet_index for peer in told.peers}
    return replace(
        told,
        remotes=(*told.remotes, *kept),
        remote_services=(
            *told.remote_services,
            *(spec for spec in (*former.remote_services, *former.services) if spec.id in needed),
        ),
        peers=(*told.peers, *(peer for peer in former.peers if kept and peer.subnet_index not in peers)),
    )


def _kept(former: ClusterAssignment, told: ClusterAssignment) -> Iterator[RemoteInstance]:
    """Yield what clusters that root has not heard of had, unless root knows of a later one of the slot that serves."""
    known = {(one.placed, one.namespace) for one in told.remotes}
    serving = {one.placed.slot: one.placed.placement for one in told.remotes if one.ready}
    for one in former.remotes:
        unheard = one.cluster not in (told.heard or ()) and (one.placed, one.namespace) not in known
        if unheard and one.placed.placement >= serving.get(one.placed.slot, 0):
            yield one
