"""Passes that look only at what is not settled, and what is remembered instead of rendered, change nothing that happens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from random import Random

import pytest

from oakestra.cluster.render.down import Rendering
from oakestra.control.settled import Settled
from oakestra.simulation import seeds
from oakestra.simulation.faults import Event, Faults, draw_faults
from oakestra.worker.overlay import overlay
from oakestra.worker.plumbing import Plumbing

SEEDS = range(300, 306)


@pytest.mark.timeout(300)
def test_a_fleet_whose_passes_always_look_at_the_whole_has_the_same_story() -> None:
    """Goal: both ways to the same end. Method: the same seeds, with every shortcut taken away in another process; none
    is killed at a fail point, as a pass that looks at the whole comes to more of them."""
    with ProcessPoolExecutor(2, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        thorough = pool.submit(_played, thoroughly=True)
        assert pool.submit(_played, thoroughly=False).result() == thorough.result()


def _played(*, thoroughly: bool) -> list[str]:
    def drawn(random: Random) -> Faults:
        found = draw_faults(random)
        return replace(found, events=tuple(event for event in found.events if event is not Event.CRASH_AT))

    setattr(seeds, "draw_faults", drawn)  # noqa: B010 - as above
    if thoroughly:
        setattr(Settled, "holds", lambda *_, **__: False)  # noqa: B010 - a class of ours is broken on purpose
        render: Callable[..., object] = Rendering.worker_assignments
        setattr(Rendering, "worker_assignments", lambda _, *seen: render(Rendering(), *seen))  # noqa: B010 - likewise
        anew = lambda plumbing, seen: overlay(seen, underlay_v4=plumbing._underlay_v4)  # noqa: E731 - as above
        setattr(Plumbing, "_overlay", anew)  # noqa: B010 - likewise
    return [seeds.play(seed).digest for seed in SEEDS]
