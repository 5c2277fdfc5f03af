"""Read `disconnect` of an SLA: what becomes of an instance that is out of reach. Every key in it counts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from oakestra.model.service import DisconnectPolicy, Reconcile
from oakestra.wire.checks import described, flag, one_of
from oakestra.wire.closed import closed, seconds

LOST_AFTER_S = (0, 30 * 24 * 3600)
STOP_AFTER_S = (30, 30 * 24 * 3600)
"""A cluster may well say nothing for twenty seconds while all is well."""

_CALLED_HERE = {
    "lost_after": "lost_after_s", "max_client_disconnect": "lost_after_s", "tolerationSeconds": "lost_after_s",
    "stop_on_client_after": "stop_after_s", "stop_after_client_disconnect": "stop_after_s",
    "stop_after": "stop_after_s",
}  # fmt: skip
"""What Nomad and Kubernetes call the keys."""

DISCONNECT = closed(
    {
        "lost_after_s": described(
            seconds(LOST_AFTER_S),
            "Replaced elsewhere after so long; else at once when its worker is lost, after 60 s when its cluster is.",
        ),
        "replace": described(flag, "Whether it is replaced at all while it is out of reach."),
        "reconcile": described(
            one_of([policy.value for policy in Reconcile]),
            "Which one stays when a lost worker or cluster returns with the one that was replaced.",
        ),
        "stop_after_s": described(
            seconds(STOP_AFTER_S), "Stopped on its own side when its cluster has been silent for so long."
        ),
    },
    called_here=_CALLED_HERE,
)


def disconnect_policy(found: Mapping[str, Any]) -> DisconnectPolicy:
    """Return what a checked `disconnect` says."""
    return msgspec.convert(dict(found), DisconnectPolicy)  # whole numbers are seconds, too, and kept as such
