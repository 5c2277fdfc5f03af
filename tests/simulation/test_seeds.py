"""Whatever goes wrong, the fleet is safe meanwhile and heals afterwards; a red seed prints how to play it again."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

import pytest

from oakestra.simulation.faults import Event
from oakestra.simulation.seeds import Played, play, play_many

SEEDS = 200


SAID = {
    Event.CRASH: r"crash (root|c\d)",
    Event.REBOOT: r"power off c\dw\d",
    Event.CUT: r"cut c\dw\d from c\d$",
    Event.SITE_CUT: r"cut c\d from root$",
    Event.ONE_WAY: r"cut \S+ to \S+ one way",
    Event.DISK_FULL: r"the disk of (root|c\d\S*) is full",
    Event.STATE_LOST: r"c\dw\d loses its state",
    Event.ROOT_COPIED: r"somebody copies root's records",
    Event.ROOT_LOST: r"root gets an older copy of its state",
    Event.CLOCK_JUMP: r"the clock of \S+ jumps",
    Event.PROCESS_ENDS: r"\d+ on c\dw\d ends with [1-9]",
    Event.NETWORK_TAKEN: r"loses the network of \d",
    Event.IMAGE_REMOVED: r"has no images any more",
    Event.CLOSED: r"c\d is (cordoned|draining)",
    Event.CRASH_AT: r"dies at (root|cluster|worker|store)\.",
    Event.UNABLE: r"c\dw\d is unable to run",
}
"""What the story tells of every event, once it happened."""


@pytest.mark.timeout(600)
def test_small_fleets_heal_whatever_happens_and_all_of_it_does() -> None:
    """Goal: every promise of `simulation.checkers`, under every fault there is. Method: each seed is a fleet and its
    faults; all cores play."""
    played = tuple(play_many(range(SEEDS)))
    red = [one.summary for one in played if one.wrong]
    assert not red, "\n".join(red[:5])
    story = "\n".join(line for one in played for line in one.story)
    assert not [event for event in Event if not re.search(SAID[event], story, re.MULTILINE)], "never happened"
    suffered = sum((Counter(one.suffered) for one in played), Counter())
    assert not [kind for kind in played[0].suffered if not suffered[kind]], suffered


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
