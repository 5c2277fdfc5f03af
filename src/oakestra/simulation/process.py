"""A tier's process: it can be killed at any moment or at a fail point, is started again by whoever supervises it, and
dies with all that was asked of it."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Generator
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

from oakestra.control.failpoints import Point
from oakestra.model.errors import OakestraError, Unavailable
from oakestra.store import StoreFailed

T = TypeVar("T")

RESTART_S = 1.0
"""A process that ended by itself is started again after this long, as the supervisor would."""


_running: ContextVar[Process | None] = ContextVar("process", default=None)
"""Whose work is being done: every task that a task makes belongs to the same process."""


def reached(point: Point) -> None:
    """Hear that whoever is running now has come to a point; to be handed to `failpoints.heeded`."""
    process = _running.get()
    if process is not None:
        process.reach(point)


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
        self._tasks: dict[asyncio.Task[Any], None] = {}
        """All that it does now, in the order in which it began."""
        self._doom: dict[Point, Callable[[], None]] = {}

    @property
    def alive(self) -> bool:
        """Whether it was started and not killed since; it may be waiting to be started again."""
        return self._task is not None

    def start(self) -> None:
        """Start it, if it is not running."""
        if self._task is None:
            self._task = self._do(self._supervised())

    async def kill(self) -> None:
        """Kill -9: nothing it was about to do is done."""
        task = self._task
        self._end()
        if task is not None:
            await asyncio.wait({task})

    def _end(self) -> None:
        self._task = None
        for task in tuple(self._tasks):
            task.cancel()

    def doom(self, point: Point, died: Callable[[], None]) -> None:
        """Let it be killed the next time it comes to a point, in this life or a later one; `died` is called then."""
        self._doom[point] = died

    def spare(self) -> None:
        """Let it live, wherever it comes."""
        self._doom.clear()

    def reach(self, point: Point) -> None:
        """Be at a point. Raises `CancelledError` if that is its end, as does whatever else it was waiting for."""
        died = self._doom.pop(point, None)
        if died is not None:
            self._end()
            Context().run(died)  # what follows is no work of the dead
            raise asyncio.CancelledError

    async def call(self, request: Coroutine[Any, Any, T]) -> T:
        """Let the process answer a request. Raises `Unavailable` if it dies meanwhile; what it did by then stays done."""
        if self._task is None:
            request.close()
            raise Unavailable(f"{self.name} does not answer")
        task = self._do(_outcome(request))
        await asyncio.wait({task})
        if task.cancelled():
            raise Unavailable(f"{self.name} went away before it answered")
        result = task.result()
        if isinstance(result, OakestraError):
            raise result
        if isinstance(result, _Raised):
            self._complain(f"a request to {self.name} raised {result.text}")
            raise Unavailable(f"{self.name} failed")
        return result

    def _do(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin something as this process; it and all that comes of it ends with the process."""
        asyncio.get_running_loop().set_task_factory(_made_by_its_process)
        context = copy_context()
        context.run(_running.set, self)
        return self._group.create_task(work, name=self.name, context=context)

    def own(self, task: asyncio.Task[Any]) -> None:
        """Let a task end with this process."""
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

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


def _made_by_its_process(
    loop: asyncio.AbstractEventLoop,
    work: Coroutine[Any, Any, Any] | Generator[Any, None, Any],
    context: Context | None = None,
    **keys: Any,
) -> asyncio.Task[Any]:
    """Make a task, and let it end with the process that makes it or, if told so, with another one."""
    task = asyncio.Task(work, loop=loop, context=context, **keys)
    process = _running.get() if context is None else context.get(_running)
    if process is not None:
        process.own(task)
    return task


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
