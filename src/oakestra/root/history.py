"""Remember how the load of instances and clusters went, for charts. In memory only."""

from __future__ import annotations

from array import array
from collections.abc import Hashable, Iterable

from oakestra.wire.rest import Seen

POINTS_MAX = 40
"""At one point every 15 s the last ten minutes; clients of the original expect at most 100."""


class Histories:
    """The newest points of everybody who is measured; a point takes 24 bytes."""

    def __init__(self) -> None:
        self._points: dict[Hashable, array[float]] = {}

    def note(self, whose: Hashable, seen: Seen) -> None:
        """Add a point; the oldest goes when there are too many."""
        points = self._points.setdefault(whose, array("d"))
        points.extend(seen)
        del points[: -POINTS_MAX * len(seen)]

    def of(self, whose: Hashable) -> tuple[Seen, ...]:
        """Return the points of somebody, the oldest first."""
        numbers = iter(self._points.get(whose, ()))
        return tuple(Seen(*point) for point in zip(numbers, numbers, numbers, strict=True))

    def keep_only(self, whose: Iterable[Hashable]) -> None:
        """Forget everybody else."""
        kept = set(whose)
        self._points = {key: points for key, points in self._points.items() if key in kept}
