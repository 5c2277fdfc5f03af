"""`oak` as a process of its own, in a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager

from oak_command import Oak

OAK = (sys.executable, "-c", "import sys; from oakestra.cli import main; sys.exit(main())")
WITHIN_S = 90.0


def variables(oak: Oak) -> dict[str, str]:
    """Return the environment of a command of somebody."""
    return {
        "PATH": os.defpath,
        "XDG_CONFIG_HOME": str(oak.home),
        "HOME": str(oak.home),
        "TERM": "xterm-256color",
    }


class Terminal:
    """A terminal, and a command that runs in it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = ""
        self.before = termios.tcgetattr(master)
        self._master = master

    def until(self, seen: Callable[[str], object]) -> None:
        """Read until the text shows something."""
        while not seen(self.text):
            assert self._read(), f"it ended before it was seen: {self.text!r}"

    def type(self, keys: str) -> None:
        """Press keys."""
        os.write(self._master, keys.encode())

    def resize(self, rows: int, columns: int) -> None:
        """Give it another size, and tell who runs in it."""
        termios.tcsetwinsize(self._master, (rows, columns))
        self.process.send_signal(signal.SIGWINCH)

    @property
    def raw(self) -> bool:
        """Whether keys mean nothing to it."""
        return termios.tcgetattr(self._master) != self.before

    def end(self) -> int:
        """Read to the end and return the exit code."""
        while self._read():
            pass
        return self.process.wait(WITHIN_S)

    def _read(self) -> bool:
        ready, _, _ = select.select((self._master,), (), (), WITHIN_S)
        assert ready, f"nothing more came: {self.text!r}"
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # the kernel's word for a terminal that nobody holds any more
            return False
        self.text += piece.decode()
        return bool(piece)


def terminal(oak: Oak, *words: str, columns: int = 60) -> AbstractContextManager[Terminal]:
    """Run `oak` in a terminal of so many columns."""
    return in_terminal((*OAK, *words), variables(oak), columns=columns)


@contextmanager
def in_terminal(
    words: Sequence[str], environment: Mapping[str, str], *, columns: int = 60
) -> Iterator[Terminal]:
    """Run a command in a terminal of so many columns."""
    master, slave = pty.openpty()
    termios.tcsetwinsize(slave, (24, columns))
    process = subprocess.Popen(words, stdin=slave, stdout=slave, stderr=slave, env=environment)
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)
