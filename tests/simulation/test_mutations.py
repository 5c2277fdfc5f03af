"""The script of bugs put in on purpose works; all of them are for `python tests/simulation/mutations.py`."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

import pytest

from simulation.mutations import MUTATIONS, SCRIPTED, break_everything, hunt_all

SWIFT = ("lost_workers_are_never_noticed", "nothing_is_reserved", "what_ended_is_not_started_again")


@pytest.mark.timeout(300)
def test_bugs_put_in_on_purpose_are_noticed() -> None:
    """Goal: checkers that see. Method: three bugs that the first seeds show, and those that scripts do."""
    assert [hunted.name for hunted in hunt_all((*SWIFT, *SCRIPTED)) if not hunted.by] == []


def test_every_bug_still_finds_the_code_it_breaks() -> None:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        assert pool.submit(break_everything).result() == len(MUTATIONS)
