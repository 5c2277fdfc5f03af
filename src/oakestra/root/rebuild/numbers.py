"""Sets of slot numbers, as few ranges: what users took away of a service is mostly one piece. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from oakestra.wire.native import NumberRange


def joined(*ranges: Iterable[NumberRange]) -> tuple[NumberRange, ...]:
    """Return all the numbers of these, in order, as few ranges as can be."""
    found: list[NumberRange] = []
    for first, end in sorted(one for some in ranges for one in some):
        if found and first <= found[-1][1]:
            found[-1] = (found[-1][0], max(end, found[-1][1]))
        elif first < end:
            found.append((first, end))
    return tuple(found)


def without(ranges: Iterable[NumberRange], numbers: Iterable[int]) -> tuple[NumberRange, ...]:
    """Return all the numbers of these but some."""
    left = list(ranges)
    for number in numbers:
        left = [
            part
            for first, end in left
            for part in ((first, min(end, number)), (max(first, number + 1), end))
            if part[0] < part[1]
        ]
    return tuple(left)


def holds(ranges: Iterable[NumberRange], number: int) -> bool:
    """Tell whether a number is one of these."""
    return any(first <= number < end for first, end in ranges)
