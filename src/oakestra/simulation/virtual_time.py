"""An asyncio loop whose clock jumps instead of waiting.

No threads and no sockets may be used under it: time would jump while they work.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import Context, copy_context
from typing import Any, TypeVar, TypeVarTuple

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Stalled(Exception):
    """Every task waits for something that can never happen."""


class Spinning(Exception):
    """Tasks wake each other again and again and no time passes."""


ROUNDS_MAX = 3000
"""Rounds of the loop within a millisecond: far more than anything that is meant to end needs."""
MILLISECOND = 0.001


class Due(asyncio.TimerHandle):
    """Something to be done, with no more than this loop needs: a seed makes some ten thousand of them."""

    __slots__ = ("arguments", "callback", "context", "is_off", "when_s")

    def __init__(
        self,
        callback: Callable[..., object],
        arguments: tuple[Any, ...],
        context: Context,
        when_s: float = 0.0,
    ) -> None:
        self.callback, self.arguments, self.context = callback, arguments, context
        self.when_s, self.is_off = when_s, False

    def __repr__(self) -> str:
        return f"<{self.callback!r}, due at {self.when_s:.3f} s>"

    def cancel(self) -> None:
        self.is_off = True

    def cancelled(self) -> bool:
        return self.is_off

    def when(self) -> float:
        return self.when_s


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """An event loop that is always on time. What is due at the same moment happens in the order it was asked for.

    It keeps its own queues: asyncio compares timers in Python, which took a tenth of a simulation's time.
    """

    def __init__(self) -> None:
        super().__init__()
        self._now_s = 0.0
        self._ends = False
        self._asked = 0
        self._soon: deque[Due] = deque()
        self._later: list[tuple[float, int, Due]] = []

    def time(self) -> float:
        return self._now_s

    def stop(self) -> None:
        self._ends = True
        super().stop()

    def call_soon(
        self,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.Handle:
        due = Due(callback, args, copy_context() if context is None else context)
        self._soon.append(due)
        return due

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        self._asked += 1
        due = Due(callback, args, copy_context() if context is None else context, when)
        heapq.heappush(self._later, (when, self._asked, due))
        return due

    def call_later(
        self,
        delay: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self._now_s + delay, callback, *args, context=context)

    def _run_once(self) -> None:
        """Do all that is due, again and again, until the loop is told to stop."""
        soon, later = self._soon, self._later
        moved_s, rounds = self._now_s, 0
        while not self._ends:
            if not soon:
                self._jump()
            while later and later[0][0] <= self._now_s:
                soon.append(heapq.heappop(later)[2])
            rounds += 1
            if self._now_s - moved_s > MILLISECOND:
                moved_s, rounds = self._now_s, 0
            elif rounds > ROUNDS_MAX:
                raise Spinning(f"no time passes any more at {self._now_s:.3f} s")
            for _ in range(len(soon)):
                due = soon.popleft()
                if not due.is_off:
                    self._do(due)
        self._ends = False

    def _jump(self) -> None:
        """Let it be the moment of what comes next. What was called off is passed over."""
        while self._later and self._later[0][2].is_off:
            heapq.heappop(self._later)
        if not self._later:
            raise Stalled("every task waits for something that can never happen")
        self._now_s = max(self._now_s, self._later[0][0])

    def _do(self, due: Due) -> None:
        try:
            due.context.run(due.callback, *due.arguments)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as every loop of asyncio does
            self.call_exception_handler(
                {"message": f"exception in {due.callback!r}", "exception": error, "handle": due}
            )


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to completion in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
