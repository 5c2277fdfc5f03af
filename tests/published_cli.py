"""The published `oak-cli`, installed as its users install it, and a person's terminal to use it in."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import re
import select
import shutil
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

VERSION = "0.5.5"
SYSTEM_PYTHON = "/usr/bin/python3"
"""The client needs 3.10 or newer."""
COLUMNS = 400
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
PATIENCE_S = 120.0


class CannotInstall(Exception):
    """The client could not be installed; the message says why."""


def installed_cli() -> Path:
    """Return the program `oak` of the published client, installed once per user into its own environment.

    Raises `CannotInstall` if there is no Python for it, or no registry to have it from.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")  # noqa: TID251 - a test's own cache
    place = cache / "oakestra-tests" / f"oak-cli-{VERSION}"
    place.parent.mkdir(parents=True, exist_ok=True)
    complete = place / "complete"
    with (place.parent / f"{place.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not complete.exists():
            shutil.rmtree(place, ignore_errors=True)
            _must([SYSTEM_PYTHON, "-m", "venv", str(place)])
            _must([str(place / "bin/pip"), "install", "--quiet", f"oak-cli=={VERSION}"])
            complete.touch()
    return place / "bin" / "oak"


def _must(command: Sequence[str]) -> None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise CannotInstall(f"{command[0]}: {error}") from error
    if done.returncode != 0:
        raise CannotInstall(f"{' '.join(command)}: {done.stderr.strip()[-500:]}")


@dataclass(frozen=True)
class OakCli:
    """Somebody who uses the client."""

    program: Path
    home: Path

    @property
    def slas(self) -> Path:
        """The folder the client takes SLA documents from."""
        return self.home / "oak_cli" / "SLAs"

    def configure(self, root_ip: str) -> None:
        """Tell the client where root is, and nothing else."""
        self.run("configuration", "key-vars", "configure", "system_manager_ip", "--value", root_ip)

    def run(self, *arguments: str, typed: str = "") -> str:
        """Return all that a command prints. It must succeed."""
        status, printed = self.attempt(*arguments, typed=typed)
        assert status == 0, f"oak {' '.join(arguments)} ended with {status}:\n{printed}"
        return printed

    def attempt(self, *arguments: str, typed: str = "") -> tuple[int, str]:
        """Return how a command ended and all that it printed."""
        done = subprocess.run(
            self._command(arguments),
            input=typed,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self._environment(),
            timeout=PATIENCE_S,
            check=False,
        )
        return done.returncode, _COLOURS.sub("", done.stdout)

    @contextlib.contextmanager
    def watch(self, *arguments: str) -> Iterator[Callable[[str], None]]:
        """Run a command that goes on, on a terminal; yield a function that waits until it shows a text.

        At the end it is interrupted as by a person, and must not complain.
        """
        ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
        process = subprocess.Popen(
            self._command(arguments),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=self._environment(),
            start_new_session=True,
        )
        os.close(theirs)
        screen = _Screen(ours)
        try:
            yield screen.wait_for
            process.send_signal(signal.SIGINT)
            process.wait(PATIENCE_S)
            screen.drain()
            assert "Traceback" not in screen.text, screen.text
        finally:
            process.kill()
            process.wait()
            os.close(ours)

    def _command(self, arguments: Sequence[str]) -> list[str]:
        return [str(self.program), *arguments]

    def _environment(self) -> Mapping[str, str]:
        return {
            "HOME": str(self.home),
            "PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
            "LANG": "C.UTF-8",
            "TERM": "xterm",
            "COLUMNS": str(COLUMNS),
        }


class _Screen:
    """Reads what a terminal shows."""

    def __init__(self, terminal: int) -> None:
        self._terminal = terminal
        self.text = ""

    def wait_for(self, wanted: str) -> None:
        """Return once the text was shown, after what was waited for before."""
        until_s = time.monotonic() + PATIENCE_S
        while wanted not in self.text:
            assert self._read(until_s - time.monotonic()), f"{wanted!r} was not shown, but:\n{self.text}"
        self.text = self.text.partition(wanted)[2]

    def drain(self) -> None:
        """Read to the end."""
        while self._read(1.0):
            pass

    def _read(self, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._terminal], [], [], max(timeout_s, 0))
        try:
            piece = os.read(self._terminal, 1 << 16) if ready else b""
        except OSError:  # the other side is closed
            piece = b""
        self.text += _COLOURS.sub("", piece.decode(errors="replace"))
        return bool(piece)
