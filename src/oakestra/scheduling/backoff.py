"""When to try again: at once, then ever later up to a limit."""

from __future__ import annotations

import hashlib

FIRST_S = 0.5
LIMIT_S = 60.0
FORGIVEN_AFTER_S = 300.0
"""Having run for so long, an instance's earlier crashes are forgotten."""


def delay_s(failures: int, *, salt: str) -> float:
    """Return how long to wait after the n-th failure in a row: 0 after the first, then 0.5 s doubling to 60 s.

    Up to a quarter is taken off, by `salt` (a name), so that many things that failed together do not return
    together; the same arguments give the same delay.
    """
    if failures <= 1:
        return 0.0
    full_s = min(FIRST_S * 2.0 ** min(failures - 2, 10), LIMIT_S)
    fraction = hashlib.blake2b(f"{salt}/{failures}".encode(), digest_size=2).digest()
    return full_s * (1.0 - 0.25 * int.from_bytes(fraction, "big") / 0xFFFF)


def wait_s(failures: int, *, salt: str) -> float:
    """Return how long to wait after the n-th failed try of a step: never 0, so that a failing step is not spun."""
    return max(delay_s(failures + 1, salt=salt), FIRST_S)
