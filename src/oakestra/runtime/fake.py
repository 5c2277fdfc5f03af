"""A runtime in memory, that fails and dawdles when told to. What is on its `FakeHost` survives the agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from random import Random

from oakestra.control.clock import Clock
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.terminal import Terminal
from oakestra.runtime import (
    KILLED,
    OUTPUT_BYTES_MAX,
    TIMED_OUT,
    CommandEnded,
    CommandInput,
    CommandOutput,
    ContainerSpec,
    ContainerUsage,
    ImageInfo,
    OutputStream,
    Progress,
)

FOLLOW_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeCommand:
    """What a command does that is run inside a container: it writes, lasts, and ends."""

    output: tuple[CommandOutput, ...] = ()
    exit_code: int = 0
    lasts_s: float = 0.0
    replies: Callable[[CommandInput], bytes] | None = None
    """What it writes when something is entered; it then ends with its input, or by Ctrl-C at its terminal. It is told
    the terminal's first size, too. None: it reads nothing."""


@dataclass
class FakeHost:
    """What survives an agent: containers, images and logs of one machine."""

    containers: dict[int, ContainerSeen] = field(default_factory=dict)
    specs: dict[int, ContainerSpec] = field(default_factory=dict)
    images: set[str] = field(default_factory=set)
    logs: dict[int, list[bytes]] = field(default_factory=dict)
    missing: set[str] = field(default_factory=set)
    """Images that no registry has."""
    unmakeable: dict[str, str] = field(default_factory=dict)
    """Images of which no container can be made here, and why: a device is missing, say, or their command."""
    commands: dict[tuple[str, ...], FakeCommand] = field(default_factory=dict)
    """What can be run inside containers; every image has all of them and nothing else."""
    full: bool = False
    starts: int = 0
    """How often a process was started, ever."""
    failures: int = 0
    """Calls that failed because they were told to."""

    def end(self, number: int, exit_code: int | None, *, now_s: float) -> None:
        """Let a process end by itself."""
        seen = self.containers.get(number)
        if seen is not None and seen.state is ContainerState.RUNNING:
            self.containers[number] = replace(
                seen, state=ContainerState.STOPPED, pid=0, exit_code=exit_code, finished_wall_s=now_s
            )

    def power_cut(self, *, now_s: float) -> None:
        """Let the machine go down: every process is gone, nobody knows how it ended."""
        for number, seen in self.containers.items():
            if seen.state in {ContainerState.CREATED, ContainerState.RUNNING}:
                self.containers[number] = replace(
                    seen, state=ContainerState.STOPPED, pid=0, exit_code=None, finished_wall_s=now_s
                )


class FakeRuntime:
    """Implements `Runtime` on a `FakeHost`."""

    def __init__(
        self,
        host: FakeHost,
        *,
        clock: Clock,
        random: Random,
        failure_ratio: float = 0.0,
        latency_s: float = 0.0,
        pull_s: float = 0.0,
    ) -> None:
        self.host = host
        self.failure_ratio = failure_ratio
        self.latency_s = latency_s
        self.pull_s = pull_s
        self._clock = clock
        self._random = random
        self._wake: Callable[[], None] = lambda: None

    async def prepare(self) -> None:
        await self._work(0.0)

    async def observe(self) -> Sequence[ContainerSeen]:
        return tuple(self.host.containers[number] for number in sorted(self.host.containers))

    async def ensure_image(self, reference: str, *, progress: Progress | None = None) -> None:
        if reference in self.host.images:
            return
        await self._work(self.pull_s)
        if reference in self.host.missing:
            raise Rejected(f"there is no image {reference!r} at its registry; check the name and tag")
        if self.host.full:
            raise Unavailable("no space left for the image; free some or remove images")
        if progress is not None:
            progress(1, 1)
        self.host.images.add(reference)

    async def load_image(self, path: str, *, progress: Progress | None = None) -> ImageInfo:
        await self.ensure_image(path, progress=progress)
        return ImageInfo(reference=path, digest=path, size_bytes=1, architecture="amd64")

    async def images(self) -> Sequence[ImageInfo]:
        return tuple(
            ImageInfo(reference=name, digest=name, size_bytes=1, architecture="amd64")
            for name in sorted(self.host.images)
        )

    async def remove_image(self, reference: str) -> None:
        self.host.images.discard(reference)

    async def create(self, spec: ContainerSpec) -> None:
        await self._work(self.latency_s)
        if spec.number in self.host.containers:
            return
        if spec.image not in self.host.images:
            raise Unavailable(
                f"the image {spec.image} is not on this machine any more; it has to be fetched again"
            )
        if self.host.full:
            raise Unavailable("no space left for the container")
        if spec.image in self.host.unmakeable:
            raise Rejected(self.host.unmakeable[spec.image])
        self.host.specs[spec.number] = spec
        self.host.logs.setdefault(spec.number, [])
        self.host.containers[spec.number] = ContainerSeen(
            number=spec.number, labels=dict(spec.labels), state=ContainerState.CREATED
        )

    async def start(self, number: int) -> None:
        await self._work(self.latency_s)
        seen = self.host.containers.get(number)
        if seen is None:
            raise Unavailable("the container is gone; it will be made anew")
        if seen.state is ContainerState.CREATED:
            self.host.starts += 1
            self.host.logs[number].append(b"started\n")
            self.host.containers[number] = replace(
                seen,
                state=ContainerState.RUNNING,
                pid=10_000 + self.host.starts,
                started_wall_s=self._clock.wall_s(),
            )

    async def stop(self, number: int, *, grace_s: float) -> None:
        await self._work(min(self.latency_s, grace_s))
        seen = self.host.containers.get(number)
        if seen is not None and seen.state is ContainerState.CREATED:
            self.host.containers[number] = replace(seen, state=ContainerState.STOPPED, pid=0, exit_code=137)
        self.exit(number, 143)

    async def delete(self, number: int) -> None:
        await self._work(self.latency_s)
        self.host.containers.pop(number, None)
        self.host.specs.pop(number, None)

    async def forget_log(self, number: int) -> None:
        self.host.logs.pop(number, None)

    async def usage(self) -> Mapping[int, ContainerUsage]:
        return {
            number: ContainerUsage(cpu_ns=1, memory_bytes=1 << 20, disk_bytes=0)
            for number, seen in sorted(self.host.containers.items())
            if seen.state is ContainerState.RUNNING
        }

    async def logs(self, number: int, *, tail_bytes: int | None, follow: bool) -> AsyncIterator[bytes]:
        lines = list(self.host.logs.get(number, []))
        yield b"".join(_last(lines, tail_bytes))
        seen = len(lines)
        while follow and number in self.host.logs:
            said = self.host.logs[number]
            if len(said) > seen:
                yield b"".join(said[seen:])
                seen = len(said)
            await asyncio.sleep(FOLLOW_POLL_S)

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
        await self._work(self.latency_s)
        if not self._runs(number):
            raise Unavailable("the instance does not run now, so no command can run in it")
        script = self.host.commands.get(tuple(command))
        if script is None:
            raise Rejected(f"the command {command[0]!r} is not in the image")
        yield CommandOutput(stream=OutputStream.STDOUT, data=b"")
        written = 0
        for output in script.output:
            written += len(output.data)
            if written > output_bytes_max:
                reason = f"wrote more than {output_bytes_max} bytes and was killed"
                yield CommandEnded(exit_code=KILLED, reason=reason)
                return
            yield output
        if script.replies is not None:
            async with aclosing(self._replied(number, script, entered, terminal, timeout_s)) as replies:
                async for reply in replies:
                    yield reply
            return
        yield await self._ended(number, script, timeout_s)

    async def _replied(
        self,
        number: int,
        script: FakeCommand,
        entered: AsyncIterator[CommandInput] | None,
        terminal: Terminal | None,
        timeout_s: float,
    ) -> AsyncGenerator[CommandOutput | CommandEnded, None]:
        """Yield what a command writes that reads, and how it ends."""
        assert script.replies is not None
        if terminal is not None:
            yield CommandOutput(stream=OutputStream.STDOUT, data=script.replies(terminal.size))
        over = asyncio.ensure_future(
            self._ended(number, replace(script, lasts_s=timeout_s + FOLLOW_POLL_S), timeout_s)
        )
        coming: asyncio.Future[CommandInput | None] | None = None
        try:
            while entered is not None:
                coming = asyncio.ensure_future(anext(entered, None))
                await asyncio.wait((coming, over), return_when=asyncio.FIRST_COMPLETED)
                if over.done():
                    yield over.result()
                    return
                found = coming.result()
                if found is None or (terminal is not None and found == b"\x03"):
                    yield CommandEnded(exit_code=script.exit_code if found is None else 130)
                    return
                yield CommandOutput(stream=OutputStream.STDOUT, data=script.replies(found))
            yield CommandEnded(exit_code=script.exit_code)
        finally:
            for task in (over, coming):
                if task is not None:
                    task.cancel()
                    await asyncio.wait({task})

    async def _ended(self, number: int, script: FakeCommand, timeout_s: float) -> CommandEnded:
        left_s = min(script.lasts_s, timeout_s)
        while left_s > 0 and self._runs(number):
            await asyncio.sleep(min(left_s, FOLLOW_POLL_S))
            left_s -= FOLLOW_POLL_S
        if not self._runs(number):
            return CommandEnded(exit_code=KILLED)
        if script.lasts_s > timeout_s:
            reason = f"did not end within {timeout_s:g} s and was killed"
            return CommandEnded(exit_code=TIMED_OUT, reason=reason)
        return CommandEnded(exit_code=script.exit_code)

    def _runs(self, number: int) -> bool:
        seen = self.host.containers.get(number)
        return seen is not None and seen.state is ContainerState.RUNNING

    def on_change(self, wake: Callable[[], None]) -> None:
        self._wake = wake

    def exit(self, number: int, exit_code: int) -> None:
        """Let a process end by itself, and tell the agent as the real runtime would."""
        before = self.host.containers.get(number)
        self.host.end(number, exit_code, now_s=self._clock.wall_s())
        if self.host.containers.get(number) != before:
            self._wake()

    async def _work(self, at_most_s: float) -> None:
        await asyncio.sleep(self._random.uniform(0, at_most_s))
        if self._random.random() < self.failure_ratio:
            self.host.failures += 1
            raise Unavailable("told to fail")


def _last(lines: list[bytes], tail_bytes: int | None) -> list[bytes]:
    """Return the last lines that fit into `tail_bytes`, at least one."""
    if tail_bytes is None:
        return lines
    kept: list[bytes] = []
    for line in reversed(lines):
        if kept and sum(map(len, kept)) + len(line) > tail_bytes:
            break
        kept.insert(0, line)
    return kept
