"""Run a tier as a process: until SIGTERM or SIGINT, its log on standard error."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from typing import Any

from oakestra.control import logs
from oakestra.model.errors import OakestraError


def run_until_stopped(main: Coroutine[Any, Any, None], *, log_level: str) -> None:
    """Run `main` until it ends or somebody stops the process; then let it clean up.

    Raises the domain error that ended it: what a user can act on is a sentence, not a trace.
    """
    logs.configure(level=log_level)
    try:
        asyncio.run(_until_stopped(main))
    except BaseExceptionGroup as group:
        domain = _first_domain_error(group)
        if domain is None:
            raise
        raise domain from group


async def _until_stopped(main: Coroutine[Any, Any, None]) -> None:
    running = asyncio.ensure_future(main)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, running.cancel)
    try:
        await running
    except asyncio.CancelledError:
        if not running.cancelled():
            raise


def _first_domain_error(group: BaseExceptionGroup[BaseException]) -> OakestraError | None:
    for error in group.exceptions:
        if isinstance(error, OakestraError):
            return error
        if isinstance(error, BaseExceptionGroup):
            found = _first_domain_error(error)
            if found is not None:
                return found
    return None
