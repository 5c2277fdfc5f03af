"""A prober that sees what a test says, and dawdles when told to."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from oakestra.worker.health.course import Patient, Probed, Verdict


@dataclass(slots=True)
class FakeProber:
    """Implements `Prober`: every instance is well but those it is told of."""

    shown: dict[int, Probed] = field(default_factory=dict)
    """What probes show, by the instance's number."""
    lasts_s: float = 0.0
    asked: list[int] = field(default_factory=list)
    """The number of the instance, for every probe that was begun."""

    async def probe(self, patient: Patient) -> Probed:
        self.asked.append(patient.number)
        await asyncio.sleep(self.lasts_s)
        return self.shown.get(patient.number, Probed(Verdict.PASSED))
