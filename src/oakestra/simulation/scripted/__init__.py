"""Drive a fleet line by line, by hand or from a file, and be told what happens in words."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from oakestra.simulation import virtual_time
from oakestra.simulation.scripted.session import QUIT, GoOn, Session

PROMPT = "> "


def commands() -> tuple[str, ...]:
    """Return the first words that a line may have."""
    return Session(asyncio.TaskGroup()).commands


def play(
    lines: Iterable[str],
    tell: Callable[[str], None],
    *,
    seed: int = 0,
    echo: bool = True,
    go_on: GoOn = lambda _passed_s, _of_s: True,
) -> bool:
    """Perform the lines of a script on one fleet; return whether nothing went wrong.

    `lines` may wait for somebody who types: time stands still meanwhile. A line of a script is told before what it
    brings, so that what is told reads as a story. `go_on` is asked while time passes.
    """

    async def performed() -> bool:
        well = True
        async with asyncio.TaskGroup() as group:
            session = Session(group, seed=seed, go_on=go_on)
            for line in lines:
                text = line.rstrip()
                if text.split() in [[word] for word in QUIT]:
                    break
                if echo:
                    tell(text if not text or text.startswith("#") else f"{PROMPT}{text}")
                async for told in session.perform(text):
                    well = well and not told.startswith("!")
                    tell(told)
            await session.close()
        return well

    try:
        return virtual_time.run(performed())
    except BaseExceptionGroup as group:
        if group.subgroup(BrokenPipeError):
            raise BrokenPipeError from group  # whoever listened has enough
        raise
