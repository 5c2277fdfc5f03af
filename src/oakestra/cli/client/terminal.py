"""The terminal that somebody types at: its size, and for a while every key of it unheeded, for somebody else to heed."""

from __future__ import annotations

import os
import signal
import sys
import termios
import tty
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from oakestra.cli import config
from oakestra.model.errors import Invalid
from oakestra.model.terminal import Terminal, TerminalSize

KEYBOARD = 0
_UNKNOWN = TerminalSize(rows=24, columns=80)
"""Of terminals that do not know."""
_ENDINGS = (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


def here() -> Terminal:
    """Return the terminal that this command is typed at. Raises `Invalid` if its input comes from elsewhere."""
    if not os.isatty(KEYBOARD):
        raise Invalid(
            "-t needs a terminal, and the input of this command comes from none; without -t, -i passes on any input"
        )
    return Terminal(size=size(), name=config.environment().terminal)


def size() -> TerminalSize:
    """Return how large the terminal is now."""
    with suppress(OSError):
        found = os.get_terminal_size(KEYBOARD)
        if found.lines and found.columns:
            return TerminalSize(rows=found.lines, columns=found.columns)
    return _UNKNOWN


@contextmanager
def raw(resized: Callable[[], None]) -> Iterator[None]:
    """Let keys mean nothing here while the block lasts, however it is left; call `resized` when the size changes.

    What else would end this process ends the block first.
    """
    before = termios.tcgetattr(KEYBOARD)
    handlers = {number: signal.signal(number, _end) for number in _ENDINGS}
    handlers[signal.SIGWINCH] = signal.signal(signal.SIGWINCH, lambda _number, _frame: resized())
    try:
        tty.setraw(KEYBOARD, termios.TCSADRAIN)  # keys pressed before are kept
        yield
    finally:
        with suppress(termios.error):  # it is gone
            termios.tcsetattr(KEYBOARD, termios.TCSADRAIN, before)
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _end(number: int, frame: FrameType | None) -> None:
    del frame
    sys.exit(128 + number)
