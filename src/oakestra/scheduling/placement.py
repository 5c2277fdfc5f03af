"""Choose among candidates, and keep what was thought of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol, TypeVar

from oakestra.scheduling.filters import CLUSTER_FILTERS, worker_filters
from oakestra.scheduling.request import ClusterCandidate, Request, WorkerCandidate
from oakestra.scheduling.scores import cluster_score, worker_score

_NUMBER = re.compile(r"\d+(\.\d+)?")

FULL_SCAN_MAX = 500
"""Up to so many candidates all are looked at; beyond, the search stops at `FEASIBLE_MAX` that would do."""
FEASIBLE_MAX = 50
VERDICTS_MAX = 32
"""A decision keeps what was thought of so many candidates; the sentence counts all of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CandidateVerdict:
    """What was thought of one candidate: an empty `refusal` means it would do."""

    name: str
    refusal: str = ""
    score: float = 0.0


def nobody(verdicts: Sequence[CandidateVerdict]) -> bool:
    """Tell whether the last look found nobody: what has a place then only stays there for want of another."""
    return bool(verdicts) and all(verdict.refusal for verdict in verdicts)


def kinds(reason: str, verdicts: Sequence[CandidateVerdict]) -> frozenset[str]:
    """Return why nobody would do, without how many of whom and how much: equal when only numbers differ."""
    return frozenset(_NUMBER.sub("#", why) for why in ([one.refusal for one in verdicts] or [reason]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The candidate to take; `reason` says why in a sentence."""

    id: str
    name: str
    reason: str
    verdicts: tuple[CandidateVerdict, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoChoice:
    """Nobody will do; `reason` counts why."""

    reason: str
    verdicts: tuple[CandidateVerdict, ...]


class _Named(Protocol):
    @property
    def id(self) -> str: ...
    @property
    def name(self) -> str: ...


C = TypeVar("C", bound=_Named)


def choose_worker(
    request: Request, candidates: Sequence[WorkerCandidate], *, start: int = 0
) -> Choice | NoChoice:
    """Return the best worker for the request; `start` rotates where a bounded search begins."""
    return _choose(request, candidates, worker_filters(request), worker_score, what="worker", start=start)


def choose_cluster(request: Request, candidates: Sequence[ClusterCandidate]) -> Choice | NoChoice:
    """Return the best cluster for the request."""
    return _choose(request, candidates, CLUSTER_FILTERS, cluster_score, what="cluster", start=0)


def rather(
    choose: Callable[[Request], Choice | NoChoice], request: Request, avoided: Sequence[Mapping[str, str]]
) -> Choice | NoChoice:
    """Choose, avoiding the first of these; if nobody would do then, the next of them, and so on."""
    choice = choose(replace(request, avoided=avoided[0]))
    for fewer in avoided[1:]:
        if isinstance(choice, Choice):
            break
        choice = choose(replace(request, avoided=fewer))
    return choice


def _choose(
    request: Request,
    candidates: Sequence[C],
    filters: Sequence[Callable[[Request, C], str]],
    score: Callable[[Request, C], float],
    *,
    what: str,
    start: int,
) -> Choice | NoChoice:
    best_points = 0.0
    chosen: C | None = None
    feasible = 0
    refusals: Counter[str] = Counter()
    verdicts: list[CandidateVerdict] = []
    feasible_max = FEASIBLE_MAX if len(candidates) > FULL_SCAN_MAX else len(candidates)
    for offset in range(len(candidates)):
        candidate = candidates[(start + offset) % len(candidates)]
        refusal = _refusal(request, candidate, filters)
        points = 0.0
        if refusal:
            refusals[refusal] += 1
        else:
            feasible += 1
            points = score(request, candidate)
            # the smallest id wins a tie, whatever order the candidates come in
            if chosen is None or points > best_points or (points == best_points and candidate.id < chosen.id):
                best_points, chosen = points, candidate
        if len(verdicts) < VERDICTS_MAX:
            verdicts.append(CandidateVerdict(name=candidate.name, refusal=refusal, score=round(points, 3)))
        if feasible >= feasible_max:
            break
    if chosen is None:
        return NoChoice(reason=_why_nobody(refusals, what), verdicts=tuple(verdicts))
    reason = f"best of {feasible} {what}s that fit" if feasible > 1 else f"the only {what} that fits"
    return Choice(id=chosen.id, name=chosen.name, reason=reason, verdicts=tuple(verdicts))


def _refusal(request: Request, candidate: C, filters: Sequence[Callable[[Request, C], str]]) -> str:
    for rule in filters:
        why = rule(request, candidate)
        if why:
            return why
    return ""


def _why_nobody(refusals: Counter[str], what: str) -> str:
    if not refusals:
        return f"there is no {what}"
    parts = [
        f"{count} {what}{'s' if count > 1 else ''}: {why}" for why, count in sorted(refusals.items())[:5]
    ]
    return "; ".join(parts)
