"""Is somebody still there? Judged from when they were last heard, on a clock that only grows."""

from __future__ import annotations

from enum import Enum


class Liveness(Enum):
    """What silence means so far."""

    LIVE = "live"
    LOST = "lost"


def judge(last_seen_s: float | None, *, since_s: float, now_s: float, lost_after_s: float) -> Liveness:
    """Tell whether a peer is lost: silent for longer than `lost_after_s`.

    `since_s` is when the watcher itself began: after its restart everybody gets a fresh grace.
    """
    heard_s = since_s if last_seen_s is None else max(last_seen_s, since_s)
    return Liveness.LOST if now_s - heard_s > lost_after_s else Liveness.LIVE
