"""Which of two instances of one slot stays is the policy's word, and health's before it."""

from __future__ import annotations

import pytest

from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey, InstanceStatus
from oakestra.model.service import Reconcile
from oakestra.scheduling.reconcile import Stays, who_stays

KEY = InstanceKey(ServiceId("5" * 24), 0, 1, 1)
READY, UNREADY = InstanceStatus(key=KEY, ready=True), InstanceStatus(key=KEY)


def asked(
    policy: Reconcile,
    original: InstanceStatus | None = READY,
    replacement: InstanceStatus | None = READY,
    *,
    undisturbed: bool = True,
    better: bool = True,
) -> Stays:
    stays, why = who_stays(
        policy, original, replacement, undisturbed=undisturbed, scores_better=lambda: better
    )
    assert why
    return stays


def test_when_both_are_ready_the_policy_says_which_one_stays() -> None:
    assert asked(Reconcile.KEEP_REPLACEMENT) is Stays.REPLACEMENT
    assert asked(Reconcile.KEEP_ORIGINAL, undisturbed=False, better=False) is Stays.ORIGINAL
    assert asked(Reconcile.LONGEST_RUNNING, better=False) is Stays.ORIGINAL
    assert asked(Reconcile.LONGEST_RUNNING, undisturbed=False) is Stays.REPLACEMENT
    assert asked(Reconcile.BEST_SCORE, undisturbed=False) is Stays.ORIGINAL
    assert asked(Reconcile.BEST_SCORE, better=False) is Stays.REPLACEMENT


@pytest.mark.parametrize("policy", set(Reconcile) - {Reconcile.KEEP_REPLACEMENT})
def test_who_is_not_ready_does_not_go_before_who_is(policy: Reconcile) -> None:
    for away in (None, UNREADY):
        assert asked(policy, original=away) is Stays.REPLACEMENT
        assert asked(policy, replacement=away, undisturbed=False, better=False) is Stays.ORIGINAL
        assert asked(policy, original=away, replacement=away) is Stays.REPLACEMENT
