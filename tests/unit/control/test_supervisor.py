"""Programs are kept running, survive their supervisor, and are restarted only for a reason."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from oakestra.control import processes
from oakestra.control.supervisor import (
    Decision,
    Program,
    Running,
    Trouble,
    decide,
    read_programs,
    read_running,
    supervisor_of,
    write_programs,
)
from oakestra.model.errors import Invalid

WEB = Program(name="web", command=("serve", "web"), log="/log", environment=(("A", "1"),), netns="/ns")
DB = Program(name="db", command=("serve", "db"), log="/log")


def running(program: Program) -> Running:
    return Running(pid=1, start_ticks=1, program=program, since_s=0.0)


def test_nothing_is_done_when_all_is_as_it_should_be() -> None:
    decision = decide((WEB, DB), {"web": running(WEB), "db": running(DB)}, {}, now_s=9.0)
    assert (decision.stop, decision.start) == ((), ())


def test_only_what_changed_is_stopped() -> None:
    newer = replace(WEB, revision="2")
    assert decide((newer, DB), {"web": running(WEB), "db": running(DB)}, {}, now_s=9.0).stop == ("web",)
    assert decide((DB,), {"web": running(WEB), "db": running(DB)}, {}, now_s=9.0).stop == ("web",)


def test_what_died_waits_for_its_turn() -> None:
    trouble = {"web": Trouble(deaths=3, until_s=10.0)}
    assert decide((WEB, DB), {"db": running(DB)}, trouble, now_s=9.0) == Decision(wait_s=1.0)
    assert decide((WEB, DB), {"db": running(DB)}, trouble, now_s=10.0).start == (WEB,)


def test_programs_are_read_as_written_and_by_their_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "programs.json"
    write_programs(path, (WEB, DB))
    assert read_programs(path) == (WEB, DB)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "programs.json"
    path.write_text("[{}]")
    with pytest.raises(Invalid, match=r"programs\.json does not say what should run"):
        read_programs(path)


# --- real processes --------------------------------------------------------------------------------------------

CHILD = "import sys, time; print('up', flush=True); time.sleep(600)"


class Fleet:
    """A supervisor in a process of its own, and what it started."""

    def __init__(self, directory: Path) -> None:
        self.programs = directory / "programs.json"
        self.directory = directory / "run"
        self.log = directory / "log" / "a.log"
        self._supervisor: subprocess.Popen[bytes] | None = None

    def program(self, name: str, *, revision: str = "") -> Program:
        command = (sys.executable, "-c", CHILD, str(self.directory / name))
        return Program(name=name, command=command, log=str(self.log), revision=revision)

    def supervise(self) -> None:
        code = (
            "import sys; from pathlib import Path; from oakestra.control.supervisor import Supervisor;"
            "Supervisor(Path(sys.argv[1]), Path(sys.argv[2])).run()"
        )
        self._supervisor = subprocess.Popen(
            (sys.executable, "-c", code, str(self.programs), str(self.directory)), start_new_session=True
        )
        until(lambda: supervisor_of(self.directory) is not None)

    def end_supervisor(self, order: int) -> None:
        assert self._supervisor is not None
        self._supervisor.send_signal(order)
        self._supervisor.wait(timeout=30)
        self._supervisor = None

    def told(self) -> None:
        assert self._supervisor is not None
        self._supervisor.send_signal(signal.SIGHUP)

    def pid(self, name: str) -> int:
        until(lambda: name in read_running(self.directory))
        return read_running(self.directory)[name].pid

    def clean(self) -> None:
        if self._supervisor is not None:
            self.end_supervisor(signal.SIGTERM)
        for seen in read_running(self.directory).values():
            processes.kill(seen.pid)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    fleet = Fleet(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(fleet.clean)
        yield fleet


def until(predicate: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 20
    while not predicate():
        assert time.monotonic() < deadline_s, "it did not come true"
        time.sleep(0.01)


def alive(pid: int) -> bool:
    return processes.look(pid) is not None


def test_what_is_killed_comes_back_at_once_and_the_rest_is_left_alone(fleet: Fleet) -> None:
    write_programs(fleet.programs, (fleet.program("a"), fleet.program("b")))
    fleet.supervise()
    a, b = fleet.pid("a"), fleet.pid("b")
    killed_s = time.monotonic()
    os.kill(a, signal.SIGKILL)
    until(lambda: fleet.pid("a") != a)
    assert time.monotonic() - killed_s < 5
    assert fleet.pid("b") == b


def test_programs_outlive_a_killed_supervisor_and_the_next_one_finds_them(fleet: Fleet) -> None:
    write_programs(fleet.programs, (fleet.program("a"),))
    fleet.supervise()
    a = fleet.pid("a")
    fleet.end_supervisor(signal.SIGKILL)
    assert alive(a)
    fleet.supervise()
    until(lambda: supervisor_of(fleet.directory) is not None)
    assert fleet.pid("a") == a
    os.kill(a, signal.SIGKILL)
    until(lambda: fleet.pid("a") != a)


def test_a_program_that_nobody_noted_is_found_by_its_command(fleet: Fleet) -> None:
    write_programs(fleet.programs, (fleet.program("a"),))
    fleet.supervise()
    a = fleet.pid("a")
    fleet.end_supervisor(signal.SIGKILL)
    (fleet.directory / "running.json").unlink()
    fleet.supervise()
    assert fleet.pid("a") == a


def test_told_of_a_change_it_restarts_what_changed(fleet: Fleet) -> None:
    write_programs(fleet.programs, (fleet.program("a"), fleet.program("b")))
    fleet.supervise()
    a, b = fleet.pid("a"), fleet.pid("b")
    write_programs(fleet.programs, (fleet.program("a", revision="2"), fleet.program("b")))
    fleet.told()
    until(lambda: fleet.pid("a") != a)
    assert (alive(a), fleet.pid("b")) == (False, b)


def test_asked_to_stop_it_stops_everything(fleet: Fleet) -> None:
    write_programs(fleet.programs, (fleet.program("a"), fleet.program("b")))
    fleet.supervise()
    pids = [fleet.pid("a"), fleet.pid("b")]
    fleet.end_supervisor(signal.SIGTERM)
    assert not any(alive(pid) for pid in pids)
    assert supervisor_of(fleet.directory) is None


def test_two_supervisors_do_not_share_a_directory(fleet: Fleet) -> None:
    write_programs(fleet.programs, ())
    fleet.supervise()
    code = (
        "import sys; from pathlib import Path; from oakestra.control.supervisor import Supervisor;"
        "Supervisor(Path(sys.argv[1]), Path(sys.argv[2])).run()"
    )
    second = subprocess.run(
        (sys.executable, "-c", code, str(fleet.programs), str(fleet.directory)),
        capture_output=True, text=True, timeout=20, check=False,
    )  # fmt: skip
    assert second.returncode != 0
    assert "another supervisor works on" in second.stderr
