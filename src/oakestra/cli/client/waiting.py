"""Wait until instances are where somebody wants them: ready, or gone."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import Enum

from oakestra.cli.client import Document
from oakestra.cli.show.cells import UNPLACEABLE, condition, why
from oakestra.model.errors import Unavailable

PATIENCE_S = 5.0
"""An instance without a place for so long cannot be placed: clusters that just joined have reported by then."""
QUICK_S, SLOW_S = 0.1, 0.5
QUICKLY_FOR_S = 5.0
"""Root is asked every `QUICK_S` at first, then every `SLOW_S`."""

GONE = "GONE"


class Progress(Enum):
    """How far something is from what is waited for."""

    UNDER_WAY = "under way"
    DONE = "done"
    STUCK = "stuck"
    """Cannot be placed now."""
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """An instance that is waited for."""

    application: str
    """Id; as the next one."""
    service: str
    number: int
    name: str
    """What to call it."""
    gone: bool = False
    """Wait until nothing of it is left, not until it is ready."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a target has come."""

    target: Target
    word: str
    where: str = ""
    why: str = ""
    progress: Progress


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """Where the targets were when the waiting ended."""

    progress: Progress
    """Of all of them; UNDER_WAY: the time was over."""
    steps: tuple[Step, ...]
    took_s: float
    trouble: str = ""
    """Why root could not be asked at the end."""


def steps(services: Iterable[Document], targets: Sequence[Target]) -> tuple[Step, ...]:
    """Return how far each target has come. Pure."""
    seen = {
        (service["id"], instance["number"]): instance
        for service in services
        for instance in service["instances"]
    }
    return tuple(_step(target, seen.get((target.service, target.number))) for target in targets)


def judge(steps: Iterable[Step]) -> Progress:
    """Return how far all are together: as long as one may still come, it is waited for. Pure."""
    found = {step.progress for step in steps}
    for progress in (Progress.UNDER_WAY, Progress.FAILED, Progress.STUCK):
        if progress in found:
            return progress
    return Progress.DONE


def wait(
    look: Callable[[], Iterable[Document]],
    targets: Sequence[Target],
    *,
    show: Callable[[Sequence[Step], str], None],
    timeout_s: float,
    uptime_s: Callable[[], float],
    pause: Callable[[float], None],
) -> Outcome:
    """Look until every target is done, one has failed, or one is stuck for `PATIENCE_S`; at most `timeout_s`.

    While root does not answer it goes on, as root may be restarting; `show` is told the steps and that trouble.
    """
    began_s = uptime_s()
    stuck_since_s: float | None = None
    seen: tuple[Step, ...] = ()
    while True:
        trouble = ""
        try:
            seen = steps(look(), targets)
        except Unavailable as error:
            trouble = str(error)
        show(seen, trouble)
        progress = Progress.UNDER_WAY if trouble else judge(seen)
        now_s = uptime_s()
        if progress is not Progress.STUCK:
            stuck_since_s = None
        elif stuck_since_s is None:
            stuck_since_s = now_s
        lasting = stuck_since_s is not None and now_s - stuck_since_s >= PATIENCE_S
        over = now_s - began_s >= timeout_s
        if over or lasting or progress in (Progress.DONE, Progress.FAILED):
            return Outcome(progress=progress, steps=seen, took_s=now_s - began_s, trouble=trouble)
        quick = now_s - began_s < QUICKLY_FOR_S
        pause(min(QUICK_S if quick else SLOW_S, began_s + timeout_s - now_s))


def _step(target: Target, instance: Document | None) -> Step:
    if instance is None:
        progress = Progress.DONE if target.gone else Progress.FAILED
        return Step(
            target=target, word=GONE, progress=progress, why="" if target.gone else "somebody removed it"
        )
    word = condition(instance)
    where = f"{instance['worker']} ({instance['cluster']})" if instance["worker"] else instance["cluster"]
    if target.gone:
        return Step(target=target, word=word, where=where, progress=Progress.UNDER_WAY)
    return Step(target=target, word=word, where=where, why=why(instance), progress=_arrival(instance, word))


def _arrival(instance: Document, word: str) -> Progress:
    if not instance["wanted"]:
        return Progress.FAILED
    if instance["ready"] or word == "COMPLETED":
        return Progress.DONE
    return {UNPLACEABLE: Progress.STUCK, "FAILED": Progress.FAILED}.get(word, Progress.UNDER_WAY)
