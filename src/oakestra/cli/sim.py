"""`oak sim`: a whole fleet in virtual time, on this machine, without root rights."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TextIO

from oakestra.model.errors import NotFound

PROMPT = "sim> "
PROGRESS_S = 0.5
"""A command that takes longer shows so often how far it is."""


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak sim`."""
    verbs = parser.add_subparsers(metavar="WHAT")
    parser.set_defaults(run=converse, seed=0)  # without WHAT: by hand
    run = verbs.add_parser(
        "run",
        help="perform a script",
        description="Perform a script, one command a line; `help` in one lists them. Exit code 1 if anything went wrong.",
    )
    run.add_argument("script", metavar="FILE", help="the script; - for standard input")
    run.add_argument("--seed", type=int, default=0, help="chance to draw from (0)")
    run.set_defaults(run=perform)
    seed = verbs.add_parser(
        "seed",
        help="play a random fleet with random faults, and check that it heals",
        description="Play a random fleet with random faults. The same seed gives the same story, on any machine.",
    )
    seed.add_argument("seed", metavar="SEED", type=int, help="which one")
    seed.add_argument("--count", type=int, default=1, metavar="K", help="play so many seeds, from SEED on")
    seed.add_argument("--jobs", type=int, metavar="N", help="on so many cores (all)")
    seed.add_argument("--story", action="store_true", help="print everything that happens")
    seed.set_defaults(run=play)


def converse(args: argparse.Namespace) -> int:
    """Drive a fleet by hand; time stands still while somebody thinks."""
    from oakestra.simulation import scripted

    if not sys.stdin.isatty():
        scripted.play(_typed(), print, seed=args.seed)
        return 0
    _edit_lines(scripted.commands())
    print("A fleet in virtual time. `help` lists commands, `quit` or Ctrl-D ends. Try: fleet 2 3")
    waiting = Waiting(sys.stderr, uptime_s=time.monotonic)
    signal.signal(signal.SIGINT, lambda _signal, _frame: waiting.interrupt())
    scripted.play(waiting.over(_typed()), waiting.tell, seed=args.seed, echo=False, go_on=waiting.go_on)
    return 0


class Waiting:
    """Whoever types and waits: is shown how far a long command is, and may end it with Ctrl-C, and only it."""

    def __init__(self, stream: TextIO, *, uptime_s: Callable[[], float]) -> None:
        self._stream = stream
        self._shown = stream.isatty()
        self._uptime_s = uptime_s
        self._next_s = 0.0
        self._reads = False
        self._enough = False
        self._told = ""

    def over(self, lines: Iterator[str]) -> Iterator[str]:
        """Yield what is typed; what is not yet done of the line before was not interrupted."""
        while True:
            self._erase()
            self._reads, self._enough = True, False
            line = next(lines, None)
            self._reads = False
            if line is None:
                return
            self._next_s = self._uptime_s() + PROGRESS_S
            yield line

    def interrupt(self) -> None:
        """End what is under way. Raises `KeyboardInterrupt` if that is typing, or if it does not end."""
        if self._reads or self._enough:
            raise KeyboardInterrupt
        self._enough = True

    def go_on(self, passed_s: float, of_s: float) -> bool:
        """Show how far it is, now and then; tell whether it is to go on."""
        if self._shown and self._uptime_s() >= self._next_s:
            self._next_s = self._uptime_s() + PROGRESS_S
            self._erase()
            self._told = f"{passed_s:.0f} of {of_s:.0f} s; Ctrl-C ends this command"
            print(self._told, end="", file=self._stream, flush=True)
        return not self._enough

    def tell(self, line: str) -> None:
        """Print a line where it belongs."""
        self._erase()
        print(line, flush=True)

    def _erase(self) -> None:
        if self._told:
            print(f"\r{' ' * len(self._told)}\r", end="", file=self._stream, flush=True)
            self._told = ""


def _edit_lines(words: Sequence[str]) -> None:
    """Let whoever types go back to earlier lines, change them, and complete a command with Tab."""
    try:
        import readline
    except ImportError:  # a Python without it: typing works all the same
        return

    def complete(begun: str, nth: int) -> str | None:
        first = not readline.get_line_buffer()[: readline.get_begidx()].strip()
        found = [f"{word} " for word in words if first and word.startswith(begun)]
        return found[nth] if nth < len(found) else None

    readline.set_completer_delims(" ")
    readline.set_completer(complete)
    readline.parse_and_bind("tab: complete")


def perform(args: argparse.Namespace) -> int:
    """Perform a script."""
    from oakestra.simulation import scripted

    try:
        text = sys.stdin.read() if args.script == "-" else Path(args.script).read_text()
    except OSError as error:
        raise NotFound(f"{args.script} cannot be read: {error.strerror}") from error
    return 0 if scripted.play(text.splitlines(), print, seed=args.seed) else 1


def play(args: argparse.Namespace) -> int:
    """Play seeds; tell what went wrong, and how to see it again."""
    from oakestra.simulation import seeds

    red = 0
    for played in seeds.play_many(range(args.seed, args.seed + args.count), jobs=args.jobs):
        if args.story:
            print("\n".join(played.story))
        print(played.summary, flush=True)
        red += bool(played.wrong)
    return 1 if red else 0


def _typed() -> Iterator[str]:
    """Yield what is typed until it ends."""
    prompt = PROMPT if sys.stdin.isatty() else ""
    while True:
        try:
            line = input(prompt)
        except EOFError:
            if prompt:
                print()
            return
        except KeyboardInterrupt:  # as in a shell: the line is given up, not the fleet
            print()
            continue
        yield line
