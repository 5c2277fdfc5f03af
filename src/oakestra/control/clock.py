"""Time, handed in."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Tells the time. Timeouts use `uptime_s`; `wall_s` is for people and certificates."""

    def uptime_s(self) -> float:
        """Seconds that only grow, also when somebody sets the machine's clock."""

    def wall_s(self) -> float:
        """POSIX seconds, UTC."""


class SystemClock:
    """The machine's clocks."""

    def uptime_s(self) -> float:
        return time.monotonic()

    def wall_s(self) -> float:
        return time.time()  # noqa: TID251 - the one place


class LoopClock:
    """The running event loop's clock: in virtual time both clocks follow it. Made within that loop."""

    def __init__(self, *, epoch_s: float = 1_700_000_000.0) -> None:
        self.epoch_s = epoch_s
        """Wall time at loop time 0; a test may move it to let the wall clock jump."""
        self._loop = asyncio.get_running_loop()  # asking for it makes a system call each time

    def uptime_s(self) -> float:
        return self._loop.time()

    def wall_s(self) -> float:
        return self.epoch_s + self.uptime_s()
