"""Keep an installation's programs running, where no systemd does it.

Programs live in sessions of their own and outlive the supervisor: a later one finds them by pid and start time. What
should run is a file; SIGHUP has it read again, and only what changed is restarted. SIGTERM stops everything, the last
program of the file first.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import select
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from oakestra.control import logs, processes
from oakestra.control.failpoints import Point, reach
from oakestra.control.installation import Installation
from oakestra.model.errors import Conflict, Invalid
from oakestra.scheduling.backoff import delay_s

logger = logging.getLogger(__name__)

STOP_WITHIN_S = 15.0
STEADY_S = 30.0
"""A program that ran for so long was a good one: its next death is its first."""
LOOK_EVERY_S = 60.0
LOG_BYTES_MAX = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """Something to keep running."""

    name: str
    command: tuple[str, ...]
    log: str
    """File that its output is appended to."""
    environment: tuple[tuple[str, str], ...] = ()
    """Besides PATH and HOME."""
    netns: str = ""
    """Path of the network namespace it lives in; empty: ours."""
    revision: str = ""
    """Anything whose change means that it must be restarted, e.g. a digest of its code."""

    @property
    def whole_environment(self) -> Mapping[str, str]:
        """All the variables it finds, whoever starts it."""
        return {"PATH": processes.PATH, "HOME": "/root", **dict(self.environment)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A program that was started, by us or by a supervisor before us."""

    pid: int
    start_ticks: int
    program: Program
    since_s: float
    """By the machine's monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What is to be done now: stop these, start those, and look again in so many seconds."""

    stop: tuple[str, ...] = ()
    start: tuple[Program, ...] = ()
    wait_s: float = LOOK_EVERY_S


@dataclass(slots=True)
class Trouble:
    """How often a program died in a row, and when it may be started again."""

    deaths: int = 0
    until_s: float = 0.0


def decide(
    wanted: Sequence[Program],
    running: Mapping[str, Running],
    troubles: Mapping[str, Trouble],
    *,
    now_s: float,
) -> Decision:
    """Return what makes `running` equal to `wanted`: what changed is stopped first and started in the next round."""
    by_name = {program.name: program for program in wanted}
    stop = tuple(name for name, seen in running.items() if by_name.get(name) != seen.program)
    waiting = [program for program in wanted if program.name not in running]
    due = {
        program.name: troubles[program.name].until_s if program.name in troubles else 0.0
        for program in waiting
    }
    start = tuple(program for program in waiting if due[program.name] <= now_s)
    later = [until_s - now_s for until_s in due.values() if until_s > now_s]
    return Decision(stop=stop, start=start, wait_s=min([LOOK_EVERY_S, *later]))


def read_programs(path: Path) -> tuple[Program, ...]:
    """Return what should run. Raises `Invalid` if the file is missing or damaged."""
    try:
        rows = json.loads(path.read_text())
        return tuple(
            Program(
                **{
                    **row,
                    "command": tuple(row["command"]),
                    "environment": tuple((name, value) for name, value in row["environment"]),
                }
            )
            for row in rows
        )
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise Invalid(f"{path} does not say what should run: {error}") from error


def write_programs(path: Path, programs: Sequence[Program]) -> None:
    """Say what should run; only the file's owner can read it, as environments may hold secrets."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as file:
        json.dump([asdict(program) for program in programs], file)
    draft.replace(path)


def programs_file(home: Installation) -> Path:
    """Return the file that says what should run in an installation."""
    return home.state / "programs.json"


@dataclass(slots=True)
class Supervisor:
    """Runs what `programs` says; remembers in `directory` what it started."""

    programs: Path
    directory: Path
    _wanted: tuple[Program, ...] = ()
    _running: dict[str, Running] = field(default_factory=dict)
    _troubles: dict[str, Trouble] = field(default_factory=dict)
    _changed: bool = True
    _stopping: bool = False

    def run(self) -> None:
        """Keep everything running until SIGTERM; return when all is stopped.

        Raises `Conflict` if another supervisor works on this directory.
        """
        self.directory.mkdir(mode=0o755, parents=True, exist_ok=True)
        with _lock(self.directory / "supervisor.lock"), _signals(self._heed) as woken:
            _write_own_pid(self.directory / "supervisor.json")
            self._adopt()
            while not self._stopping:
                self._round(woken)
            for name in reversed(list(self._running)):
                self._stop(name)
            self._remember()
            (self.directory / "supervisor.json").unlink(missing_ok=True)

    def _heed(self, number: int) -> None:
        if number == signal.SIGHUP:
            self._changed = True
        else:
            self._stopping = True

    def _round(self, woken: int) -> None:
        if self._changed:
            self._changed = False
            self._wanted = read_programs(self.programs)
            self._troubles.clear()
        self._notice_deaths()
        decision = decide(self._wanted, self._running, self._troubles, now_s=time.monotonic())
        for name in decision.stop:
            self._stop(name)
            reach(Point.SUPERVISOR_STOPPED)
        for program in decision.start:
            self._start(program)
        self._remember()
        for program in self._wanted:
            logs.keep_small(Path(program.log), bytes_max=LOG_BYTES_MAX)
        if not decision.stop:
            _wait([running.pid for running in self._running.values()], woken, decision.wait_s)

    def _notice_deaths(self) -> None:
        for name, running in list(self._running.items()):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(running.pid, os.WNOHANG)
            if processes.is_running(running.pid, running.start_ticks):
                continue
            del self._running[name]
            now_s = time.monotonic()
            trouble = self._troubles.setdefault(name, Trouble())
            trouble.deaths = 1 if now_s - running.since_s > STEADY_S else trouble.deaths + 1
            wait_s = delay_s(trouble.deaths, salt=name)
            trouble.until_s = now_s + wait_s
            extra = {"program": name, "again_in_s": round(wait_s, 1), "log": running.program.log}
            logger.warning("a program ended, will start it again", extra=extra)

    def _start(self, program: Program) -> None:
        inside = ("nsenter", f"--net={program.netns}", "--") if program.netns else ()
        log = Path(program.log)
        log.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
        with log.open("ab") as output:
            child = subprocess.Popen(
                (*inside, *program.command),
                env=program.whole_environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        reach(Point.SUPERVISOR_STARTED)
        seen = processes.look(child.pid)
        self._running[program.name] = Running(
            pid=child.pid,
            start_ticks=seen.start_ticks if seen else 0,
            program=program,
            since_s=time.monotonic(),
        )
        child.returncode = 0  # we reap it ourselves; Popen must not warn that it still runs
        logger.info("started", extra={"program": program.name, "pid": child.pid})

    def _stop(self, name: str) -> None:
        running = self._running.pop(name)
        for order in (signal.SIGTERM, signal.SIGKILL):
            if _ended_after(running, order):
                break
        with contextlib.suppress(ChildProcessError):
            os.waitpid(running.pid, os.WNOHANG)
        logger.info("stopped", extra={"program": name, "pid": running.pid})

    def _adopt(self) -> None:
        self._running.update(read_running(self.directory))
        for program in read_programs(self.programs):
            if program.name not in self._running:
                self._running.update(_unrecorded(program))
        for name, running in self._running.items():
            logger.info("found running", extra={"program": name, "pid": running.pid})

    def _remember(self) -> None:
        path = self.directory / "running.json"
        content = json.dumps({name: asdict(running) for name, running in self._running.items()})
        if not path.exists() or path.read_text() != content:
            draft = path.with_name("running.json.new")
            descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(content)
            reach(Point.SUPERVISOR_REMEMBERING)
            draft.replace(path)


def read_running(directory: Path) -> dict[str, Running]:
    """Return the programs that some supervisor of this directory started and that live now."""
    try:
        rows = json.loads((directory / "running.json").read_text())
    except (OSError, ValueError):
        return {}
    found: dict[str, Running] = {}
    for name, row in rows.items():
        program = Program(
            **{
                **row["program"],
                "command": tuple(row["program"]["command"]),
                "environment": tuple((key, value) for key, value in row["program"]["environment"]),
            }
        )
        running = Running(**{**row, "program": program})
        if processes.is_running(running.pid, running.start_ticks):
            found[name] = running
    return found


def _unrecorded(program: Program) -> dict[str, Running]:
    """Return the program if it runs although nobody noted it: a supervisor died just after it started it."""
    for pid in processes.find_by_argument(program.command[-1]):
        seen = processes.look(pid)
        if seen is not None and processes.arguments(pid) == program.command:
            since_s = time.monotonic()
            running = Running(pid=pid, start_ticks=seen.start_ticks, program=program, since_s=since_s)
            return {program.name: running}
    return {}


def supervisor_of(directory: Path) -> processes.Process | None:
    """Return the supervisor that works on this directory now, if any."""
    try:
        row = json.loads((directory / "supervisor.json").read_text())
    except (OSError, ValueError):
        return None
    seen = processes.look(int(row["pid"]))
    return seen if seen is not None and seen.start_ticks == row["start_ticks"] else None


def _write_own_pid(path: Path) -> None:
    own = processes.look(os.getpid())
    assert own is not None, "we run"
    path.write_text(json.dumps({"pid": own.pid, "start_ticks": own.start_ticks}))


def _ended_after(running: Running, order: int) -> bool:
    fd = processes.open_process(running.pid, running.start_ticks)
    if fd is None:
        return True
    try:
        processes.kill(running.pid, order)
        return bool(select.select([fd], [], [], STOP_WITHIN_S)[0])
    finally:
        os.close(fd)


def _wait(pids: Sequence[int], woken: int, timeout_s: float) -> None:
    """Return when one of the processes ends, a signal comes, or the time is over."""
    watched: list[int] = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            watched.append(os.pidfd_open(pid))
    try:
        if len(watched) == len(pids):
            ready, _, _ = select.select([woken, *watched], [], [], timeout_s)
            if woken in ready:
                with contextlib.suppress(BlockingIOError):
                    os.read(woken, 4096)
    finally:
        for fd in watched:
            os.close(fd)


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"another supervisor works on {path.parent} already") from error
        yield


@contextlib.contextmanager
def _signals(heed: Callable[[int], None]) -> Iterator[int]:
    """Have `heed(number)` called for the signals we know; yield a descriptor that becomes readable then."""
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(write_end)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda received, _frame: heed(received))
    try:
        yield read_end
    finally:
        signal.set_wakeup_fd(-1)
        os.close(read_end)
        os.close(write_end)
