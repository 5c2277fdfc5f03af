"""Lay out rows of text in columns that people can read and `awk` can split. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

GAP = "  "
ELLIPSIS = "…"
NOTHING = "-"
_WIDTH_MIN = 12
"""A column is not cut shorter than this, however narrow the terminal."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Column(Generic[T]):
    """A title, and what a row has to say under it. Empty text shows as a dash."""

    title: str
    cell: Callable[[T], str]
    wide: bool = False
    """Only shown when somebody asks for everything."""
    paint: Callable[[str], str] | None = None
    """Gives a cell's text a colour, on a terminal."""


def render(
    columns: Sequence[Column[T]],
    rows: Sequence[T],
    *,
    wide: bool = False,
    width: int | None = None,
    coloured: bool = False,
) -> str:
    """Return the rows under their titles; nothing for no rows.

    Within `width` characters the last column is cut short; without a width, or if `wide`, nothing is.
    """
    if not rows:
        return ""
    shown = [column for column in columns if wide or not column.wide]
    cells = [[_clean(column.cell(row)) or NOTHING for column in shown] for row in rows]
    titles = [column.title for column in shown]
    widths = [max(map(len, column)) for column in zip(titles, *cells, strict=True)]
    if width is not None and not wide:
        room = width - sum(widths[:-1]) - len(GAP) * (len(widths) - 1)
        widths[-1] = min(widths[-1], max(room, _WIDTH_MIN))
    lines = [_line(titles, widths)]
    paints = [column.paint if coloured else None for column in shown]
    lines += [_line(row, widths, paints) for row in cells]
    return "\n".join(lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Return names and what they are, one pair a line; pairs without a value are left out."""
    said = [(name, _clean(value)) for name, value in pairs if value]
    longest = max((len(name) for name, _ in said), default=0)
    return "\n".join(f"{name.ljust(longest)}{GAP}{value}" for name, value in said)


def indented(text: str, by: int = 2) -> str:
    """Return text whose lines begin further right."""
    return "\n".join(" " * by + line if line else line for line in text.split("\n"))


def _line(
    cells: Sequence[str], widths: Sequence[int], paints: Sequence[Callable[[str], str] | None] = ()
) -> str:
    parts = []
    last = len(cells) - 1
    for index, (cell, width) in enumerate(zip(cells, widths, strict=True)):
        text = cell if len(cell) <= width else cell[: width - 1] + ELLIPSIS
        padding = "" if index == last else " " * (width - len(text))
        paint = paints[index] if paints else None
        parts.append((paint(text) if paint else text) + padding)
    return GAP.join(parts)


def _clean(text: str) -> str:
    """Return text that stays on its line and cannot speak to the terminal."""
    return "".join(character if character.isprintable() else " " for character in text).strip()
