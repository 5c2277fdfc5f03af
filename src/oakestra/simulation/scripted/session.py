"""A fleet that is driven line by line: `deploy web 3`, `cut c1w1`, `advance 30s`. What is typed and what is told
is also how scenarios are written down.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from oakestra.model.errors import Invalid, OakestraError
from oakestra.simulation.healed import unsettled
from oakestra.simulation.scripted import telling
from oakestra.simulation.scripted.asking import Asking
from oakestra.simulation.scripted.breaking import Breaking
from oakestra.simulation.scripted.stage import STEP_S, Stage
from oakestra.simulation.scripted.words import Misused, Verb, close_to, exactly, parsed, seconds, whole

SETTLED_WITHIN_S = 300.0
ALSO = {
    "heal": ["mend"],
    "kill": ["crash"],
    "exit": ["quit"],
    "ls": ["show"],
    "status": ["show", "workers"],
}
"""Words of `oak lab` and others, and what they mean here."""
QUIT = ("quit", "exit")

GoOn = Callable[[float, float], bool]
"""Asked while time passes, with how much of how much has passed; False: whoever waits has had enough."""


class Session:
    """One fleet and whoever types. Make it, `perform` lines, and `close` it, inside a loop of virtual time."""

    def __init__(
        self, group: asyncio.TaskGroup, *, seed: int = 0, go_on: GoOn = lambda _passed_s, _of_s: True
    ) -> None:
        self._stage = Stage(group, seed=seed)
        self._go_on = go_on
        verbs = (*Asking(self._stage).verbs(), *self._verbs(), *Breaking(self._stage).verbs())
        self._by_name = {verb.usage.split()[0]: verb for verb in verbs}

    @property
    def commands(self) -> tuple[str, ...]:
        """The first words that a line may have."""
        return tuple(self._by_name)

    async def perform(self, line: str) -> AsyncIterator[str]:
        """Do what a line says; yield what there is to tell. One that cannot be understood is answered, not raised."""
        try:
            words = line.split()
            if not words or words[0].startswith("#"):
                return
            words = [*ALSO.get(words[0], words[:1]), *words[1:]]
            verb = self._by_name.get(words[0])
            if verb is None:
                hint = close_to(words[0], (*self._by_name, *ALSO))
                raise Invalid(f"there is no command {words[0]!r}; {hint}`help` lists them")
            positional, keys = parsed(words[1:])
            try:
                async for told in verb.run(positional, keys):
                    yield told
            except Misused as error:
                yield f"! {error}: {verb.usage}"
        except (OakestraError, ValueError) as error:
            yield f"! {error}"
        for told in self._stage.news():
            yield told

    async def close(self) -> None:
        """Switch everything off."""
        await self._stage.close()

    def _verbs(self) -> tuple[Verb, ...]:
        return (
            Verb("fleet CLUSTERS WORKERS [memory=MIB vcpus=N]", "make a fleet; each cluster has so many workers", self._fleet),
            Verb("advance TIME", "let time pass: 30s, 5m, 2h", self._advance),
            Verb("settle [TIME]", "let time pass until all is as it should be", self._settle),
            Verb("show [workers]", "show instances, or workers", self._show),
            Verb("explain NAME.N", "tell why an instance is where it is", self._explain),
            Verb("check", "tell what is not as it should be", self._check),
            Verb("tell everything|enough", "tell every step, or only what matters", self._tell),
            Verb("help", "list these commands", self._help),
            Verb("quit", "end, and switch everything off", self._quit),
        )  # fmt: skip

    async def _fleet(self, words: list[str], keys: dict[str, Any]) -> AsyncIterator[str]:
        clusters, workers = (whole(word) for word in exactly(words, 2))
        took_s = await self._stage.make(clusters, workers, keys)
        yield f"{clusters} x {workers} workers, all joined after {took_s:.0f} s"

    # --- time --------------------------------------------------------------------------------------------------------

    async def _advance(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        length_s = seconds(exactly(words, 1)[0])
        world = self._stage.world
        began_s = world.now_s
        until_s = began_s + length_s
        while world.now_s < until_s:
            if not self._go_on(world.now_s - began_s, length_s):
                yield f"stopped after {world.now_s - began_s:.1f} s"
                return
            await asyncio.sleep(min(STEP_S, until_s - world.now_s))
            for told in self._stage.news():
                yield told

    async def _settle(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        """Let time pass until all is as it should be."""
        limit_s = seconds(exactly(words, 1)[0]) if words else SETTLED_WITHIN_S
        world = self._stage.world
        began_s = world.now_s
        while wrong := list(unsettled(world)):
            if world.now_s - began_s >= limit_s:
                yield f"! not settled after {limit_s:.0f} s"
                for sentence in wrong:
                    yield f"!   {sentence}"
                return
            if not self._go_on(world.now_s - began_s, limit_s):
                yield f"stopped after {world.now_s - began_s:.1f} s"
                return
            await asyncio.sleep(STEP_S)
            for told in self._stage.news():
                yield told
        for line in self._well(f"all as it should be after {world.now_s - began_s:.1f} s"):
            yield line

    def _well(self, said: str) -> Iterator[str]:
        """Yield that all is well, and which instances wait for room all the same, as they may for ever."""
        waiting = list(telling.waiting(self._stage.world, self._stage.names))
        if not waiting:
            yield said
            return
        yield f"{said}, but {'1 instance waits' if len(waiting) == 1 else f'{len(waiting)} instances wait'} for a place:"
        yield from waiting

    # --- looking -------------------------------------------------------------------------------------------------------

    async def _show(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        if words not in ([], ["workers"]):
            raise Misused(f"there is no {' '.join(words)!r} to show")
        what = telling.workers if words else telling.instances
        for line in what(self._stage.world, self._stage.names):
            yield line

    async def _explain(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        slot = self._stage.slot(exactly(words, 1)[0])
        for line in telling.explained(self._stage.world, self._stage.names, slot):
            yield line

    async def _check(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        exactly(words, 0)
        wrong = list(unsettled(self._stage.world))
        for sentence in wrong:
            yield f"! {sentence}"
        if not wrong:
            for line in self._well("all is as it should be"):
                yield line

    async def _tell(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        self._stage.tell_everything = words == ["everything"]
        yield "everything is told" if self._stage.tell_everything else "only what matters is told"

    async def _quit(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        """Answer what is said behind the word; without more, whoever reads the lines ends."""
        exactly(words, 0)
        nothing: tuple[str, ...] = ()
        for line in nothing:
            yield line

    async def _help(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        del words
        width = max(len(verb.usage) for verb in self._by_name.values())
        for verb in self._by_name.values():
            yield f"{verb.usage.ljust(width)}  {verb.about}"
