"""Run containers with runc under conmon; implements `Runtime`."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import shutil
import signal
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from oakestra.control import endings, processes
from oakestra.control.clock import Clock
from oakestra.control.failpoints import Point, reach
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.errors import OakestraError, Rejected, Unavailable
from oakestra.model.ids import WorkerId
from oakestra.model.terminal import Terminal
from oakestra.runtime import (
    OUTPUT_BYTES_MAX,
    CommandEnded,
    CommandInput,
    CommandOutput,
    ContainerSpec,
    ContainerUsage,
    ImageInfo,
    Progress,
)
from oakestra.runtime.oci import bundle, conmon, rootfs
from oakestra.runtime.oci.bundle import UnpackedImage
from oakestra.runtime.oci.endings import Endings
from oakestra.runtime.oci.execution import PART, Execution, clear
from oakestra.runtime.oci.facts import read_boot_id
from oakestra.runtime.oci.failures import explain_runc, explained
from oakestra.runtime.oci.linux.cgroups import Cgroups, hierarchies
from oakestra.runtime.oci.linux.disk import DiskMeter
from oakestra.runtime.oci.logs import SIZE_MAX, Logs
from oakestra.runtime.oci.record import Layout
from oakestra.runtime.oci.state import Sight

logger = logging.getLogger(__name__)

STARTS_MAX = 4
"""Containers made at once: making one is CPU-bound, more at once only makes each of them slower."""
KILLED_WAIT_S = 10.0
"""A process that SIGKILL does not end within this hangs in the kernel, e.g. on a dead disk."""

_MAKERS_KILLED_MAX = 200
"""Rounds of killing what an agent which died was making; one is enough but where the kernel hangs."""


class Images(Protocol):
    """The images on this machine; see `Runtime` for the promises."""

    async def ensure(self, reference: str, *, progress: Progress | None = None) -> None: ...
    async def load(self, path: str, *, progress: Progress | None = None) -> ImageInfo: ...
    async def list(self) -> Sequence[ImageInfo]: ...
    async def remove(self, reference: str) -> None: ...
    def resolve(self, reference: str) -> UnpackedImage | None: ...


class OciRuntime:
    """The containers of one worker. What it must remember is on disk, so it may be killed at any time."""

    def __init__(
        self,
        worker: WorkerId,
        images: Images,
        *,
        state_dir: Path,
        runtime_dir: Path,
        cgroup_parent: str,
        clock: Clock,
        log_dir: Path | None = None,
        runc: str = "runc",
        conmon: str = "conmon",
        allow_privileged: bool = False,
        log_size_max: int = SIZE_MAX,
        starts_max: int = STARTS_MAX,
        boot_id: str | None = None,
    ) -> None:
        self._layout = Layout(
            worker, state_dir=state_dir, runtime_dir=runtime_dir, log_dir=log_dir or state_dir / "logs"
        )
        self._images = images
        self._runc = runc
        self._conmon = conmon
        self._allow_privileged = allow_privileged
        self._boot = boot_id or read_boot_id()
        self._cgroups = Cgroups(cgroup_parent, hierarchies(Path("/proc/self/mountinfo").read_text()))
        self._sight = Sight(self._layout, self._cgroups, self._boot)
        self._logs = Logs(self._layout.logs, reopen=self._reopen_log, size_max=log_size_max)
        self._endings = Endings(self._sight, self._ended)
        self._disk = DiskMeter(clock)
        self._starting = asyncio.Semaphore(starts_max)
        self._execution_names = map(str, itertools.count())
        self._running: dict[int, ContainerSeen] = {}
        self._wake: Callable[[], None] = lambda: None

    async def prepare(self) -> None:
        layout = self._layout
        with explained("preparing the container runtime", layout.state_dir):
            for directory in (layout.instances, layout.logs, layout.runc, layout.exits):
                directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for seen in await self.observe():
            for part in self._cgroups.parts(seen.number, PART):  # commands of an agent that died
                await clear(self._cgroups, part)
        self._runc, self._conmon = _program(self._runc), _program(self._conmon)
        if self._cgroups.found.controlled_by("memory") is None:
            logger.warning(
                "this kernel has no memory cgroups, so memory limits are not enforced; "
                "on a Raspberry Pi add `cgroup_enable=memory` to the kernel's command line"
            )

    async def observe(self) -> Sequence[ContainerSeen]:
        found: list[ContainerSeen] = []
        for number in self._layout.numbers():
            seen = self._running.get(number)
            if seen is None:
                seen = self._look(number)
            else:
                self._logs.look(number)
            if seen is not None:
                found.append(seen)
        return tuple(found)

    async def ensure_image(self, reference: str, *, progress: Progress | None = None) -> None:
        await self._images.ensure(reference, progress=progress)

    async def load_image(self, path: str, *, progress: Progress | None = None) -> ImageInfo:
        return await self._images.load(path, progress=progress)

    async def images(self) -> Sequence[ImageInfo]:
        return await self._images.list()

    async def remove_image(self, reference: str) -> None:
        await self._images.remove(reference)

    async def create(self, spec: ContainerSpec) -> None:
        if spec.privileged and not self._allow_privileged:
            raise Rejected(
                "the service asks for privileged containers, which this worker does not allow; "
                "allow them in the worker's configuration or remove `privileged` from the service"
            )
        self._refuse_foreign(spec.number)
        async with self._starting:
            seen = self._look(spec.number)
            if seen is not None and seen.state is not ContainerState.BROKEN:
                return
            if seen is not None:
                await self._remove(spec.number)  # a leftover of a creation that was cut off
            try:
                await self._make(spec)
            except OakestraError:
                with contextlib.suppress(Unavailable):  # the reason it was not made is the one to tell
                    await self._remove(spec.number)
                raise
            self._look(spec.number)

    async def start(self, number: int) -> None:
        async with self._starting:
            seen = self._look(number)
            if seen is None or seen.state is ContainerState.BROKEN:
                raise Unavailable(f"container {number} is not there or only half; it will be made anew")
            if seen.state is not ContainerState.CREATED:
                return
            rootfs.unmount(self._layout.bundle(number) / "rootfs")  # an agent may have died before it did
            code, text = await endings.run(
                [self._runc, "--root", str(self._layout.runc), "start", self._layout.id(number)]
            )
            seen = self._look(number)
            if code and (seen is None or seen.state is not ContainerState.RUNNING):
                raise explain_runc("starting the container", text, directory=self._layout.bundle(number))

    async def stop(self, number: int, *, grace_s: float) -> None:
        seen, process = self._look(number), self._sight.process(number)
        if seen is None or seen.state not in {ContainerState.CREATED, ContainerState.RUNNING}:
            return
        assert process is not None, "what was created has a process"
        if seen.state is ContainerState.RUNNING and self._ask_to_end(number, process.pid):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace_s):
                    await self._endings.until_ended(number, process)
                    return
        await self._kill(number, process)

    async def delete(self, number: int) -> None:
        record = self._layout.read(number)
        mine = record is None or record.worker == self._layout.worker
        if mine and self._layout.bundle(number).is_dir():
            await self._remove(number)

    async def forget_log(self, number: int) -> None:
        self._logs.forget(number)

    async def usage(self) -> Mapping[int, ContainerUsage]:
        running = [seen.number for seen in await self.observe() if seen.state is ContainerState.RUNNING]
        disk = await self._disk.measure({n: self._layout.bundle(n) / "upper" for n in running})
        return {
            number: ContainerUsage(
                cpu_ns=self._cgroups.cpu_ns(number),
                memory_bytes=self._cgroups.memory_bytes(number),
                disk_bytes=disk.get(number, 0),
            )
            for number in running
        }

    def logs(self, number: int, *, tail_bytes: int | None, follow: bool) -> AsyncIterator[bytes]:
        return self._logs.read(number, tail_bytes=tail_bytes, follow=follow)

    async def exec(
        self,
        number: int,
        command: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        entered: AsyncIterator[CommandInput] | None = None,
        terminal: Terminal | None = None,
    ) -> AsyncGenerator[CommandOutput | CommandEnded, None]:
        seen = self._running.get(number) or self._look(number)
        if seen is None or seen.state is not ContainerState.RUNNING:
            raise Unavailable("the instance does not run now, so no command can run in it")
        execution = Execution(
            self._layout, self._cgroups, number, runc=self._runc, names=self._execution_names
        )
        pieces = execution.run(
            command,
            timeout_s=timeout_s,
            output_bytes_max=output_bytes_max,
            entered=entered,
            terminal=terminal,
        )
        async with contextlib.aclosing(pieces):
            async for piece in pieces:
                yield piece

    def on_change(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    async def purge(self) -> None:
        """Remove every container of this worker, and the cgroups above them; for when the worker itself goes."""
        for seen in await self.observe():
            await self.delete(seen.number)
        self._cgroups.remove_parents()

    def close(self) -> None:
        """Give back what watching needs. Containers go on."""
        self._endings.close()
        self._logs.close()

    # --- seeing -------------------------------------------------------------------------------------------------

    def _look(self, number: int) -> ContainerSeen | None:
        """See what is there, and from then on be told when it ends."""
        seen = self._sight.look(number)
        self._running.pop(number, None)
        if seen is not None and seen.state in {ContainerState.CREATED, ContainerState.RUNNING}:
            process = self._sight.process(number)
            if process is not None:
                self._endings.follow(number, process)
            self._logs.watch(number)
            self._logs.rotate(number)
            if seen.state is ContainerState.RUNNING and self._endings.follows(number):
                self._running[number] = seen  # it stays so until `_ended`
        return seen

    def _ended(self, number: int) -> None:
        reach(Point.RUNTIME_END_SEEN)
        self._running.pop(number, None)
        self._logs.unwatch(number)
        self._wake()

    def _reopen_log(self, number: int) -> bool:
        return conmon.reopen_log(self._layout.bundle(number))

    def _refuse_foreign(self, number: int) -> None:
        record = self._layout.read(number)
        if record is not None and record.worker != self._layout.worker:
            raise Unavailable(
                f"{self._layout.bundle(number)} belongs to the worker {record.worker}; remove it if that one is gone"
            )

    # --- making -------------------------------------------------------------------------------------------------

    async def _make(self, spec: ContainerSpec) -> None:
        image = self._images.resolve(spec.image)
        if image is None:
            raise Unavailable(
                f"the image {spec.image} is not on this machine any more; it has to be fetched again"
            )
        what, number = f"creating container {spec.number}", spec.number
        with explained(what, self._layout.state_dir):
            await asyncio.to_thread(
                bundle.build, spec, image, layout=self._layout, cgroups=self._cgroups, boot=self._boot
            )
            log = self._logs.begin(number)
            command = conmon.command(self._layout, number, conmon=self._conmon, runc=self._runc, log=log)
            await conmon.create(self._layout, number, command)
            reach(Point.RUNTIME_CREATED)
            # The container has the mount in its own namespace; the machine's would only slow every other mount.
            rootfs.unmount(self._layout.bundle(number) / "rootfs")
        self._check_limit(spec)

    def _check_limit(self, spec: ContainerSpec) -> None:
        """Read back what the kernel took of the memory limit, the one that other services rely on."""
        wanted = spec.resources.memory_mib << 20
        held = self._cgroups.limits(spec.number).memory_bytes
        if wanted and held != wanted and self._cgroups.found.controlled_by("memory") is not None:
            logger.warning(
                "the kernel did not take the memory limit as asked",
                extra={"number": spec.number, "wanted_bytes": wanted, "held_bytes": held},
            )

    # --- ending -------------------------------------------------------------------------------------------------

    def _ask_to_end(self, number: int, pid: int) -> bool:
        """Send the image's stop signal to whoever heeds it; False if nobody does.

        The container's first process alone if it does; else those below it, which a shell script would forget.
        runc's own, which would catch the signal and forget it, has nothing to end in peace.
        """
        if not self._sight.is_begun(pid):
            return False
        record = self._layout.read(number)
        wanted = stop_signal(record.stop_signal if record is not None else "")
        others = sorted(self._cgroups.pids(number) - {pid})
        heeding = [pid] if processes.heeds(pid, wanted) else [p for p in others if processes.heeds(p, wanted)]
        for process in heeding:
            processes.kill(process, wanted)
        reach(Point.RUNTIME_STOP_ASKED)
        return bool(heeding)

    async def _kill(self, number: int, process: processes.Process) -> None:
        """End the container's first process, and with it all of its pid namespace."""
        fd = processes.open_process(process.pid, process.start_ticks)
        if fd is not None:
            try:
                signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(fd)
        try:
            async with asyncio.timeout(KILLED_WAIT_S):
                await self._endings.until_ended(number, process)
        except TimeoutError as error:
            raise Unavailable(
                f"the process {process.pid} of container {number} does not end, not even by SIGKILL; it hangs in the kernel"
            ) from error

    async def _remove(self, number: int) -> None:
        """Remove whatever there is of a container but its log."""
        with explained(f"removing container {number}", self._layout.bundle(number)):
            record = self._layout.read(number)
            if record is None or record.boot == self._boot:
                await self._end_processes(number)
            reach(Point.RUNTIME_PROCESSES_ENDED)
            self._endings.forget(number)
            self._running.pop(number, None)
            self._logs.unwatch(number)
            self._disk.forget(number)
            await asyncio.to_thread(bundle.sweep, number, layout=self._layout, cgroups=self._cgroups)

    async def _end_processes(self, number: int) -> None:
        process = self._sight.process(number)
        if process is not None and (
            processes.is_running(process.pid, process.start_ticks) or self._sight.conmon(number) is not None
        ):
            await self._kill(number, process)
        for _ in range(_MAKERS_KILLED_MAX):
            making = await asyncio.to_thread(self._makers, number)
            if not making:
                return
            for pid in processes.descendants(making):
                processes.kill(pid)
            await asyncio.sleep(0.01)
        raise Unavailable(f"what was making container {number} does not end: processes {making}")

    def _makers(self, number: int) -> tuple[int, ...]:
        """Return the conmon and runc that an agent which died may have left making this very container."""
        names = {Path(self._runc).name, Path(self._conmon).name}
        if self._sight.process(number) is not None and self._sight.conmon(number) is None:
            return ()
        return tuple(
            pid
            for pid in processes.find_by_argument(self._layout.id(number))
            if Path((processes.arguments(pid) or ("",))[0]).name in names
        )


def stop_signal(name: str) -> int:
    """Return the number of the signal an image names: SIGTERM, TERM, 15, SIGRTMIN+3; SIGTERM if it names none. Pure."""
    if name.isdigit() and 0 < int(name) < signal.NSIG:
        return int(name)
    base, plus, offset = name.upper().removeprefix("SIG").partition("+")
    found = getattr(signal, f"SIG{base}", signal.SIGTERM) if base.isalnum() else signal.SIGTERM
    number = int(found) + (int(offset) if plus and offset.isdigit() else 0)
    return number if number < signal.NSIG else signal.SIGTERM


def _program(name: str) -> str:
    found = shutil.which(name, path=processes.PATH)
    if found is None:
        raise Unavailable(f"{name} is not installed on this machine; install it, e.g. `apt install {name}`")
    return found
