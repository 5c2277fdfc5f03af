"""When what keeps failing in one place is tried in another: clusters ask it of workers, root of clusters. Pure.

Failing is counted in a row, as the worker does, and nothing else counts: an application that once was well and crashes
again and again now is tried elsewhere, too. Every run begins with a new container, so a move takes nothing from it
that the next run in place would have kept; and what made it well may have gone from this machine alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from oakestra.model.instance import InstanceStatus, Phase, Slot
from oakestra.scheduling.lingering import since

STEPS_MAX = 3
"""A step that failed so often in a row, with a few seconds in between, will hardly work the next time."""
CRASHES_MAX = 5
"""More than it takes to give up an update: a broken revision goes back before it goes round."""
FIRST_S = 60.0
LIMIT_S = 600.0
"""Between two moves of an instance: an image that nobody has must not keep a fleet busy."""
AVOIDED_S = 900.0
"""So long a place that failed an instance is not tried again; by then somebody may have mended it. Others come first."""
REMEMBERED_S = 3600.0
"""So long, and while it keeps failing, it counts for patience."""
FAILED_MAX = 16
"""More than fit into the time that they are remembered for."""

_UP_OR_OVER = frozenset({Phase.RUNNING, Phase.COMPLETED, Phase.FAILED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """A place where an instance failed lately."""

    place: str
    """Id of the worker, for root of the cluster."""
    why: str
    """Completes "failed …"."""
    revision: int = 0
    """Of its service: another one may do better there."""
    followed_by: int = 0
    """Number of the try that it was replaced by; 0: it stays, as nobody else would do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What only time tells about instances that failed somewhere lately."""

    since_s: Mapping[tuple[Slot, str, int], float] = field(default_factory=dict)
    """When each failing was noted, or this process began; by slot, place, and what followed."""
    tried_since_s: Mapping[tuple[Slot, int], float] = field(default_factory=dict)
    """Since when the present try of each of these slots has been there; with its number."""
    rests_s: Mapping[Slot, float] = field(default_factory=dict)
    """Slots that do not move again yet, and for how much longer."""
    avoided_s: Mapping[tuple[Slot, str], float] = field(default_factory=dict)
    """Places that are not tried again yet, and for how much longer."""
    remembered_s: Mapping[tuple[Slot, str], float] = field(default_factory=dict)
    """Failings that still count, and for how much longer."""

    def means(self, other: Memory) -> bool:
        """Tell whether the same follows from both."""
        return (
            self.since_s == other.since_s
            and self.tried_since_s == other.tried_since_s
            and self.rests_s.keys() == other.rests_s.keys()
            and self.avoided_s.keys() == other.avoided_s.keys()
            and self.remembered_s.keys() == other.remembered_s.keys()
        )

    @property
    def due_s(self) -> Iterable[float]:
        """In how many seconds something else follows."""
        return (*self.rests_s.values(), *self.avoided_s.values(), *self.remembered_s.values())


def remember(tries: Iterable[tuple[Slot, int, tuple[Failed, ...]]], before: Memory, now_s: float) -> Memory:
    """Return what is to be made of failings now: of each slot the number of its present try, and where it failed."""
    slots = {slot: (number, failed) for slot, number, failed in tries if failed}
    if not slots:
        return Memory()
    keys = ((slot, one.place, one.followed_by) for slot, (_, failed) in slots.items() for one in failed)
    since_s = since(keys, before.since_s, now_s)
    tried = ((slot, number) for slot, (number, _) in slots.items())
    tried_since_s = since(tried, before.tried_since_s, now_s)
    rests_s = {
        slot: tried_since_s[slot, number] + patience_s(len(failed)) - now_s
        for slot, (number, failed) in slots.items()
    }
    ago_s = {(slot, place): now_s - at_s for (slot, place, _), at_s in since_s.items()}
    return Memory(
        since_s=since_s,
        tried_since_s=tried_since_s,
        rests_s={slot: wait_s for slot, wait_s in rests_s.items() if wait_s > 0},
        avoided_s=_left(ago_s, AVOIDED_S),
        remembered_s=_left(ago_s, REMEMBERED_S),
    )


def _left(ago_s: Mapping[tuple[Slot, str], float], lasts_s: float) -> Mapping[tuple[Slot, str], float]:
    return {key: lasts_s - gone_s for key, gone_s in ago_s.items() if gone_s < lasts_s}


def patience_s(places: int) -> float:
    """Return how long an instance stays after it failed in so many places lately: 1 min, then twice as long up to 10."""
    return min(FIRST_S * 2.0 ** min(places - 1, 10), LIMIT_S) if places > 0 else 0.0


def stays(failed: tuple[Failed, ...], place: str) -> str:
    """Say how what fails in this place does so, if it stays there for want of another; else nothing."""
    return next((one.why for one in failed if one.place == place and not one.followed_by), "")


def added(failed: tuple[Failed, ...], one: Failed) -> tuple[Failed, ...]:
    """Return what failed, with one more; the oldest is forgotten where there are too many."""
    return (*without(failed, one.place), one)[-FAILED_MAX:]


def without(failed: tuple[Failed, ...], place: str) -> tuple[Failed, ...]:
    """Return what failed, besides one place."""
    return tuple(one for one in failed if one.place != place)


def is_hopeless(status: InstanceStatus) -> bool:
    """Tell whether an instance failed so often in a row that nobody should wait for it to become ready."""
    failures = status.failures
    return failures is not None and (failures.steps >= STEPS_MAX or failures.crashes >= CRASHES_MAX)


def is_over(status: InstanceStatus) -> bool:
    """Tell whether an instance has come to its end, or keeps failing: it is not on its way to becoming ready."""
    return status.phase in (Phase.COMPLETED, Phase.FAILED) or is_hopeless(status)


def failing(status: InstanceStatus) -> str:
    """Say how an instance fails that should be tried elsewhere, completing "failed …"; nothing while it may get up here."""
    failures = status.failures
    if failures is None or not is_hopeless(status) or status.phase in _UP_OR_OVER:
        return ""
    limit = STEPS_MAX if failures.steps >= STEPS_MAX else CRASHES_MAX
    return f"{limit} times: {failures.how}"
