"""Passes that look only at what is not settled, and assignments that are remembered, change nothing that happens."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from oakestra.cluster.render.down import Rendering
from oakestra.control.settled import Settled
from oakestra.simulation.seeds import play

SEEDS = range(300, 306)


@pytest.mark.timeout(300)
def test_a_fleet_whose_passes_always_look_at_the_whole_has_the_same_story() -> None:
    """Goal: both ways to the same end. Method: the same seeds, with every shortcut taken away in another process."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        thorough = pool.submit(_played_thoroughly)
        assert [play(seed).digest for seed in SEEDS] == thorough.result()


def _played_thoroughly() -> list[str]:
    setattr(Settled, "holds", lambda *_, **__: False)  # noqa: B010 - a class of ours is broken on purpose
    render: Callable[..., object] = Rendering.worker_assignments

    def afresh(_: Rendering, *seen: object) -> object:
        return render(Rendering(), *seen)

    setattr(Rendering, "worker_assignments", afresh)  # noqa: B010 - likewise
    return [play(seed).digest for seed in SEEDS]
