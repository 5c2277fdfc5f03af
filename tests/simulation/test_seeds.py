"""Whatever goes wrong, the fleet is safe meanwhile and heals afterwards; a red seed prints how to play it again."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from oakestra.simulation.seeds import Played, play, play_many

SEEDS = 200


@pytest.mark.timeout(600)
def test_small_fleets_heal() -> None:
    """Goal: every promise of `simulation.checkers`. Method: each seed is a fleet and its faults; all cores play."""
    red = [played.summary for played in play_many(range(SEEDS)) if played.wrong]
    assert not red, "\n".join(red[:5])


def test_a_seed_is_the_same_story_in_every_process() -> None:
    """Goal: a red seed can be studied anywhere. Method: two processes that order their sets differently."""
    told = {_told(seed=4, hash_seed=hash_seed) for hash_seed in ("1", "2")}
    assert len(told) == 1
    assert play(4).digest in told.pop()


def test_a_red_seed_says_how_to_play_it_again() -> None:
    played = Played(seed=12, wrong=("it went wrong",), digest="d", story=(), settled_s=1.0)
    assert "it went wrong" in played.summary
    assert "oak sim seed 12" in played.summary


def _told(*, seed: int, hash_seed: str) -> str:
    command = [sys.executable, "-m", "oakestra", "sim", "seed", str(seed), "--count", "6", "--jobs", "1"]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}  # noqa: TID251 - the point of the test
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout
