"""What serves is led to in the next moment, too, as long as its worker is there: workers hear late, and out of step."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from oakestra.cluster.execute import apply, stamp
from oakestra.cluster.observe import Observed
from oakestra.cluster.plan import plan
from oakestra.cluster.render.down import Rendered
from oakestra.cluster.render.serving import serving
from oakestra.cluster.state import Availability
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, Slot
from oakestra.model.service import DisconnectPolicy, Reconcile
from oakestra.scheduling.liveness import Liveness
from oakestra.wire.native import Version
from town import Town, service

SLOTS, STEPS = 2, 120


class Sluggish(Town):
    """A town whose workers do what they were told whenever it pleases them."""

    def __init__(self, random: Random) -> None:
        super().__init__()
        self.random = random
        self.rendered: dict[WorkerId, Rendered] = {}

    def decide(self) -> None:
        seen = self.seen()
        self.state.relieved_since_s, self.state.memory = seen.relieved_since_s, seen.memory
        for id, worker in seen.workers.items():
            self.state.view(id).fresh &= worker.liveness is not Liveness.LOST
        apply(self.state, plan(seen, vcpu_overcommit=8.0))
        asyncio.run(self.state.commit())
        self.rendered = self.rendering.worker_assignments(self.seen(), None)
        for id, (_, content) in self.rendered.items():
            stamp(self.state, id, content)

    def obey(self, worker: WorkerId) -> None:
        """Let a worker do what it was told last, and say so."""
        told, _ = self.rendered[worker]
        revisions = {spec.id: spec.revision for spec in told.services}
        runs = {key: revision for key, revision in self.runs[worker].items() if key not in told.withdrawn}
        for assigned in told.instances:
            for name in assigned.former:
                if name in runs and assigned.key not in runs:
                    runs[assigned.key] = runs.pop(name)
                    self.made_as[assigned.key] = self.made_as.get(name, name.attempt)
            if assigned.key not in told.withdrawn:
                runs.setdefault(assigned.key, revisions[assigned.key.service])
        self.runs[worker] = runs
        epoch, generation = self.state.records.epoch, self.state.workers[worker].generation
        self._report(worker, Version(epoch=epoch, generation=generation))
        self.state.view(worker).note_ready(self.now_s)

    def disturb(self, step: int) -> None:
        worker, event = self.random.choice(sorted(self.runs)), self.random.random()
        if event < 0.06:
            self.drain(worker)
        elif event < 0.14:
            record = self.state.workers[worker]
            self.state.workers.put(worker, replace(record, availability=Availability.ACTIVE))
        elif event < 0.19 and len(self.away) < len(self.runs) - 1:
            self.away.add(worker)
        elif event < 0.30:
            self.away.discard(worker)
        elif event < 0.34:
            self.unable ^= {worker}
        elif event < 0.37:
            (spec,) = self.state.services.values()
            self.want(replace(spec, revision=step + 1), SLOTS)

    def led_to(self) -> dict[Slot, tuple[WorkerId | None, InstanceKey]]:
        """Return where requests to each instance go."""
        return _led_to(self.seen())


def _led_to(seen: Observed) -> dict[Slot, tuple[WorkerId | None, InstanceKey]]:
    found = {slot: serving(seen, record) for slot, record in seen.slots.items()}
    return {slot: attempt for slot, (attempt, status) in found.items() if status is not None and status.ready}


@pytest.mark.parametrize("seed", range(60))
def test_nobody_loses_what_serves_to_a_decision(seed: int) -> None:
    """Goal: whatever is drained, lost, back, broken or updated, no pass takes the last one away that serves."""
    random = Random(seed)
    town = Sluggish(random)
    for number in range(random.choice([2, 3, 4])):
        town.worker(number, 5000)
    town.want(service(disconnect=DisconnectPolicy(reconcile=random.choice(list(Reconcile)))), SLOTS)
    for step in range(STEPS):
        town.now_s += random.choice([0.05, 0.5, 3.0])
        town.disturb(step)
        town.wait(0.0)
        before, live = (
            town.led_to(),
            {id for id, one in town.seen().workers.items() if one.liveness is Liveness.LIVE},
        )
        town.decide()
        lost = {slot: at for slot, at in before.items() if slot not in town.led_to() and at[0] in live}
        assert not lost, f"in step {step}"
        for worker in sorted(town.runs):
            if worker not in town.away and random.random() < 0.6:
                town.obey(worker)
