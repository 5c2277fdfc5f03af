"""What silence means: nothing, a question, or a loss; and when it says more about the listener."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.scheduling.liveness import (
    BENEFIT_S,
    Liveness,
    Patience,
    benefit_of_doubt_s,
    judge,
    silence_s,
)

QUICK = Patience(suspect_after_s=3.0, lost_after_s=4.5)


@pytest.mark.parametrize(
    ("silent_s", "state"),
    [(0.0, "live"), (3.0, "live"), (3.1, "suspect"), (4.5, "suspect"), (4.6, "lost"), (1e9, "lost")],
)
def test_silence_means_more_the_longer_it_lasts(silent_s: float, state: str) -> None:
    assert judge(silent_s, QUICK) is Liveness(state)


def test_a_watcher_that_just_began_has_heard_everybody() -> None:
    assert silence_s(None, since_s=100.0, now_s=101.0) == 1.0
    assert silence_s(10.0, since_s=100.0, now_s=101.0) == 1.0
    assert silence_s(100.5, since_s=100.0, now_s=101.0) == 0.5


def benefit(*silences: float) -> float:
    return benefit_of_doubt_s([(silent_s, QUICK) for silent_s in silences])


def test_one_or_two_that_die_are_lost_at_once_however_small_the_fleet() -> None:
    assert benefit(5.0, 0.1, 0.1) == 0.0
    assert benefit(5.0, 5.0, 0.1) == 0.0
    assert benefit(5.0) == 0.0


def test_when_many_fall_silent_together_the_listener_suspects_itself() -> None:
    assert benefit(5.0, 5.1, 5.2, 0.1, 0.1) == BENEFIT_S
    assert benefit(4.6, 2.7, 3.4, 0.1, 0.1) == BENEFIT_S, "already when the first would be lost"
    assert benefit(*[5.0] * 3, *[0.1] * 8) == 0.0, "three of eleven may be three"
    assert benefit(*[5.0] * 3, *[500.0] * 90) == BENEFIT_S, "who was lost long ago says nothing about now"


@given(st.lists(st.floats(0, 1000), max_size=20))
def test_the_doubt_ends(silences: list[float]) -> None:
    """However many are silent: a while later they count as lost."""
    later = [silent_s + 100 for silent_s in silences]
    assert benefit(*later) == 0.0
    assert all(judge(silent_s, QUICK) is Liveness.LOST for silent_s in later)
