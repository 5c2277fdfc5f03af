"""What a pass left behind, so that the next one need not look at the whole again when nothing came of it. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from operator import attrgetter
from typing import Any, Generic, TypeVar

T = TypeVar("T")


def look(names: Iterable[str]) -> Callable[[object], tuple[Any, ...]]:
    """Return what takes these attributes, two or more, of a value. Comparing what it took of two is quick where they
    share the very same objects."""
    return attrgetter(*names)


class Settled(Generic[T]):
    """Remembers what the last pass saw, if it changed nothing; after `resync_s` the whole is looked at all the same.

    `alike` tells whether of two such values the same plan follows. A pass that saw something like what the last one
    saw, which changed nothing, changes nothing either.
    """

    def __init__(self, alike: Callable[[T, T], bool], *, resync_s: float) -> None:
        self._alike = alike
        self._resync_s = resync_s
        self._seen: T | None = None
        self._until_s = 0.0

    def holds(self, seen: T, *, now_s: float) -> bool:
        """Tell whether a pass that sees this has nothing to do. If not, the caller makes a whole one."""
        if self._seen is not None and now_s < self._until_s and self._alike(self._seen, seen):
            return True
        self._seen, self._until_s = None, now_s + self._resync_s
        return False

    def note(self, seen: T | None) -> None:
        """Note what a whole pass saw if it changed nothing, and None if it did."""
        self._seen = seen
