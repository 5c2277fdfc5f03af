"""Notice at once when containers end, whoever started them, and when it is on record how."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from oakestra.control import processes
from oakestra.control.processes import Process
from oakestra.runtime.oci.state import Sight

RECORD_WAIT_S = 5.0
"""conmon writes the exit code within milliseconds; one that does not is stuck, and the code is given up."""


@dataclass(slots=True)
class _Watch:
    """What is watched of one container: its first process, then conmon until that has written the exit code."""

    fd: int
    conmon: int | None = None
    timer: asyncio.TimerHandle | None = None


class Endings:
    """Calls `ended(number)` once for each container followed, when its process is gone and the exit code readable."""

    def __init__(self, sight: Sight, ended: Callable[[int], None]) -> None:
        self._sight = sight
        self._ended = ended
        self._watches: dict[int, _Watch] = {}
        self._waiting: dict[int, list[asyncio.Future[None]]] = {}

    def follows(self, number: int) -> bool:
        """Tell whether an ending is still to come."""
        return number in self._watches

    def follow(self, number: int, process: Process) -> None:
        """Wait for this container from now on; once is enough."""
        if number in self._watches:
            return
        fd = processes.open_process(process.pid, process.start_ticks)
        if fd is not None:
            self._watch(number, _Watch(fd))
        else:
            self._process_gone(number)

    async def until_ended(self, number: int, process: Process) -> None:
        """Return when the container has ended and is on record."""
        ended = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(number, []).append(ended)
        self.follow(number, process)
        await ended

    def forget(self, number: int) -> None:
        """Stop following."""
        self._unwatch(number)
        self._tell(number)

    def close(self) -> None:
        """Stop following all. Needs the loop that `follow` was called in."""
        for number in list(self._watches):
            self.forget(number)

    def _watch(self, number: int, watch: _Watch) -> None:
        self._watches[number] = watch
        asyncio.get_running_loop().add_reader(watch.fd, self._fired, number)

    def _unwatch(self, number: int) -> _Watch | None:
        watch = self._watches.pop(number, None)
        if watch is not None:
            asyncio.get_running_loop().remove_reader(watch.fd)
            os.close(watch.fd)
            if watch.timer is not None:
                watch.timer.cancel()
        return watch

    def _fired(self, number: int) -> None:
        watch = self._unwatch(number)
        if watch is not None and watch.conmon is None:
            self._process_gone(number)
        else:
            self._settled(number)

    def _process_gone(self, number: int) -> None:
        conmon = None if self._sight.exit_code(number) is not None else self._sight.conmon(number)
        if conmon is None:
            self._settled(number)
            return
        try:
            fd = os.pidfd_open(conmon)
        except ProcessLookupError:
            self._settled(number)
            return
        timer = asyncio.get_running_loop().call_later(RECORD_WAIT_S, processes.kill, conmon)
        self._watch(number, _Watch(fd, conmon, timer))

    def _settled(self, number: int) -> None:
        self._ended(number)
        self._tell(number)

    def _tell(self, number: int) -> None:
        for ended in self._waiting.pop(number, []):
            if not ended.done():
                ended.set_result(None)
