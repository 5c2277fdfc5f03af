"""Keep programs running with our own supervisor, which outlives the command that starts it."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from oakestra.cli.keeping import Seen
from oakestra.control import processes, supervisor
from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program
from oakestra.model.errors import Unavailable

STOPPED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05
LAST_WORDS = 5


class Supervised:
    """Implements `Keeper` for a machine without systemd."""

    def __init__(self, home: Installation) -> None:
        self._home = home

    def start(self, programs: Sequence[Program]) -> None:
        supervisor.write_programs(supervisor.programs_file(self._home), programs)
        have_supervisor(self._home)

    def stop(self) -> Sequence[str]:
        running = supervisor.supervisor_of(self._home.runtime)
        if running is not None:
            processes.kill(running.pid, signal.SIGTERM)
            _until_ended(running.pid, running.start_ticks)
        left = supervisor.read_running(self._home.runtime)  # by a supervisor that was killed
        for each in left.values():
            processes.kill(each.pid, signal.SIGTERM)
            _until_ended(each.pid, each.start_ticks)
        return tuple(left)

    def running(self) -> Mapping[str, int]:
        return {name: seen.pid for name, seen in supervisor.read_running(self._home.runtime).items()}

    def seen(self) -> Seen:
        found = supervisor.supervisor_of(self._home.runtime)
        if found is None:
            return Seen(name="supervisor", pid=None, trouble="does not run; `sudo oak up` starts it")
        return Seen(name="supervisor", pid=found.pid, trouble="")

    def log(self, name: str) -> str:
        return str(self._home.logs / f"{name}.log")

    def last_words(self, name: str) -> Sequence[str]:
        return _last_lines(Path(self.log(name)))


def keeps(home: Installation) -> bool:
    """Tell whether our supervisor keeps this installation, or did and left programs running."""
    return supervisor.supervisor_of(home.runtime) is not None or bool(supervisor.read_running(home.runtime))


def have_supervisor(home: Installation) -> None:
    """Start the installation's supervisor; have one that runs read again what should run."""
    running = supervisor.supervisor_of(home.runtime)
    if running is not None:
        processes.kill(running.pid, signal.SIGHUP)
        return
    home.logs.mkdir(mode=0o750, parents=True, exist_ok=True)
    own_log = home.logs / "supervisor.log"
    with own_log.open("ab") as log:
        child = subprocess.Popen(
            (sys.executable, "-m", "oakestra", "supervise", f"--installation={home.name}"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while supervisor.supervisor_of(home.runtime) is None:
        if child.poll() is not None:
            said = "\n".join(f"    {line}" for line in _last_lines(own_log))
            raise Unavailable(f"the supervisor ended at once; its log ends with:\n{said}")
        time.sleep(LOOK_EVERY_S)
    child.returncode = 0  # it outlives us


def _last_lines(path: Path) -> Sequence[str]:
    """Return how a log file ends."""
    try:
        return path.read_text(errors="replace").splitlines()[-LAST_WORDS:]
    except OSError:
        return ("(there is none)",)


def _until_ended(pid: int, start_ticks: int) -> None:
    begun_s = time.monotonic()
    while processes.is_running(pid, start_ticks):
        if time.monotonic() - begun_s > STOPPED_WITHIN_S:
            processes.kill(pid)
        time.sleep(LOOK_EVERY_S)
