"""Play one seed: a fleet, a while of chaos, healing of a part of it, and what the checkers say."""

from __future__ import annotations

import asyncio
import gc
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing import get_context
from random import Random

from oakestra.control.entropy import Entropy
from oakestra.control.failpoints import heeded
from oakestra.simulation import virtual_time
from oakestra.simulation.aftermath import disturb
from oakestra.simulation.chaos import Chaos
from oakestra.simulation.checkers import Watch
from oakestra.simulation.faults import draw_faults
from oakestra.simulation.healed import unsettled
from oakestra.simulation.process import reached
from oakestra.simulation.world import Shape, World, machine

CHAOS_S = 150.0
SETTLED_AFTER_S = 240.0
"""What is healed must be as it should be by then: 40 s until a worker that heard nothing joins again, 60 s of back-off,
75 s until a cluster is given up."""
PATIENT_S = 1500.0
"""Where some machine is unable to run an image for good: what failed in several places before has 10 min of patience."""
LOOK_EVERY_S = 1.0
WRONG_SHOWN = 10
QUIET_S = 30.0
TRIED_FOR_S = 60.0
"""What no machine is able to run is tried in another place now and then, and is then on its way for so long at most."""
"""So long it must then stay as it should be."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """How a seed went."""

    seed: int
    wrong: tuple[str, ...]
    """What the checkers found; empty when all is well."""
    digest: str
    """Of the whole story: the same seed gives the same one, in any process."""
    story: tuple[str, ...]
    settled_s: float
    """How long after healing everything was as it should be."""
    suffered: Mapping[str, int] = field(default_factory=dict)
    """How often each fault happened that has no line in the story."""

    @property
    def summary(self) -> str:
        """Return how it went, and the command that plays it again if it went wrong."""
        if not self.wrong:
            return f"seed {self.seed}: settled {self.settled_s:.0f} s after healing, story {self.digest}"
        shown = "\n".join(f"  {sentence}" for sentence in self.wrong[:WRONG_SHOWN])
        more = len(self.wrong) - WRONG_SHOWN
        left = f"\n  and {more} more" if more > 0 else ""
        return (
            f"seed {self.seed}: {len(self.wrong)} things went wrong, story {self.digest}\n{shown}{left}\n"
            f"  play it again: oak sim seed {self.seed} --story"
        )


def play(seed: int) -> Played:
    """Play a seed to its end, in virtual time."""
    gc.disable()  # a fleet is almost all values that live as long as it does
    try:
        return virtual_time.run(_play(seed))
    finally:
        gc.enable()


def play_many(seeds: Sequence[int], *, jobs: int | None = None) -> Iterator[Played]:
    """Play seeds on every core, or on so many; yield how each went, in their order."""
    count = min(jobs or os.cpu_count() or 1, len(seeds))
    if count <= 1:
        yield from map(play, seeds)
        return
    with ProcessPoolExecutor(max_workers=count, mp_context=get_context("spawn")) as pool:
        yield from pool.map(play, seeds, chunksize=max(1, min(10, len(seeds) // count)))


def draw_shape(random: Random) -> Shape:
    """Return a small fleet of unequal machines."""
    return Shape(
        clusters=tuple(
            tuple(
                machine(
                    memory_mib=random.choice([300, 700, 1200, 2500]),
                    vcpus=random.choice([1, 2, 4]),
                    architecture=random.choice(["amd64", "amd64", "arm64"]),
                )
                for _ in range(random.randint(1, 6))
            )
            for _ in range(random.randint(1, 3))
        )
    )


async def _play(seed: int) -> Played:
    entropy = Entropy(seed)
    settled_s = float("inf")
    async with asyncio.TaskGroup() as group:
        world = World(seed, draw_shape(entropy.stream("shape")), group=group, vcpu_overcommit=2.0)
        with world.heard(), heeded(reached):
            world.start()
            watching = group.create_task(_watch(world))
            using = group.create_task(_use(world, entropy.stream("user's pace"), until_s=10.0 + CHAOS_S))
            chaos = Chaos(world, draw_faults(entropy.stream("faults")), random=entropy.stream("chaos"))
            await asyncio.sleep(10.0)
            await chaos.rage(CHAOS_S)
            await using
            await chaos.heal(_doomed(world, entropy.stream("doom")))
            await chaos.reopen()
            chaos.disable_a_few()
            settled_s = await _settle(world)
            if not world.complaints:
                await disturb(world, entropy.stream("aftermath"))
            watching.cancel()
            for host in world.hosts.values():
                await host.kill()
    return Played(
        seed=seed,
        wrong=tuple(world.complaints),
        digest=world.digest,
        story=tuple(world.story),
        settled_s=settled_s,
        suffered=_suffered(world),
    )


def _suffered(world: World) -> Mapping[str, int]:
    """Return how often each kind of fault without a line in the story happened, on what the machines have now."""
    disks = [world.root.disk, *(cluster.disk for cluster in world.clusters.values())]
    kept = [worker.kept for worker in world.workers.values()]
    return {
        "messages lost": world.hub.lost,
        "messages repeated": world.hub.repeated,
        "commits failed": sum(disk.failures for disk in disks),
        "commits lost with their process": sum(disk.unfinished for disk in disks),
        "steps failed": sum(machine.containers.failures for machine in kept),
        "network calls failed": sum(machine.kernel.failures for machine in kept),
    }


def _doomed(world: World, random: Random) -> set[str]:
    """Return the machines that stay dead: any worker or cluster may, but not all."""
    doomed = {name for name in world.workers if random.random() < 0.3}  # noqa: PLR2004 - a third
    doomed |= {name for name in world.clusters if random.random() < 0.2}  # noqa: PLR2004 - a fifth
    if not any(
        name not in doomed and worker.cluster.name not in doomed for name, worker in world.workers.items()
    ):
        doomed -= {"c1", "c1w1"}
    return doomed


async def _use(world: World, random: Random, *, until_s: float) -> None:
    while world.now_s < until_s:
        await asyncio.sleep(random.expovariate(1 / 8.0))
        await world.user.act()


async def _watch(world: World) -> None:
    watch = Watch(world)
    said: set[str] = set()
    while True:
        await asyncio.sleep(LOOK_EVERY_S)
        for wrong in watch.look():
            if wrong not in said:
                said.add(wrong)
                world.complain(wrong)


async def _settle(world: World) -> float:
    """Wait until all is as it should be, and see that it stays so; return how long it took."""
    world.say("healed")
    healed_s = world.now_s
    unable = any(worker.kept.containers.unmakeable for worker in world.workers.values())
    allowed_s = PATIENT_S if unable else SETTLED_AFTER_S
    while wrong := tuple(unsettled(world)):
        if world.now_s - healed_s >= allowed_s:
            for sentence in wrong:
                world.complain(f"not settled: {sentence}")
            return float("inf")
        await asyncio.sleep(LOOK_EVERY_S * 2)
    settled_s = world.now_s - healed_s
    world.say("settled")
    await asyncio.sleep(QUIET_S)
    quiet_s = world.now_s
    while wrong := tuple(unsettled(world)):
        if not unable or world.now_s - quiet_s >= TRIED_FOR_S:
            for sentence in wrong:
                world.complain(f"not settled any more: {sentence}")
            break
        await asyncio.sleep(LOOK_EVERY_S * 2)
    return settled_s
