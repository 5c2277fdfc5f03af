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

Due = tuple[asyncio.Handle, Context, Callable[..., object], tuple[Any, ...]]


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
        handle = asyncio.Handle(callback, args, self, context)
        self._soon.append((handle, copy_context() if context is None else context, callback, args))
        return handle

    call_soon_threadsafe = call_soon

    def call_at(
        self,
        when: float,
        callback: Callable[[*Arguments], object],
        *args: *Arguments,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self._asked += 1
        due = (handle, copy_context() if context is None else context, callback, args)
        heapq.heappush(self._later, (when, self._asked, due))
        return handle

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Let it be: it is passed over when its time comes."""

    def _run_once(self) -> None:
        """Do all that is due, again and again, until the loop is told to stop."""
        moved_s, rounds = self._now_s, 0
        while not self._ends:
            if not self._soon:
                self._jump()
            self._take_due()
            rounds += 1
            if self._now_s - moved_s > MILLISECOND:
                moved_s, rounds = self._now_s, 0
            elif rounds > ROUNDS_MAX:
                raise Spinning(f"no time passes any more at {self._now_s:.3f} s")
            for _ in range(len(self._soon)):
                self._do(*self._soon.popleft())
        self._ends = False

    def _jump(self) -> None:
        """Let it be the moment of what comes next."""
        while self._later and self._later[0][2][0].cancelled():
            heapq.heappop(self._later)
        if not self._later:
            raise Stalled("every task waits for something that can never happen")
        self._now_s = max(self._now_s, self._later[0][0])

    def _take_due(self) -> None:
        while self._later and self._later[0][0] <= self._now_s:
            self._soon.append(heapq.heappop(self._later)[2])

    def _do(
        self, handle: asyncio.Handle, context: Context, callback: Callable[..., object], args: tuple[Any, ...]
    ) -> None:
        if handle.cancelled():
            return
        try:
            context.run(callback, *args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:  # noqa: BLE001 - as every loop of asyncio does
            self.call_exception_handler(
                {"message": f"exception in {callback!r}", "exception": error, "handle": handle}
            )


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run to completion in virtual time."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
