"""Logs are kept whole across rotations, and read back as the plain lines a process wrote."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from oakestra.runtime.oci import logs as module
from oakestra.runtime.oci.logs import Logs
from oci_bench import until

TIME = b"2026-01-02T03:04:05.678901234+00:00"
TIMEOUT_S = 10.0


class FakeConmon:
    """Writes and reopens like conmon: into an open file, whatever its name is now."""

    def __init__(self, log: Path) -> None:
        self._log = log
        self._file = log.open("ab", buffering=0)
        self.asked = 0

    def say(self, text: str, *, stream: str = "stdout", whole: bool = True) -> None:
        tag = b"F" if whole else b"P"
        self._file.write(b"%s %s %s %s\n" % (TIME, stream.encode(), tag, text.encode()))

    def reopen(self) -> None:
        """Answer one question."""
        assert self.asked, "reopened without being asked"
        self.asked -= 1
        self._file.close()
        temporary = self._log.with_suffix(".tmp")
        self._file = temporary.open("wb", buffering=0)
        temporary.rename(self._log)

    def close(self) -> None:
        self._file.close()


class Room:
    """The log of one instance and who writes it."""

    def __init__(self, root: Path, *, size_max: int = 300) -> None:
        self.logs = Logs(root, reopen=self._asked, size_max=size_max)
        self.conmon = FakeConmon(self.logs.begin(1))
        self.directory = self.logs.directory(1)

    def _asked(self, number: int) -> None:
        assert number == 1
        self.conmon.asked += 1

    def restart(self) -> None:
        """Let another container go on in the same log."""
        self.conmon.close()
        self.conmon = FakeConmon(self.logs.begin(1))

    async def read(self, tail_bytes: int | None = None) -> str:
        return (await collect(self.logs.read(1, tail_bytes=tail_bytes, follow=False))).decode()


async def collect(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


@pytest.fixture
def live(tmp_path: Path) -> Callable[[Callable[[Room], Awaitable[None]]], None]:
    """Runs a story with a room, and clears it up."""

    def run(story: Callable[[Room], Awaitable[None]]) -> None:
        async def scene() -> None:
            room = Room(tmp_path)
            try:
                await story(room)
            finally:
                room.conmon.close()
                room.logs.close()

        asyncio.run(scene())

    return run


Live = Callable[[Callable[[Room], Awaitable[None]]], None]


def test_records_become_lines(live: Live) -> None:
    async def story(room: Room) -> None:
        room.conmon.say("one")
        room.conmon.say("two  with  spaces ")
        room.conmon.say("")
        room.conmon.say("he", whole=False)
        room.conmon.say("error", stream="stderr")
        room.conmon.say("llo", whole=False)
        room.conmon.say("")
        room.conmon.say("no end", whole=False)
        assert await room.read() == "one\ntwo  with  spaces \n\nerror\nhello\nno end\n"

    live(story)


def test_a_line_goes_on_in_the_next_file(live: Live) -> None:
    async def story(room: Room) -> None:
        room.conmon.say("x" * 300)
        room.conmon.say("begun ", whole=False)
        room.logs.rotate(1)
        room.conmon.say("further ", whole=False)
        room.conmon.reopen()
        room.conmon.say("ended")
        assert await room.read() == "x" * 300 + "\nbegun further ended\n"

    live(story)


def test_nothing_is_lost_however_late_conmon_answers(live: Live) -> None:
    async def story(room: Room) -> None:
        for number in range(4):
            room.conmon.say(f"{number}" + "x" * 300)
        room.logs.rotate(1)
        room.conmon.say("after the question")
        for _ in range(5):
            room.logs.rotate(1)
        assert room.conmon.asked == 1, "what is written between two answers would be lost"
        room.conmon.reopen()
        room.conmon.say("after the answer")
        lines = (await room.read()).splitlines()
        assert [line.rstrip("x") for line in lines] == [
            "0",
            "1",
            "2",
            "3",
            "after the question",
            "after the answer",
        ]
        assert (room.directory / "log").read_bytes().count(b"\n") == 1

    live(story)


def test_two_files_are_kept(live: Live) -> None:
    async def story(room: Room) -> None:
        for number in range(20):
            room.conmon.say(f"{number} " + "x" * 300)
            room.logs.rotate(1)
            room.conmon.reopen()
            room.conmon.say(f"{number} after")
        assert sorted(path.name for path in room.directory.iterdir()) == ["log", "log.1"]
        assert (await room.read()).splitlines()[-1] == "19 after"
        assert len((await room.read()).splitlines()) == 3

    live(story)


def test_a_lost_question_is_asked_again(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ASK_AGAIN_S", 0.0)
    monkeypatch.setattr(module, "LOOK_AGAIN_S", 0.0)

    async def story(room: Room) -> None:
        room.conmon.say("one")
        (room.directory / "log.1").hardlink_to(room.directory / "log")
        room.logs.rotate(1)
        assert not room.conmon.asked, "perhaps the question is still on its way"
        await until(lambda: room.conmon.asked)
        room.conmon.asked = 1
        room.conmon.reopen()
        room.conmon.say("two")
        assert await room.read() == "one\ntwo\n"

    live(story)


def test_a_restart_finishes_what_its_predecessor_left(live: Live) -> None:
    async def story(room: Room) -> None:
        room.conmon.say("cut ", whole=False)
        room.conmon.say("errors too ", stream="stderr", whole=False)
        room.restart()
        room.conmon.say("new")
        assert await room.read() == "cut \nerrors too \nnew\n"
        (room.directory / "log.1").hardlink_to(room.directory / "log")
        (room.directory / "log.tmp").touch()
        room.restart()
        room.conmon.say("newest")
        assert sorted(path.name for path in room.directory.iterdir()) == ["log", "log.1"]
        assert await room.read() == "cut \nerrors too \nnew\nnewest\n"

    live(story)


def test_a_record_torn_by_a_power_cut_costs_only_itself(live: Live) -> None:
    async def story(room: Room) -> None:
        room.conmon.say("whole")
        with (room.directory / "log").open("ab") as file:
            file.write(TIME + b" stdo")
        room.restart()
        room.conmon.say("next")
        assert await room.read() == "whole\nnext\n"

    live(story)


@pytest.mark.parametrize(
    ("tail_bytes", "expected"),
    [
        (0, "line 99\n"),
        (8, "line 99\n"),
        (15, "line 99\n"),
        (16, "line 98\nline 99\n"),
        (10**6, "".join(f"line {n}\n" for n in range(100))),
    ],
)
def test_the_tail_is_whole_lines(live: Live, tail_bytes: int, expected: str) -> None:
    async def story(room: Room) -> None:
        for number in range(100):
            room.conmon.say(f"line {number}")
            if number == 97:
                room.logs.rotate(1)
                room.conmon.reopen()
        assert await room.read(tail_bytes) == expected

    live(story)


def test_a_tail_of_one_long_line(live: Live) -> None:
    async def story(room: Room) -> None:
        room.conmon.say("short")
        room.conmon.say("x" * 100_000)
        assert await room.read(10) == "x" * 100_000 + "\n"

    live(story)


def test_following_the_tail_across_rotations_and_restarts(live: Live) -> None:
    async def story(room: Room) -> None:
        received = bytearray()

        async def follow() -> None:
            async for piece in room.logs.read(1, tail_bytes=6, follow=True):
                received.extend(piece)

        async def arrived(text: bytes) -> None:
            while bytes(received) != text:  # noqa: ASYNC110 - the follower's progress has no event
                await asyncio.sleep(0.001)

        room.conmon.say("old")
        room.conmon.say("begun ", whole=False)
        room.logs.watch(1)
        async with asyncio.timeout(TIMEOUT_S), asyncio.TaskGroup() as group:
            group.create_task(follow())
            await asyncio.sleep(0.001)
            room.conmon.say("ended")
            await arrived(b"begun ended\n")
            for number in range(3):
                room.conmon.say("x" * 300)
                room.logs.rotate(1)
                room.conmon.say("between")
                room.conmon.reopen()
                room.conmon.say(f"{number}")
                received.clear()
                await arrived(b"")
                await arrived(b"%s\nbetween\n%d\n" % (b"x" * 300, number))
            room.restart()
            room.conmon.say("restarted")
            received.clear()
            await arrived(b"restarted\n")
            room.logs.forget(1)

    live(story)


def test_what_grew_while_no_agent_was_there_is_cut(live: Live) -> None:
    async def story(room: Room) -> None:
        for number in range(100):
            room.conmon.say(f"{number:03} " + "x" * 100)
        room.logs.rotate(1)
        room.conmon.reopen()
        room.logs.rotate(1)
        assert (room.directory / "log.1").stat().st_size <= 300
        lines = (await room.read()).splitlines()
        assert [line[:3] for line in lines] == ["099"] or [line[:3] for line in lines] == ["098", "099"]

    live(story)


def test_no_log_is_an_empty_one(tmp_path: Path) -> None:
    async def story() -> None:
        logs = Logs(tmp_path, reopen=lambda number: None)
        for follow in (False, True):
            for tail_bytes in (None, 10):
                assert await collect(logs.read(5, tail_bytes=tail_bytes, follow=follow)) == b""

    asyncio.run(story())
