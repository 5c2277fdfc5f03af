"""Is somebody still there? Judged from when they were last heard, on a clock that only grows. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

SELF_SUSPICION_RATIO = 0.3
"""When more of those it watches than this fall silent at once, the watcher suspects itself first …"""
SELF_SUSPICION_LEAST = 3
"""… unless they are so few that it may well be chance,"""
BEAT_S = 2.0
"""Between two beats: of those that fall silent at one moment, one was heard so much later than another."""
TOGETHER_S = 5.0
"""where at once means within so long;"""
BENEFIT_S = 10.0
"""and waits for so much longer."""


class Liveness(Enum):
    """What silence means so far."""

    LIVE = "live"
    SUSPECT = "suspect"
    """Silent for too long; it is being asked, keeps what it has and gets nothing new."""
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long silence may last."""

    suspect_after_s: float
    lost_after_s: float


def silence_s(last_seen_s: float | None, *, since_s: float, now_s: float) -> float:
    """Return for how long somebody was silent.

    `since_s` is when the watcher itself began, or came back from a stall: everybody gets a fresh grace then.
    """
    heard_s = since_s if last_seen_s is None else max(last_seen_s, since_s)
    return now_s - heard_s


def patience_ended(before_s: float, now_s: float, patiences: Iterable[float]) -> bool:
    """Tell whether a silence that lasted so long before, and lasts so long now, has reached one of these meanwhile."""
    return any(before_s < patience_s <= now_s for patience_s in patiences)


def judge(silent_s: float, patience: Patience) -> Liveness:
    """Tell what this silence means."""
    if silent_s > patience.lost_after_s:
        return Liveness.LOST
    return Liveness.SUSPECT if silent_s > patience.suspect_after_s else Liveness.LIVE


def benefit_of_doubt_s(silences: Sequence[tuple[float, Patience]]) -> float:
    """Return how much longer to wait before anybody is lost: more than nothing when many fell silent together.

    Each silence comes with the patience it is judged by. It is far likelier that our own link is broken, or that we
    were stopped for a while, than that a third of the machines died within seconds. When the first of them is to be
    called lost, the others have been silent for up to a beat less.
    """
    together = sum(
        min(patience.suspect_after_s, patience.lost_after_s - BEAT_S)
        < silent_s
        <= patience.lost_after_s + TOGETHER_S + BENEFIT_S
        for silent_s, patience in silences
    )
    heard = sum(silent_s <= patience.lost_after_s + TOGETHER_S + BENEFIT_S for silent_s, patience in silences)
    many = together >= SELF_SUSPICION_LEAST and together > SELF_SUSPICION_RATIO * heard
    return BENEFIT_S if many else 0.0
