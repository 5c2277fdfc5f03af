"""Decide which of two instances of one slot stays when what was lost returns with the one that was replaced. Pure.

The same for a worker that returns to its cluster and for a cluster that returns to root.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum

from oakestra.model.instance import InstanceStatus
from oakestra.model.service import Reconcile


class Stays(Enum):
    """Which of the two goes on."""

    ORIGINAL = "original"
    REPLACEMENT = "replacement"


def who_stays(
    policy: Reconcile,
    original: InstanceStatus | None,
    replacement: InstanceStatus | None,
    *,
    undisturbed: bool,
    scores_better: Callable[[], bool],
    done: bool = False,
) -> tuple[Stays, str]:
    """Return which one stays, and why. One that is not ready never goes before one that is.

    `undisturbed`: the original was not started again while it was away. `scores_better` tells whether its place would
    be chosen now, if neither of the two were there. `done`: the original has done all its work while it was away.
    """
    if done:
        return Stays.ORIGINAL, "it has done its work"
    if original is None or not original.ready:
        return Stays.REPLACEMENT, "it came back and was not ready: its replacement is kept"
    if replacement is None or not replacement.ready:
        return Stays.ORIGINAL, "its replacement is not ready"
    if policy is Reconcile.KEEP_REPLACEMENT:
        return Stays.REPLACEMENT, "its replacement is kept"
    if policy is Reconcile.KEEP_ORIGINAL:
        return Stays.ORIGINAL, "the original is kept"
    if policy is Reconcile.LONGEST_RUNNING and undisturbed:
        return Stays.ORIGINAL, "it runs longest"
    if policy is Reconcile.BEST_SCORE and scores_better():
        return Stays.ORIGINAL, "it has the better place"
    return Stays.REPLACEMENT, f"its replacement is kept ({policy.value})"
