"""What a worker answers about single instances."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from random import Random
from typing import Any

import pytest

from oakestra.control.clock import LoopClock
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.errors import Invalid, NotFound, Unavailable
from oakestra.model.instance import InstanceKey
from oakestra.model.service import InstanceAddress
from oakestra.model.terminal import TerminalSize
from oakestra.runtime import CommandOutput, OutputStream
from oakestra.runtime.fake import FakeCommand, FakeHost, FakeRuntime
from oakestra.simulation import virtual_time
from oakestra.wire.execution import (
    Answered,
    CommandEnd,
    Entered,
    FrameKind,
    FrameReader,
    InputEnd,
    Written,
    frame,
)
from oakestra.worker.desired import Desired, LocalInstance
from oakestra.worker.requests import COMMANDS_MAX, Requests
from one_worker import service

SPEC = service(1)
ASKED = {"service": SPEC.id, "slot": 0}


def attempt(number: int, **known: Any) -> LocalInstance:
    key = InstanceKey(SPEC.id, 0, 1, number)
    return LocalInstance(key=key, number=number, address=InstanceAddress(), spec=SPEC, **known)


EARLIER, LATER = attempt(2), attempt(5)


def answering(
    story: Callable[[Requests, FakeHost], Awaitable[None]],
    *,
    instances: tuple[LocalInstance, ...] = (EARLIER, LATER),
    running: tuple[int, ...] = (2, 5),
) -> None:
    """Live a story with a worker that has these attempts of one slot."""

    async def live() -> None:
        host = FakeHost()
        for instance in instances:
            number = instance.number
            state = ContainerState.RUNNING if number in running else ContainerState.STOPPED
            host.containers[number] = ContainerSeen(number=number, labels={}, state=state)
            host.logs[number] = [b"log of %d\n" % number]
        runtime = FakeRuntime(host, clock=LoopClock(), random=Random(1))
        await story(Requests(runtime, lambda: Desired(instances=instances), name="w1"), host)

    virtual_time.run(live())


async def execute(requests: Requests, *command: str, **keys: Any) -> list[Answered]:
    reader = FrameReader()
    pieces = requests.exec({**ASKED, "command": list(command), **keys})
    return [found async for piece in pieces for found in reader.feed(piece)]


GONE_ON = attempt(7, made_as=EARLIER.key)
"""Goes by another number than the one it was begun as."""


@pytest.mark.parametrize(
    ("shown", "instances", "running", "meant"),
    [
        pytest.param(2, (EARLIER, LATER), (2, 5), 2, id="the one that is shown, though a later one runs"),
        pytest.param(5, (EARLIER, LATER), (2,), 5, id="the one that is shown, though it does not run"),
        pytest.param(2, (GONE_ON, attempt(8)), (7, 8), 7, id="the one that is shown, by its former name"),
        pytest.param(None, (EARLIER, LATER), (2, 5), 5, id="the latest that runs"),
        pytest.param(None, (EARLIER, LATER), (2,), 2, id="an earlier one, while its successor is made"),
        pytest.param(3, (EARLIER, LATER), (2,), 2, id="one that runs, if the one that is shown is gone"),
        pytest.param(None, (EARLIER, attempt(5, withdrawn=True)), (2, 5), 2, id="not one that is to go"),
        pytest.param(None, (EARLIER, attempt(5, withdrawn=True)), (5,), 5, id="the latest, if no other runs"),
        pytest.param(None, (EARLIER, LATER), (), 5, id="the latest, if none runs"),
    ],
)
def test_of_several_attempts_the_one_that_serves_is_meant(
    shown: int | None, instances: tuple[LocalInstance, ...], running: tuple[int, ...], meant: int
) -> None:
    """An update in place has two attempts of a slot here, and root says which one it shows; older roots do not."""

    async def story(requests: Requests, host: FakeHost) -> None:
        asked = ASKED if shown is None else {**ASKED, "placement": 1, "attempt": shown}
        assert [piece async for piece in requests.logs(asked)] == [b"log of %d\n" % meant]

    answering(story, instances=instances, running=running)


def test_a_command_runs_in_what_serves_while_its_successor_is_made() -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        host.commands["true",] = FakeCommand()
        assert (await execute(requests, "true", placement=1, attempt=2))[-1] == CommandEnd(exit_code=0)
        assert (await execute(requests, "true"))[-1] == CommandEnd(exit_code=0)

    answering(story, running=(2,))


def test_an_instance_that_is_not_here_is_not_found() -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        with pytest.raises(NotFound, match="instance 3 of this service is not on worker w1"):
            await anext(aiter(requests.logs({"service": SPEC.id, "slot": 3})))

    answering(story)


def test_a_command_is_answered_in_frames_and_logged(caplog: pytest.LogCaptureFixture) -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        host.commands["hi", "x y"] = FakeCommand(
            output=(CommandOutput(stream=OutputStream.STDERR, data=b"no\n"),), exit_code=4
        )
        with caplog.at_level(logging.INFO):
            found = await execute(requests, "hi", "x y")
        assert found == [
            Written(FrameKind.STDOUT, b""),
            Written(FrameKind.STDERR, b"no\n"),
            CommandEnd(exit_code=4),
        ]

    answering(story)
    assert vars(caplog.records[-1])["instance"] == "shop.prod.web1.front.0"
    assert vars(caplog.records[-1])["command"] == "hi 'x y'"


def test_a_command_has_the_time_it_was_given() -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        host.commands["sleep",] = FakeCommand(lasts_s=100.0)
        end = CommandEnd(exit_code=124, reason="did not end within 7 s and was killed")
        assert (await execute(requests, "sleep", timeout_s=7.0))[-1] == end
        assert (await execute(requests, "sleep"))[-1] == CommandEnd(exit_code=0)

    answering(story)


@pytest.mark.parametrize("command", [[], [""], ["a\0b"]])
def test_what_is_no_command_is_refused(command: list[str]) -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        with pytest.raises(Invalid, match="no command to run"):
            await execute(requests, *command)

    answering(story)


def test_so_many_commands_at_once() -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        host.commands["sleep",] = FakeCommand(lasts_s=1000.0)
        running = [asyncio.ensure_future(execute(requests, "sleep")) for _ in range(COMMANDS_MAX)]
        await asyncio.sleep(1.0)
        with pytest.raises(Unavailable, match="16 commands run in instances of worker w1 already"):
            await execute(requests, "sleep")
        running[0].cancel()
        await asyncio.sleep(1.0)
        left = requests.exec({**ASKED, "command": ["sleep"]})
        async with aclosing(left):  # type: ignore[type-var]
            await anext(left)
            with pytest.raises(Unavailable):
                await execute(requests, "sleep")
        for task in running:
            task.cancel()

    answering(story)


def test_a_session_reads_what_is_entered_at_its_terminal() -> None:
    async def story(requests: Requests, host: FakeHost) -> None:
        host.commands["echo",] = FakeCommand(
            replies=lambda said: said if isinstance(said, bytes) else b"%d %d" % (said.rows, said.columns)
        )
        bodies = [
            frame(Entered(b"a")) + frame(TerminalSize(rows=5, columns=6)),
            frame(Entered(b"b")) + frame(InputEnd()) + frame(Entered(b"nobody reads this")),
        ]

        async def entered() -> AsyncGenerator[bytes, None]:
            for body in bodies:
                yield body
            await asyncio.Event().wait()

        terminal = {"rows": 24, "columns": 80, "name": "xterm"}
        for given, expected in ((terminal, b"24 80a5 6b"), (None, b"a5 6b")):
            asked = {**ASKED, "command": ["echo"], "terminal": given}
            reader = FrameReader()
            *said, end = [
                one async for piece in requests.session(asked, entered()) for one in reader.feed(piece)
            ]
            assert b"".join(one.data for one in said if isinstance(one, Written)) == expected
            assert end == CommandEnd(exit_code=0)
        host.containers.clear()
        with pytest.raises(Unavailable, match="does not run"):
            await anext(aiter(requests.session(asked, entered())))

    answering(story)
