"""A tier's process: it can be killed at any moment, is started again by whoever supervises it, and dies with all
that was asked of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, TypeVar

from oakestra.model.errors import OakestraError, Unavailable
from oakestra.store import StoreFailed

T = TypeVar("T")

RESTART_S = 1.0
"""A process that ended by itself is started again after this long, as the supervisor would."""


class Process:
    """Runs `main` again and again until killed. `complain` hears of everything that must never happen."""

    def __init__(
        self,
        name: str,
        main: Callable[[], Awaitable[None]],
        *,
        group: asyncio.TaskGroup,
        complain: Callable[[str], None],
    ) -> None:
        self.name = name
        self._main = main
        self._group = group
        self._complain = complain
        self._task: asyncio.Task[None] | None = None
        self._calls: dict[asyncio.Task[Any], None] = {}

    @property
    def alive(self) -> bool:
        """Whether it was started and not killed since; it may be waiting to be started again."""
        return self._task is not None

    def start(self) -> None:
        """Start it, if it is not running."""
        if self._task is None:
            self._task = self._group.create_task(self._supervised(), name=self.name)

    async def kill(self) -> None:
        """Kill -9: nothing it was about to do is done."""
        task, self._task = self._task, None
        for call in tuple(self._calls):
            call.cancel()
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def call(self, request: Coroutine[Any, Any, T]) -> T:
        """Let the process answer a request. Raises `Unavailable` if it dies meanwhile; what it did by then stays done."""
        if self._task is None:
            request.close()
            raise Unavailable(f"{self.name} does not answer")
        task = self._group.create_task(_outcome(request))
        self._calls[task] = None
        try:
            await asyncio.wait({task})
        finally:
            self._calls.pop(task, None)
        if task.cancelled():
            raise Unavailable(f"{self.name} went away before it answered")
        result = task.result()
        if isinstance(result, OakestraError):
            raise result
        if isinstance(result, _Raised):
            self._complain(f"a request to {self.name} raised {result.text}")
            raise Unavailable(f"{self.name} failed")
        return result

    async def _supervised(self) -> None:
        while True:
            try:
                await self._main()
            except Exception as error:  # noqa: BLE001 - what must never happen is told to the checkers
                if not _expected(error):
                    self._complain(f"{self.name} died of {_text(error)}")
            else:
                self._complain(f"{self.name} ended by itself")
            await asyncio.sleep(RESTART_S)


class _Raised:
    """An exception that no request may raise."""

    def __init__(self, error: Exception) -> None:
        self.text = _text(error)


async def _outcome(request: Coroutine[Any, Any, T]) -> T | OakestraError | _Raised:
    try:
        return await request
    except OakestraError as error:
        return error
    except Exception as error:  # noqa: BLE001 - a bug of a request must not end the whole fleet
        return _Raised(error)


def _expected(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(_expected(part) for part in error.exceptions)
    return isinstance(error, OakestraError | StoreFailed)


def _text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
