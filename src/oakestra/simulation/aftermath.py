"""What a fleet at rest must not notice: nothing may restart or move because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from random import Random

from oakestra.model.service import InstanceAddress, Reconcile, ServiceSpec
from oakestra.network import Overlay
from oakestra.root.observe import REBUILT_AFTER_S
from oakestra.simulation.checkers import key_of, spec_of
from oakestra.simulation.healed import unsettled
from oakestra.simulation.world import World

QUIET_S = 30.0
CUT_S = 40.0
"""Longer than anybody's patience with silence, but for root's with a cluster."""
RESTART_MAX_S = 1.5
"""A supervisor is quicker than this: with two seconds between beats, a worker is not called lost meanwhile."""
BLINK_S = 2.0
LATE_S = 10.0
LOOK_EVERY_S = 0.05
JUMP_MAX_S = 7200.0


async def disturb(world: World, random: Random) -> None:
    """Restart every tier, then let one more thing happen that nobody may notice."""
    await _unnoticed(world, random, _restart_everything)
    await _unnoticed(world, random, random.choice(_QUIETLY))


async def _unnoticed(
    world: World, random: Random, happen: Callable[[World, Random], Awaitable[None]]
) -> None:
    before = _processes(world)
    await happen(world, random)
    await asyncio.sleep(QUIET_S)
    what = happen.__name__.strip("_").replace("_", " ")
    after = _processes(world)
    for place, process in sorted(before.items()):  # what waited for room may get some that others leave
        if process != after.get(place):
            world.complain(f"{what} changed {place}: {process} became {after.get(place)}")
    for sentence in unsettled(world, resting=True):
        world.complain(f"not settled after {what}: {sentence}")


async def _restart_everything(world: World, random: Random) -> None:
    """Kill every tier that is alive, in any order."""
    alive = [host for host in world.hosts.values() if host.alive]
    random.shuffle(alive)
    for host in alive:
        world.say(f"crash {host.name}")
        await host.kill()
        await asyncio.sleep(random.uniform(0, RESTART_MAX_S))
        host.start()


async def _clocks_set(world: World, random: Random) -> None:
    """Set the wall clock of every machine."""
    for host in world.hosts.values():
        host.clock.epoch_s += random.uniform(-JUMP_MAX_S, JUMP_MAX_S)
    world.say("all clocks jump")


async def _loss_of_a_clusters_store(world: World, random: Random) -> None:
    """Let a cluster forget everything: what runs is adopted. Which workers were drained is lost with it."""
    drained = {world.workers[name].cluster.name for name in world.closed if name in world.workers}
    alive = [name for name, host in world.clusters.items() if host.alive and name not in drained]
    if not alive:
        return
    cluster = world.clusters[random.choice(alive)]
    world.say(f"{cluster.name} loses its state")
    await cluster.kill()
    cluster.lose_store()
    cluster.start()


async def _loss_of_roots_store(world: World, random: Random) -> None:
    """Let root forget everything: it takes over what clusters hold, and which of them were drained.

    One of them is heard late. Whoever was led to an instance is led there all the while, and after that.
    """
    late = world.clusters[random.choice([name for name, host in world.clusters.items() if host.alive])]
    before = {name: _led(overlay) for name, overlay in _overlays(world).items()}
    world.cut(late, world.root)
    await world.lose_root()
    world.root.start()
    mend_s = world.now_s + random.uniform(0, LATE_S)
    missed: set[tuple[str, str]] = set()
    seen: dict[str, Overlay] = {}
    until_s = world.now_s + REBUILT_AFTER_S + LATE_S
    while world.now_s < until_s:
        await asyncio.sleep(LOOK_EVERY_S)
        if world.now_s >= mend_s:
            world.mend(late, world.root)
            mend_s = float("inf")
        now = _overlays(world)
        for name in [name for name in before if name not in seen or now.get(name) is not seen[name]]:
            seen[name] = now.get(name, Overlay())
            leads = _led(seen[name])
            missed |= {
                (name, address) for address, to in before[name].items() if to - leads.get(address, set())
            }
    for name, address in sorted(missed):
        world.complain(f"on {name} {address} did not lead to all its instances while root had lost its state")


def _overlays(world: World) -> dict[str, Overlay]:
    return {name: worker.kept.kernel.overlay for name, worker in world.workers.items() if worker.reachable}


def _led(overlay: Overlay) -> dict[str, set[InstanceAddress]]:
    """Return what every service address leads to on a worker."""
    return {route.address.v4: {backend.address for backend in route.backends} for route in overlay.routes}


async def _loss_of_a_workers_state(world: World, random: Random) -> None:
    """Let a worker forget everything: what runs is adopted."""
    worker = world.workers[random.choice([name for name, host in world.workers.items() if host.alive])]
    world.say(f"{worker.name} loses its state")
    await worker.kill()
    worker.lose_state()
    worker.start()


async def _cut_of_a_cluster_from_root(world: World, random: Random) -> None:
    """Let a cluster be on its own for a while."""
    cluster = world.clusters[random.choice([name for name, host in world.clusters.items() if host.alive])]
    world.cut(cluster, world.root)
    await asyncio.sleep(CUT_S)
    world.mend(cluster, world.root)


async def _cut_of_a_worker_for_a_moment(world: World, random: Random) -> None:
    """Let a worker be silent for less than it takes to be called lost."""
    worker = world.workers[random.choice([name for name, host in world.workers.items() if host.alive])]
    world.cut(worker, worker.cluster)
    await asyncio.sleep(BLINK_S)
    world.mend(worker, worker.cluster)


_QUIETLY = (
    _clocks_set,
    _loss_of_roots_store,
    _loss_of_a_clusters_store,
    _loss_of_a_workers_state,
    _cut_of_a_cluster_from_root,
    _cut_of_a_cluster_from_root,
    _cut_of_a_worker_for_a_moment,
)
"""One that is there twice is twice as likely."""
_RETURNING = (Reconcile.KEEP_ORIGINAL, Reconcile.LONGEST_RUNNING)
"""What nothing happens to while it is away is taken back."""


def _processes(world: World) -> dict[tuple[str, int], int]:
    """Return the process of every instance that nobody may replace for good."""
    # root keeps one placement of a slot for its cluster's return: another lost one is replaced for good
    slots = world.root.tier.state.slots.values() if world.root.tier is not None else ()
    taken = {record.slot for record in slots if record.aside is not None}
    return {
        (worker.name, seen.number): seen.pid
        for worker, seen in world.containers()
        if _is_patient(spec_of(seen), returns=key_of(seen).slot not in taken)
    }


def _is_patient(spec: ServiceSpec, *, returns: bool) -> bool:
    """Tell whether a service asks for no less patience than everybody has, or wants its instances back as they were."""
    policy = spec.disconnect
    kept = returns and policy.reconcile in _RETURNING and not spec.one_shot
    return policy.stop_after_s is None and (policy.lost_after_s is None or kept)
