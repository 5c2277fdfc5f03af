"""What can go wrong in a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

from oakestra.control.failpoints import Point
from oakestra.model.errors import Invalid
from oakestra.simulation.faults import CALM, NO_DEVICE
from oakestra.simulation.hosts import ClusterHost, Host, RootHost, WorkerHost
from oakestra.simulation.scripted.stage import Stage
from oakestra.simulation.scripted.words import Misused, Verb, exactly


class Breaking:
    """Breaks things, and mends them."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def verbs(self) -> tuple[Verb, ...]:
        """Return what can be broken."""
        return (
            Verb("crash HOST [at POINT]", "kill the tier's process on a machine, now or when it comes to a point of its code", self._crash),
            Verb("start HOST", "start it again", self._start),
            Verb("power-off WORKER", "let a machine lose power", self._power_off),
            Verb("reboot HOST", "let a machine lose power, and start again", self._reboot),
            Verb("fill WORKER", "leave no room on a machine's disk", self._fill),
            Verb("empty WORKER", "have room there again", self._empty),
            Verb("unable WORKER NAME", "let a machine be unable to make containers of a service's image", self._unable),
            Verb("hide WORKER NAME", "let a machine find a service's image nowhere", self._hide),
            Verb("able WORKER NAME", "let it find it, and run it, again", self._able),
            Verb("lose HOST", "let a tier lose its state, and start anew", self._lose),
            Verb("copy HOST", "copy what root or a cluster has written down", self._copy),
            Verb("restore HOST", "let it start anew with that copy", self._restore),
            Verb("cut HOST [HOST]", "let nothing pass between two tiers", self._cut),
            Verb("mend [HOST [HOST]]", "let everything pass again, between two tiers or everywhere", self._mend),
            Verb("weather [loss=RATIO repeat=RATIO delay=S]", "make the network bad, or fine again", self._weather),
            Verb("end NAME.N CODE", "let an instance's process end by itself", self._end),
        )  # fmt: skip

    # --- what goes wrong -----------------------------------------------------------------------------------------------

    async def _crash(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._stage.host(words[0] if words else "")
        if words[1:2] == ["at"]:
            point = _point(host, exactly(words, 3)[2])
            self._stage.doom(host, point)
            yield f"the process on {host.name} is to die at {point.value}"
            return
        exactly(words, 1)
        await host.kill()
        yield f"the process on {host.name} is dead"

    async def _start(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._stage.host(exactly(words, 1)[0])
        host.start()
        yield f"{host.name} is up"

    async def _power_off(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker = self._stage.worker(exactly(words, 1)[0])
        await worker.power_off()
        yield f"{worker.name} has no power"

    async def _reboot(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._stage.host(exactly(words, 1)[0])
        await (host.power_off() if isinstance(host, WorkerHost) else host.kill())
        host.start()
        yield f"{host.name} lost its power and has it again"

    async def _fill(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker = self._stage.worker(exactly(words, 1)[0])
        worker.fill_disk(full=True)
        yield f"the disk of {worker.name} is full"

    async def _empty(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker = self._stage.worker(exactly(words, 1)[0])
        worker.fill_disk(full=False)
        yield f"the disk of {worker.name} has room again"

    async def _unable(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker, image = self._image(words)
        worker.kept.containers.unmakeable[image] = NO_DEVICE
        yield f"{worker.name} is unable to run {image}"

    async def _hide(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker, image = self._image(words)
        worker.kept.containers.missing.add(image)
        worker.kept.containers.images.discard(image)
        yield f"{worker.name} finds {image} nowhere"

    async def _able(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        worker, image = self._image(words)
        worker.kept.containers.unmakeable.pop(image, None)
        worker.kept.containers.missing.discard(image)
        yield f"{worker.name} is able to run {image}"

    def _image(self, words: list[str]) -> tuple[WorkerHost, str]:
        host, name = exactly(words, 2)
        return self._stage.worker(host), self._stage.image(name)

    async def _lose(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._stage.host(exactly(words, 1)[0])
        if isinstance(host, WorkerHost | ClusterHost):
            await host.kill()
            host.lose_state() if isinstance(host, WorkerHost) else host.lose_store()
            host.start()
        else:
            await self._stage.world.lose_root()
            host.start()
        yield f"{host.name} lost everything it had written down, and is up again"

    async def _copy(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._keeper(words)
        host.copy_store()
        yield f"what {host.name} has written down was copied"

    async def _restore(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._keeper(words)
        if host.copy is None:
            raise Invalid(
                f"there is no copy of what {host.name} had written down; `copy {host.name}` makes one"
            )
        if isinstance(host, RootHost):
            await self._stage.world.lose_root(older=True)
        else:
            await host.kill()
            host.restore_store()
        host.start()
        yield f"{host.name} is up again with what it had written down when that was copied"

    def _keeper(self, words: list[str]) -> RootHost | ClusterHost:
        host = self._stage.host(exactly(words, 1)[0])
        if not isinstance(host, RootHost | ClusterHost):
            raise Invalid(f"{host.name} keeps no records; root and clusters do")
        return host

    async def _cut(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        below, above = self._link(words)
        self._stage.world.cut(below, above)
        yield f"nothing passes between {below.name} and {above.name}"

    async def _mend(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        if not words:
            for below, above in self._stage.world.links():
                self._stage.world.mend(below, above)
            yield "everybody reaches everybody again"
            return
        below, above = self._link(words)
        self._stage.world.mend(below, above)
        yield f"{below.name} reaches {above.name} again"

    def _link(self, words: Sequence[str]) -> tuple[Host, Host]:
        """Return the two machines that a line names; with one name, it and the one above it."""
        if len(words) not in (1, 2):
            raise Misused(f"expected one word or two here, found {len(words)}")
        names = {self._stage.host(word).name for word in words}
        if len(names) < len(words):
            raise Invalid(f"there is nothing between {words[0]} and itself; name two machines, or one alone")
        for below, above in self._stage.world.links():
            if names in ({below.name}, {below.name, above.name}):
                return below, above
        raise Invalid(f"there is no link {' '.join(words)}: workers speak to their cluster, clusters to root")

    async def _weather(self, words: list[str], keys: dict[str, Any]) -> AsyncIterator[str]:
        exactly(words, 0)
        if not keys.keys() <= {"loss", "repeat", "delay"}:
            raise Invalid("expected some of loss=RATIO, repeat=RATIO, delay=SECONDS")
        self._stage.world.suffer(
            replace(
                CALM,
                loss_ratio=float(keys.get("loss", CALM.loss_ratio)),
                repeat_ratio=float(keys.get("repeat", CALM.repeat_ratio)),
                delay_max_s=float(keys.get("delay", CALM.delay_max_s)),
            )
        )
        yield "the network is " + (", ".join(f"{key} {value}" for key, value in keys.items()) or "fine")

    async def _end(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        text, code = exactly(words, 2)
        slot = self._stage.slot(text)
        for worker in self._stage.world.workers.values():
            for instance in worker.tier.desired.instances if worker.tier is not None else ():
                if instance.key.slot == slot:
                    worker.end(instance.number, int(code))
                    yield f"the process of {text} on {worker.name} ends with exit code {code}"


def _point(host: Host, name: str) -> Point:
    """Return the point of this name. Raises `Invalid` if the host's tier never comes there."""
    named = {point.value: point for point in host.points}
    if name not in named:
        raise Invalid(f"{host.name} never comes to {name!r}, only to {', '.join(named)}")
    return named[name]
