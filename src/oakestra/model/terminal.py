"""Terminals that commands are given."""

from __future__ import annotations

from dataclasses import dataclass

SIDE_MAX = 0xFFFF
"""The kernel counts rows and columns in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TerminalSize:
    """How much a terminal shows, in characters."""

    rows: int
    columns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Terminal:
    """What a command finds itself at."""

    size: TerminalSize
    name: str = "xterm"
    """What kind it is, as the variable TERM says it."""
