"""See what a container is, from files alone: its record, runc's state, /proc, and the exit code conmon left."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import msgspec

from oakestra.control import processes
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.runtime.oci.linux.cgroups import Cgroups
from oakestra.runtime.oci.record import InstanceRecord, Layout

_RUNC_INIT = "runc:["
"""runc's own process is called so until it becomes the container's."""


class _RuncState(msgspec.Struct, frozen=True):
    """What runc keeps in state.json, as far as it matters here."""

    init_process_pid: int
    init_process_start: int
    """In clock ticks since boot, as in /proc/<pid>/stat."""


@dataclass(frozen=True, slots=True)
class Sight:
    """Looks at containers."""

    layout: Layout
    cgroups: Cgroups
    boot: str

    def look(self, number: int) -> ContainerSeen | None:
        """Return what is there of `number`; None if there is nothing, or it is another worker's."""
        record = self.layout.read(number)
        if record is None:
            there = self.layout.bundle(number).is_dir()
            return ContainerSeen(number=number, labels={}, state=ContainerState.BROKEN) if there else None
        if record.worker != self.layout.worker:
            return None
        if record.boot != self.boot:
            return ContainerSeen(number=number, labels=record.labels, state=ContainerState.STOPPED)
        process = self.process(number)
        if process is None:
            return ContainerSeen(number=number, labels=record.labels, state=ContainerState.BROKEN)
        return self._look_closer(number, record, process)

    def process(self, number: int) -> processes.Process | None:
        """Return the container's first process as runc made it, alive or not; None if runc never finished that."""
        try:
            raw = (self.layout.runc_state(number) / "state.json").read_bytes()
            state = msgspec.json.decode(raw, type=_RuncState)
        except (FileNotFoundError, msgspec.DecodeError):
            return None
        return processes.Process(
            pid=state.init_process_pid, start_ticks=state.init_process_start, name=_RUNC_INIT
        )

    def is_begun(self, pid: int) -> bool:
        """Tell whether the container's own program runs: what has been started is still runc's for a moment."""
        alive = processes.look(pid)
        return alive is not None and not alive.name.startswith(_RUNC_INIT)

    def conmon(self, number: int) -> int | None:
        """Return the pid of the container's conmon, or None if it does not live."""
        try:
            pid = int((self.layout.bundle(number) / "conmon.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if self.layout.id(number) in processes.arguments(pid) else None

    def exit_code(self, number: int) -> int | None:
        """Return how the first process ended; None if that is not known, or not yet."""
        try:
            return int(self.layout.exit_file(number).read_text())
        except (FileNotFoundError, ValueError):
            return None

    def _look_closer(self, number: int, record: InstanceRecord, process: processes.Process) -> ContainerSeen:
        fifo = self.layout.runc_state(number) / "exec.fifo"
        waiting = fifo.exists()
        alive = processes.look(process.pid)
        ended = alive is None or alive.start_ticks != process.start_ticks
        if alive is not None and not ended and waiting and alive.name.startswith(_RUNC_INIT):
            return ContainerSeen(
                number=number, labels=record.labels, state=ContainerState.CREATED, pid=process.pid
            )
        # The directory last changed when the fifo went: that is when the container was started.
        started_s = None if waiting else _changed_s(fifo.parent)
        if not ended or (self.exit_code(number) is None and self.conmon(number) is not None):
            return ContainerSeen(  # also while conmon has yet to write down how it ended
                number=number,
                labels=record.labels,
                state=ContainerState.RUNNING,
                pid=process.pid,
                started_wall_s=started_s,
            )
        exit_code = self.exit_code(number)
        return ContainerSeen(
            number=number,
            labels=record.labels,
            state=ContainerState.STOPPED,
            exit_code=exit_code,
            out_of_memory=exit_code != 0 and self.cgroups.out_of_memory_kills(number) > 0,
            started_wall_s=started_s,
            finished_wall_s=_changed_s(self.layout.exit_file(number)),
        )


def _changed_s(path: Path) -> float | None:
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return None
