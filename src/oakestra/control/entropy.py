"""Randomness, handed in: one stream per purpose, so that a new draw here does not change the story there."""

from __future__ import annotations

import hashlib
from random import Random, SystemRandom


class Entropy:
    """Gives out a source of randomness per purpose: the system's, or reproducible ones of a seed."""

    def __init__(self, seed: int | None = None) -> None:
        self._seed = seed

    def stream(self, purpose: str) -> Random:
        """Return the stream for `purpose`: unpredictable without a seed, always the same with one."""
        if self._seed is None:
            return SystemRandom()
        digest = hashlib.sha256(f"{self._seed}/{purpose}".encode()).digest()
        return Random(int.from_bytes(digest[:8], "big"))  # noqa: S311 - reproducible on purpose


def new_id(random: Random) -> str:
    """Return a fresh id: 24 lower-case hex digits."""
    return f"{random.getrandbits(96):024x}"
