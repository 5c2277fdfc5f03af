"""An asyncio loop whose clock jumps instead of waiting.

No threads and no sockets may be used under it: time would jump while they work.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class Stalled(Exception):
    """Every task waits for something that can never happen."""


class Spinning(Exception):
    """Tasks wake each other again and again and no time passes."""


ROUNDS_MAX = 3000
"""Rounds of the loop within a millisecond: far more than anything that is meant to end needs."""


class _JumpingSelector(selectors.SelectSelector):
    """Turns "wait up to timeout seconds" into "it is now timeout seconds later"."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0
        self._moved_s = 0.0
        self._rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise Stalled("every task waits for something that can never happen")
        self.now_s += max(timeout, 0.0)
        self._rounds += 1
        if self.now_s - self._moved_s > 0.001:  # noqa: PLR2004 - a millisecond
            self._moved_s, self._rounds = self.now_s, 0
        if self._rounds > ROUNDS_MAX:
            raise Spinning(f"no time passes any more at {self.now_s:.3f} s")
        return []


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop that is always on time."""

    def __init__(self) -> None:
        self._jumping = _JumpingSelector()
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.now_s


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to completion in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
