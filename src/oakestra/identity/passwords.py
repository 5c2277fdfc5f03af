"""Keep passwords as memory-hard hashes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from oakestra.model.errors import Unavailable

MEMORY_KIB = 19 * 1024
PASSES = 2
"""With the memory above, OWASP's recommendation: about 40 ms and 19 MiB per login on a small machine."""
WAITING_MAX = 64
"""More logins than this at once are turned away: each costs real time, whoever asks."""
PASSWORD_BYTES_MAX = 1024

T = TypeVar("T")


class Passwords:
    """Hashes and checks passwords, one at a time and off the event loop."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(time_cost=passes, memory_cost=memory_kib, parallelism=1)
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._nobodys = self._hasher.hash("nobody has this password")

    async def hash(self, password: str) -> str:
        """Return what to keep of a password. Raises `Unavailable` when too many are waiting."""
        return await self._in_turn(self._hasher.hash, password)

    async def fits(self, password: str, kept: str) -> bool:
        """Tell whether `password` is the one of which `kept` was kept.

        An empty `kept` takes as long as a real one, so that the time does not tell who exists.
        """
        fits = await self._in_turn(self._verify, kept or self._nobodys, password)
        return fits and bool(kept)

    def _verify(self, kept: str, password: str) -> bool:
        if len(password.encode(errors="replace")) > PASSWORD_BYTES_MAX:
            return False
        try:
            return self._hasher.verify(kept, password)
        except (VerificationError, InvalidHashError, UnicodeEncodeError):
            return False

    async def _in_turn(self, function: Callable[..., T], *arguments: str) -> T:
        if self._waiting >= WAITING_MAX:
            raise Unavailable("too many logins at once; try again in a few seconds")
        self._waiting += 1
        try:
            async with self._turn:
                return await asyncio.to_thread(function, *arguments)
        finally:
            self._waiting -= 1
