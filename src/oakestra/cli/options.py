"""Options that many commands share, so that they are the same everywhere."""

from __future__ import annotations

import argparse

FORMATS = ("table", "wide", "json", "yaml")
FOR_PEOPLE = FORMATS[:2]
TIMEOUT_S = 300.0
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}


def asks_root(parser: argparse.ArgumentParser) -> None:
    """Describe the options of a command that asks root."""
    group = parser.add_argument_group("which root")
    group.add_argument("--root", metavar="ADDRESS", help="ask this root, not the one logged in to")
    group.add_argument(
        "--installation", metavar="NAME", help="ask the root of this installation on this machine"
    )


def prints(parser: argparse.ArgumentParser, *, watch: bool = False) -> None:
    """Describe the options of a command that prints what it was told."""
    group = parser.add_argument_group("what is printed")
    group.add_argument(
        "-o", "--output", choices=FORMATS, default="table", metavar="FORMAT",
        help="table (the default), wide, json or yaml",
    )  # fmt: skip
    if watch:
        group.add_argument("-w", "--watch", action="store_true", help="go on, and show what changes")


def waits(parser: argparse.ArgumentParser, what: str) -> None:
    """Describe the options of a command that can wait until `what` is so."""
    group = parser.add_argument_group("waiting")
    group.add_argument("--wait", action="store_true", help=f"return when {what}")
    group.add_argument(
        "--timeout", type=seconds, default=TIMEOUT_S, metavar="TIME",
        help="with --wait: give up after so long, like 90s or 5m (the default)",
    )  # fmt: skip


def seconds(text: str) -> float:
    """Return a length of time: a number, of seconds unless it says s, m or h."""
    number, unit = (text[:-1], text[-1]) if text[-1:] in _UNITS_S else (text, "s")
    try:
        length_s = float(number) * _UNITS_S[unit]
    except ValueError:
        length_s = -1.0
    if not 0 <= length_s < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no length of time; write it like 90s or 5m")
    return length_s


def count(text: str) -> int:
    """Return how many of something."""
    if not (text.isascii() and text.isdigit()):
        raise argparse.ArgumentTypeError(f"{text!r} is no count; write a whole number, 0 or more")
    return int(text)
