"""Read `update_policy` of an SLA: how running instances are replaced. Every key in it counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from oakestra.model.service import UpdateOrder, UpdatePolicy
from oakestra.wire.checks import described, flag, one_of
from oakestra.wire.closed import between, closed, seconds

PARALLEL_MAX = 1000
MONITOR_S = (0, 3600)
PROGRESS_S = (5, 86400)

_CALLED_HERE = {
    "parallelism": "parallel", "max_parallel": "parallel", "maxUnavailable": "parallel", "maxSurge": "parallel",
    "monitor": "monitor_s", "min_healthy_time": "min_ready_s", "minReadySeconds": "min_ready_s",
    "progress_deadline": "progress_deadline_s", "progressDeadlineSeconds": "progress_deadline_s",
    "healthy_deadline": "progress_deadline_s", "auto_revert": "rollback", "failure_action": "rollback",
}  # fmt: skip
"""What Compose, Nomad and Kubernetes call the keys."""

UPDATE_POLICY = closed(
    {
        "order": described(
            one_of([order.value for order in UpdateOrder]),
            "Whether the successor starts before the earlier one stops.",
        ),
        "parallel": described(
            between(1, PARALLEL_MAX), "So many instances are on their way at once in each cluster."
        ),
        "min_ready_s": described(
            seconds(MONITOR_S), "A successor is ready for so long before its predecessor goes."
        ),
        "monitor_s": described(seconds(MONITOR_S), "Done when all of it was ready for so long."),
        "progress_deadline_s": described(
            seconds(PROGRESS_S), "Failed when no further instance became ready for so long."
        ),
        "rollback": described(flag, "Go back to the revision before when an update fails."),
    },
    called_here=_CALLED_HERE,
)


def update_policy(found: Mapping[str, Any], *, two: bool = True) -> UpdatePolicy:
    """Return what a checked `update_policy` says. Where `two` at a time would do harm, never two it is, unless the SLA
    says otherwise: of jobs, and of what is not replaced when it is out of reach."""
    usual = UpdateOrder.START_FIRST if two else UpdateOrder.STOP_FIRST
    return msgspec.convert({"order": usual, **found}, UpdatePolicy)  # whole numbers are seconds, too
