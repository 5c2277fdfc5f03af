"""A pass that changed nothing need not be repeated while it would see the same, but now and then it is all the same."""

from __future__ import annotations

from oakestra.control.settled import Settled


def settled() -> Settled[int]:
    return Settled(lambda a, b: a // 10 == b // 10, resync_s=10.0)


def test_nothing_is_settled_at_first() -> None:
    assert not settled().holds(1, now_s=0.0)


def test_what_is_like_what_changed_nothing_changes_nothing() -> None:
    kept = settled()
    kept.holds(1, now_s=0.0)
    kept.note(1)
    assert kept.holds(2, now_s=5.0)
    assert not kept.holds(11, now_s=6.0)
    assert not kept.holds(1, now_s=7.0), "the pass in between may have changed something"


def test_a_pass_that_changed_something_is_followed_by_another() -> None:
    kept = settled()
    kept.holds(1, now_s=0.0)
    kept.note(None)
    assert not kept.holds(1, now_s=1.0)


def test_the_whole_is_looked_at_now_and_then() -> None:
    kept = settled()
    kept.holds(1, now_s=0.0)
    kept.note(1)
    assert not kept.holds(1, now_s=10.0)
    kept.note(1)
    assert kept.holds(1, now_s=19.0)
