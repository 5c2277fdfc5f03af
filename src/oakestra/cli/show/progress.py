"""Wait for instances before somebody's eyes: a live table on a terminal, one line per change elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress

from oakestra.cli import DONE, FAILED, UNPLACEABLE, config
from oakestra.cli.client import Document, Root
from oakestra.cli.client.waiting import Outcome, Progress, Step, Target, wait
from oakestra.cli.show.cells import painted
from oakestra.cli.show.output import Style
from oakestra.cli.show.screen import screen
from oakestra.cli.show.table import Column
from oakestra.model.errors import Invalid, NotFound

_ROWS_MAX = 20
_HAS_RUN = frozenset({"RUNNING", "STOPPED", "FAILED", "COMPLETED"})
"""What is in one of these phases has a log."""
_COLUMNS: tuple[Column[Step], ...] = (
    Column("INSTANCE", lambda step: step.target.name),
    Column("STATUS", lambda step: step.word, paint=painted),
    Column("WHERE", lambda step: step.where),
    Column("REASON", lambda step: step.why),
)

Show = Callable[[Sequence[Step], str], None]


def settle(root: Root, targets: Sequence[Target], *, timeout_s: float) -> Outcome:
    """Wait for the targets, showing on stderr how far they are."""
    services = sorted({target.service for target in targets})
    applications = sorted({target.application for target in targets})

    def look() -> list[Document]:
        if len(services) == 1:
            with suppress(NotFound):
                return [root.get(f"/api/v1/services/{services[0]}")]
            return []
        query = {"application": applications[0]} if len(applications) == 1 else {}
        with suppress(NotFound):
            return list(root.get("/api/v1/services/", **query))
        return []

    with _display() as show:
        return wait(look, targets, show=show, timeout_s=timeout_s, uptime_s=time.monotonic, pause=time.sleep)


def code(outcome: Outcome) -> int:
    """Return the exit code for an outcome, and say on stderr what is not as it was asked for."""
    left = [step for step in outcome.steps if step.progress is not Progress.DONE]
    for step in left[:_ROWS_MAX]:
        print(f"oak: {_complaint(step, outcome)}", file=sys.stderr)
    if len(left) > _ROWS_MAX:
        print(f"oak: … and {len(left) - _ROWS_MAX} more", file=sys.stderr)
    if outcome.trouble:
        print(f"oak: gave up after {outcome.took_s:.0f} s: {outcome.trouble}", file=sys.stderr)
    if outcome.progress is Progress.DONE:
        return DONE
    return UNPLACEABLE if left and all(step.progress is Progress.STUCK for step in left) else FAILED


def _complaint(step: Step, outcome: Outcome) -> str:
    name, why = step.target.name, f": {step.why}" if step.why else ""
    if step.progress is Progress.STUCK:
        return (
            f"{name} cannot be placed{why}; root goes on trying. "
            f"See why: oak explain {name}; withdraw it: oak service undeploy {name}"
        )
    if step.progress is Progress.FAILED:
        return f"{name} will not run{why}; its log may say more: oak service logs {name}"
    state = f"it is {step.word}{f' on {step.where}' if step.where else ''}"
    wanted = "gone" if step.target.gone else "ready"
    said_s = f"{outcome.took_s:.0f} s"
    if step.word in _HAS_RUN and not step.target.gone:
        return f"{name} is still not {wanted} after {said_s}: {state}{why}. See what it wrote: oak service logs {name}"
    return f"{name} is still not {wanted} after {said_s}: {state}{why}. See how it goes on: oak instance ls --watch"


@contextmanager
def _display() -> Iterator[Show]:
    with ExitStack() as stack:
        show: Show = _Lines()
        if sys.stderr.isatty():
            with suppress(Invalid):  # no rich here: lines will do
                display = stack.enter_context(screen(sys.stderr))
                style = Style(coloured=config.colours_wanted())
                show = lambda seen, trouble: display(_page(seen, trouble, style))  # noqa: E731
        yield show


def _page(seen: Sequence[Step], trouble: str, style: Style) -> str:
    left = [step for step in seen if step.progress is not Progress.DONE]
    rows = [*left, *(step for step in seen if step.progress is Progress.DONE)][:_ROWS_MAX]
    parts = [style.table(_COLUMNS, rows)] if rows else []
    if len(seen) > _ROWS_MAX:
        parts.append(f"{len(seen) - len(left)} of {len(seen)} done")
    return "\n".join([*parts, trouble] if trouble else parts)


class _Lines:
    """Prints a line whenever a target has come further, or root went away."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}

    def __call__(self, seen: Sequence[Step], trouble: str) -> None:
        for step in seen:
            parts = (step.word, step.where, step.why)
            self._say(step.target.name, "  ".join(part for part in parts if part))
        self._say("root", trouble)

    def _say(self, about: str, line: str) -> None:
        if self._said.get(about, "") != line:
            self._said[about] = line
            print(f"{about}  {line or 'answers again'}", file=sys.stderr, flush=True)
