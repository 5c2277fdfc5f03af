"""How long what was replaced goes on serving those who do not know of it yet. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

IN_FLIGHT_S = 1.0
"""What was asked of an instance before everybody was led to its successor may take so long to be answered."""
LINGER_S = 3.0
"""Clusters further away learn through root where an instance is now, and nobody hears when they have: what other
clusters may use stays for so long after its successor took over."""

K = TypeVar("K")


def since(now: Iterable[K], before: Mapping[K, float], now_s: float) -> Mapping[K, float]:
    """Return since when each of these has been as it is, given what the last look said."""
    return {key: before.get(key, now_s) for key in now}
