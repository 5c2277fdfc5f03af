"""Every runtime keeps the promises of `Runtime`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from random import Random
from typing import Protocol

import pytest

import oci_bench
from oakestra.control.clock import SystemClock
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.terminal import Terminal, TerminalSize
from oakestra.runtime import (
    KILLED,
    TIMED_OUT,
    CommandEnded,
    CommandInput,
    CommandOutput,
    OutputStream,
    Runtime,
)
from oakestra.runtime.fake import FakeCommand, FakeHost, FakeRuntime
from oakestra.runtime.oci import OciRuntime
from oci_bench import IMAGE, Bench, pieces, spec, until

UNTIL_TOLD = ("sh", "-c", "echo started; while [ ! -e /end ]; do sleep 0.02; done; exit $(cat /end)")

SAYS_AND_FAILS = ("sh", "-c", "echo out; echo err >&2; exit 3")
LASTS = ("sh", "-c", "echo begun; sleep 1000")
ECHOES = ("cat",)
READS_NOTHING = ("sh", "-c", "sleep 1; echo awake; sleep 1000")
TELLS_ITS_SIZE = ("sh", "-c", "trap 'stty size' WINCH; stty size; while true; do sleep 0.02; done")
SAYS_MUCH = ("head", "-c", "300000", "/dev/zero")
COMMANDS = {
    SAYS_AND_FAILS: FakeCommand(
        output=(
            CommandOutput(stream=OutputStream.STDOUT, data=b"out\n"),
            CommandOutput(stream=OutputStream.STDERR, data=b"err\n"),
        ),
        exit_code=3,
    ),
    LASTS: FakeCommand(output=(CommandOutput(stream=OutputStream.STDOUT, data=b"begun\n"),), lasts_s=1000.0),
    ECHOES: FakeCommand(replies=lambda entered: entered if isinstance(entered, bytes) else b""),
    READS_NOTHING: FakeCommand(
        output=(CommandOutput(stream=OutputStream.STDOUT, data=b"awake\n"),), lasts_s=1000.0
    ),
    TELLS_ITS_SIZE: FakeCommand(
        replies=lambda entered: (
            b"" if isinstance(entered, bytes) else b"%d %d\r\n" % (entered.rows, entered.columns)
        )
    ),
    SAYS_MUCH: FakeCommand(output=(CommandOutput(stream=OutputStream.STDOUT, data=bytes(50_000)),) * 6),
}
"""What the fake's images have; real ones have it anyway."""


class Machine(Protocol):
    """A machine with a runtime: agents come and go, it stays."""

    def agent(self) -> Runtime:
        """Return the runtime of a new agent."""

    async def end(self, agent: Runtime, number: int, exit_code: int) -> None:
        """Let a container's process end by itself."""

    async def power_cut(self, agent: Runtime) -> Runtime:
        """Let the machine go down and up; return the new agent's runtime."""

    def close(self) -> None:
        """End what belongs to the running loop."""


class FakeMachine:
    """Everything in memory."""

    def __init__(self) -> None:
        self._host = FakeHost(images={IMAGE}, missing={"no/such"}, commands=dict(COMMANDS))

    def agent(self) -> Runtime:
        return FakeRuntime(self._host, clock=SystemClock(), random=Random(1))

    async def end(self, agent: Runtime, number: int, exit_code: int) -> None:
        assert isinstance(agent, FakeRuntime)
        agent.exit(number, exit_code)

    async def power_cut(self, agent: Runtime) -> Runtime:
        self._host.power_cut(now_s=0.0)
        return self.agent()

    def close(self) -> None:
        """Nothing to end."""


class OciMachine:
    """Real containers."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench

    def agent(self) -> Runtime:
        return self._bench.agent()

    async def end(self, agent: Runtime, number: int, exit_code: int) -> None:
        found = await _seen(agent, number)
        assert found is not None
        oci_bench.write_inside(found.pid, "/end", str(exit_code))

    async def power_cut(self, agent: Runtime) -> Runtime:
        """Everything ends without being recorded, and the boot id is another one."""
        assert isinstance(agent, OciRuntime)
        self._bench.kill_everything()
        after = self._bench.agent(boot_id="the next boot")
        await after.prepare()
        return after

    def close(self) -> None:
        self._bench.close_agents()


@pytest.fixture(params=["fake", pytest.param("oci", marks=pytest.mark.root)])
def machine(request: pytest.FixtureRequest, need_program: Callable[[str, str], str]) -> Iterator[Machine]:
    if request.param == "fake":
        yield FakeMachine()
        return
    for program in ("runc", "conmon"):
        need_program(program, program)
    with oci_bench.bench() as bench:
        yield OciMachine(bench)


def live(machine: Machine, story: Callable[[Runtime], Awaitable[None]]) -> None:
    """Live a story with one agent."""

    async def scene() -> None:
        try:
            agent = machine.agent()
            await agent.prepare()
            await agent.ensure_image(IMAGE)
            await story(agent)
        finally:
            machine.close()

    asyncio.run(scene())


async def _seen(agent: Runtime, number: int) -> ContainerSeen | None:
    return {found.number: found for found in await agent.observe()}.get(number)


async def _state(agent: Runtime, number: int) -> ContainerState | None:
    found = await _seen(agent, number)
    return None if found is None else found.state


async def _run(agent: Runtime, number: int) -> int:
    await agent.create(spec(number, *UNTIL_TOLD))
    await agent.start(number)
    found = await _seen(agent, number)
    assert found is not None
    assert found.state is ContainerState.RUNNING
    return found.pid


async def _stopped(agent: Runtime, number: int) -> ContainerSeen:
    async def look() -> ContainerSeen | None:
        found = await _seen(agent, number)
        return found if found is not None and found.state is ContainerState.STOPPED else None

    found: ContainerSeen = await until(look)
    return found


def test_a_container_is_created_then_runs(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        assert await agent.observe() == ()
        wanted = spec(7, *UNTIL_TOLD, labels={"key": "välue", "other": "{}"})
        await agent.create(wanted)
        found = await _seen(agent, 7)
        assert found is not None
        assert (found.state, found.labels) == (ContainerState.CREATED, {"key": "välue", "other": "{}"})
        await agent.start(7)
        found = await _seen(agent, 7)
        assert found is not None
        assert (found.state, found.labels) == (ContainerState.RUNNING, {"key": "välue", "other": "{}"})
        assert found.pid > 0
        assert found.started_wall_s is not None

    live(machine, story)


def test_everything_may_be_asked_twice(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        pid = await _run(agent, 1)
        await agent.create(spec(1, *UNTIL_TOLD))
        await agent.start(1)
        found = await _seen(agent, 1)
        assert found is not None
        assert found.pid == pid
        await agent.stop(1, grace_s=1.0)
        await agent.stop(1, grace_s=1.0)
        await agent.start(1)
        await agent.create(spec(1, *UNTIL_TOLD))
        assert await _state(agent, 1) is ContainerState.STOPPED, (
            "what ran once is not run again without being deleted"
        )
        await agent.delete(1)
        await agent.delete(1)
        assert await agent.observe() == ()
        await agent.stop(1, grace_s=1.0)
        await agent.forget_log(1)
        await agent.forget_log(1)

    live(machine, story)


def test_the_next_agent_finds_what_the_last_one_left(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        pid = await _run(agent, 1)
        await agent.create(spec(2, *UNTIL_TOLD))
        after = machine.agent()
        await after.prepare()
        first, second = await after.observe()
        assert (first.state, first.pid, first.labels) == (
            ContainerState.RUNNING,
            pid,
            spec(1).labels,
        )
        assert second.state is ContainerState.CREATED
        woken = asyncio.Event()
        after.on_change(woken.set)
        await machine.end(after, 1, 3)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await woken.wait()
        assert (await _stopped(after, 1)).exit_code == 3

    live(machine, story)


def test_an_end_wakes_the_agent_with_its_exit_code(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        woken = asyncio.Event()
        agent.on_change(woken.set)
        await _run(agent, 1)
        await machine.end(agent, 1, 42)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await woken.wait()
        found = await _seen(agent, 1)
        assert found is not None
        assert (found.state, found.exit_code) == (ContainerState.STOPPED, 42)
        assert found.finished_wall_s is not None
        assert not found.out_of_memory

    live(machine, story)


def test_stopping_ends_the_process(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        await agent.create(spec(2, *UNTIL_TOLD))
        for number in (1, 2):
            await agent.stop(number, grace_s=1.0)
            found = await _seen(agent, number)
            assert found is not None
            assert found.state is ContainerState.STOPPED
            assert found.exit_code is not None
            assert found.exit_code > 128, "it was killed by a signal"

    live(machine, story)


def test_a_running_container_may_be_deleted_and_made_anew(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        pid = await _run(agent, 1)
        await agent.delete(1)
        assert await agent.observe() == ()
        assert await _run(agent, 1) != pid

    live(machine, story)


def test_the_log_outlives_the_container(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        async def said(count: int) -> bool:
            return (
                b"".join(await pieces(agent.logs(1, tail_bytes=None, follow=False))) == b"started\n" * count
            )

        for count in (1, 2):
            await _run(agent, 1)
            await until(lambda count=count: said(count))  # type: ignore[misc]
            await agent.delete(1)
        assert b"".join(await pieces(agent.logs(1, tail_bytes=10, follow=False))) == b"started\n"
        await agent.forget_log(1)
        assert b"".join(await pieces(agent.logs(1, tail_bytes=None, follow=False))) == b""

    live(machine, story)


def test_following_goes_on_until_the_log_is_forgotten(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        received = bytearray()

        async def follow() -> None:
            async for piece in agent.logs(1, tail_bytes=None, follow=True):
                received.extend(piece)

        await _run(agent, 1)
        async with asyncio.timeout(oci_bench.TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(follow())
            await until(lambda: received == b"started\n")
            await agent.delete(1)
            await _run(agent, 1)
            await until(lambda: received == b"started\nstarted\n")
            await agent.delete(1)
            await agent.forget_log(1)

    live(machine, story)


def test_what_cannot_be_made_leaves_nothing(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        with pytest.raises((Rejected, Unavailable), match="image"):
            await agent.create(spec(1, image="localhost/other:1"))
        with pytest.raises(Unavailable):
            await agent.start(1)
        assert await agent.observe() == ()

    live(machine, story)


def test_usage_is_of_what_runs(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        await agent.create(spec(2))
        await _run(agent, 3)
        await agent.stop(3, grace_s=1.0)
        usage = await agent.usage()
        assert list(usage) == [1]
        assert usage[1].cpu_ns > 0
        assert usage[1].memory_bytes > 0

    live(machine, story)


def _said(pieces: list[CommandOutput | CommandEnded], stream: OutputStream) -> bytes:
    return b"".join(
        piece.data for piece in pieces if isinstance(piece, CommandOutput) and piece.stream is stream
    )


def test_a_command_in_a_container_says_what_it_says_and_how_it_ends(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        found = [piece async for piece in agent.exec(1, SAYS_AND_FAILS, timeout_s=60.0)]
        assert found[0] == CommandOutput(stream=OutputStream.STDOUT, data=b""), "told that it runs"
        assert found[-1] == CommandEnded(exit_code=3)
        assert (_said(found, OutputStream.STDOUT), _said(found, OutputStream.STDERR)) == (b"out\n", b"err\n")
        assert await _state(agent, 1) is ContainerState.RUNNING

    live(machine, story)


def test_a_command_needs_a_container_that_runs_and_has_it(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await agent.create(spec(1, *UNTIL_TOLD))
        for number in (1, 2):
            with pytest.raises(Unavailable, match="does not run"):
                await anext(agent.exec(number, SAYS_AND_FAILS, timeout_s=60.0))
        await agent.start(1)
        with pytest.raises(Rejected, match="'nothing' is not in the image"):
            await anext(agent.exec(1, ("nothing",), timeout_s=60.0))

    live(machine, story)


def test_a_command_that_takes_too_long_is_killed(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        found = [piece async for piece in agent.exec(1, LASTS, timeout_s=3.0)]
        assert _said(found, OutputStream.STDOUT) == b"begun\n"
        assert found[-1] == CommandEnded(exit_code=TIMED_OUT, reason="did not end within 3 s and was killed")

    live(machine, story)


def test_a_command_that_says_too_much_is_killed(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        whole = [piece async for piece in agent.exec(1, SAYS_MUCH, timeout_s=60.0)]
        assert _said(whole, OutputStream.STDOUT) == bytes(300_000)
        bounded = agent.exec(1, SAYS_MUCH, timeout_s=60.0, output_bytes_max=200_000)
        found = [piece async for piece in bounded]
        assert len(_said(found, OutputStream.STDOUT)) <= 200_000
        assert found[-1] == CommandEnded(
            exit_code=KILLED, reason="wrote more than 200000 bytes and was killed"
        )

    live(machine, story)


class Typist:
    """Enters into a command what the test says, when it says so."""

    def __init__(self) -> None:
        self.taken = 0
        self._said: asyncio.Queue[CommandInput | None] = asyncio.Queue()

    def enter(self, *said: CommandInput | None) -> None:
        for one in said:
            self._said.put_nowait(one)

    async def entered(self) -> AsyncGenerator[CommandInput, None]:
        while (said := await self._said.get()) is not None:
            self.taken += 1
            yield said


class Attended:
    """A command that runs, and what it said so far."""

    def __init__(self, pieces: AsyncGenerator[CommandOutput | CommandEnded, None]) -> None:
        self.pieces = pieces
        self.found: list[CommandOutput | CommandEnded] = []

    async def listen(self) -> None:
        async for piece in self.pieces:
            self.found.append(piece)

    @property
    def out(self) -> bytes:
        return _said(self.found, OutputStream.STDOUT)


def test_a_command_reads_what_is_entered_to_its_end(machine: Machine) -> None:
    """Megabytes of any bytes, nothing lost, in order; with the end of its input it ends."""

    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        sent = [bytes([number % 256]) * 60_000 + bytes(range(256)) for number in range(40)]
        typist = Typist()
        typist.enter(*sent, None)
        pieces = agent.exec(1, ECHOES, timeout_s=60.0, entered=typist.entered())
        found = [piece async for piece in pieces]
        assert found[0] == CommandOutput(stream=OutputStream.STDOUT, data=b""), "told that it runs"
        assert _said(found, OutputStream.STDOUT) == b"".join(sent)
        assert found[-1] == CommandEnded(exit_code=0)
        nothing = Typist()
        nothing.enter(None)
        found = [piece async for piece in agent.exec(1, ECHOES, timeout_s=60.0, entered=nothing.entered())]
        assert (_said(found, OutputStream.STDOUT), found[-1]) == (b"", CommandEnded(exit_code=0))

    live(machine, story)


def test_only_what_a_command_reads_is_taken(machine: Machine) -> None:
    """So that who enters it is slowed; a pipe, too, takes a little."""

    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        typist = Typist()
        typist.enter(*[bytes(60_000)] * 100)
        async with aclosing(
            agent.exec(1, READS_NOTHING, timeout_s=1000.0, entered=typist.entered())
        ) as pieces:
            while _said([await anext(pieces)], OutputStream.STDOUT) != b"awake\n":
                pass
            assert typist.taken < 20

    live(machine, story)


def test_a_command_at_a_terminal_has_its_size_and_heeds_ctrl_c(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        typist, at = Typist(), Terminal(size=TerminalSize(rows=31, columns=101))
        attended = Attended(
            agent.exec(1, TELLS_ITS_SIZE, timeout_s=60.0, entered=typist.entered(), terminal=at)
        )
        async with asyncio.timeout(oci_bench.TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(attended.listen())
            await until(lambda: b"31 101\r\n" in attended.out)
            typist.enter(TerminalSize(rows=5, columns=6))
            await until(lambda: b"5 6\r\n" in attended.out)
            typist.enter(b"\x03")
        assert attended.found[-1] == CommandEnded(exit_code=130)
        assert _said(attended.found, OutputStream.STDERR) == b""

    live(machine, story)


def test_the_end_of_what_is_typed_is_told_to_who_reads_at_a_terminal(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        typist, at = Typist(), Terminal(size=TerminalSize(rows=24, columns=80))
        typist.enter(b"hi\n", None)
        pieces = agent.exec(1, ECHOES, timeout_s=60.0, entered=typist.entered(), terminal=at)
        found = [piece async for piece in pieces]
        assert b"hi" in _said(found, OutputStream.STDOUT)
        assert found[-1] == CommandEnded(exit_code=0)
        with pytest.raises(Rejected, match="'nothing' is not in the image"):
            await anext(agent.exec(1, ("nothing",), timeout_s=60.0, entered=typist.entered(), terminal=at))

    live(machine, story)


@pytest.mark.parametrize("terminal", [None, Terminal(size=TerminalSize(rows=24, columns=80))])
def test_a_command_that_reads_ends_with_its_listener_and_its_container(
    machine: Machine, terminal: Terminal | None
) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        typist = Typist()
        left = agent.exec(1, ECHOES, timeout_s=1000.0, entered=typist.entered(), terminal=terminal)
        await anext(left)
        typist.enter(b"hi\n")
        while b"hi" not in _said([await anext(left)], OutputStream.STDOUT):
            pass
        await left.aclose()
        assert await _state(agent, 1) is ContainerState.RUNNING
        attended = Attended(
            agent.exec(1, ECHOES, timeout_s=1000.0, entered=Typist().entered(), terminal=terminal)
        )
        async with asyncio.timeout(oci_bench.TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(attended.listen())
            await until(lambda: attended.found)
            await machine.end(agent, 1, 0)
        assert attended.found[-1] == CommandEnded(exit_code=KILLED)

    live(machine, story)


def test_a_command_ends_when_nobody_listens_any_more_or_its_container_ends(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        left = agent.exec(1, LASTS, timeout_s=1000.0)
        await anext(left)
        await left.aclose()
        assert await _state(agent, 1) is ContainerState.RUNNING
        found: list[CommandOutput | CommandEnded] = []

        async def listen() -> None:
            async for piece in agent.exec(1, LASTS, timeout_s=1000.0):
                found.append(piece)  # noqa: PERF401 - looked at while it grows

        async with asyncio.timeout(oci_bench.TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(listen())
            await until(lambda: _said(found, OutputStream.STDOUT) == b"begun\n")
            await machine.end(agent, 1, 0)
        assert found[-1] == CommandEnded(exit_code=KILLED)
        assert (await _stopped(agent, 1)).exit_code == 0

    live(machine, story)


def test_after_a_power_cut_everything_has_ended_somehow(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await _run(agent, 1)
        await agent.create(spec(2, *UNTIL_TOLD))
        after = await machine.power_cut(agent)
        assert await _state(after, 2) is ContainerState.STOPPED
        found = await _seen(after, 1)
        assert found is not None
        assert (found.state, found.exit_code, found.labels) == (ContainerState.STOPPED, None, spec(1).labels)
        await after.start(1)
        assert await _state(after, 1) is ContainerState.STOPPED
        await after.delete(1)
        await _run(after, 1)

    live(machine, story)


def test_different_numbers_at_once(machine: Machine) -> None:
    async def story(agent: Runtime) -> None:
        await asyncio.gather(*(_run(agent, number) for number in range(1, 9)))
        await asyncio.gather(*(agent.delete(number) for number in range(1, 9)))
        assert await agent.observe() == ()

    live(machine, story)
