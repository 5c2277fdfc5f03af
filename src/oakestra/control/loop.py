"""The loop every tier runs: observe, plan, execute, again."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from oakestra.model.errors import OakestraError

logger = logging.getLogger(__name__)

PASS_FAILED_BACKOFF_S = 1.0
"""A pass that raised is repeated after this long, however often it is woken: a bug must not burn the CPU."""


class Loop:
    """Call `activate` whenever woken and at least every `resync_s` seconds; never twice at once.

    A wake-up carries no data: however many arrive during a pass, one more pass follows, and it looks at the
    whole state afresh. A pass may return in how many seconds it wants another one at the latest (a back-off ends, a
    grace runs out). Passes begin at least `apart_s` apart, so that a burst of news is one pass. A pass that raises is
    logged and tried again.
    """

    def __init__(
        self, activate: Callable[[], Awaitable[float | None]], *, resync_s: float, apart_s: float = 0.0
    ) -> None:
        self._activate = activate
        self._resync_s = resync_s
        self._apart_s = apart_s
        self._woken = asyncio.Event()
        self._said = ""

    def wake(self) -> None:
        """Ask for one more pass, soon."""
        self._woken.set()

    async def run(self) -> None:
        """Make passes until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            self._woken.clear()
            began_s = loop.time()
            wait_s = self._resync_s
            try:
                wanted_s = await self._activate()
                if wanted_s is not None:
                    wait_s = min(max(wanted_s, 0.0), wait_s)
            except OakestraError as error:
                self._complain(str(error))
                await asyncio.sleep(PASS_FAILED_BACKOFF_S)
            except Exception:
                logger.exception("pass failed, will repeat")
                await asyncio.sleep(PASS_FAILED_BACKOFF_S)
            else:
                self._said = ""
            alarm = loop.call_later(wait_s, self._woken.set)
            try:
                await self._woken.wait()
            finally:
                alarm.cancel()
            if (rest_s := began_s + self._apart_s - loop.time()) > 0:
                await asyncio.sleep(rest_s)

    def _complain(self, why: str) -> None:
        """Log why the world did not let a pass through, once per reason."""
        if why != self._said:
            self._said = why
            logger.warning("pass not finished, will repeat", extra={"error": why})
