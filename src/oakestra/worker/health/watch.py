"""Watch over the health of instances: probe those that are due, a few at a time, beside the passes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from oakestra.control.clock import Clock
from oakestra.model.service import CheckKind
from oakestra.worker.health.course import Course, Patient, Probed, Verdict, after, begin, pause_s
from oakestra.worker.health.probes import Prober

logger = logging.getLogger(__name__)

PROBES_MAX = 16
"""So many probes are made at once; the others wait for their turn, and their time-outs with them."""
STALLED_S = 1.0
"""A probe that failed so much later than it should have says more about this machine than about the instance."""


@dataclass(slots=True)
class _Watched:
    patient: Patient
    course: Course
    due_s: float


class HealthWatch:
    """Keeps the course of every run. `wake` is called when something is thought otherwise than before."""

    def __init__(
        self, prober: Prober | None, *, clock: Clock, wake: Callable[[], None], probes_max: int = PROBES_MAX
    ) -> None:
        self._prober = prober
        self._clock = clock
        self._wake = wake
        self._room = asyncio.Semaphore(probes_max)
        self._watched: dict[int, _Watched] = {}
        self._network_trouble = ""
        self._changed = asyncio.Event()

    def look(self, patients: Mapping[int, Patient], *, network_trouble: str) -> Mapping[int, Course]:
        """Watch over exactly these from now on; return how each has been doing.

        While there is trouble with this machine's network, nothing that fails over it counts.
        """
        self._network_trouble = network_trouble
        now_s = self._clock.uptime_s()
        for number in self._watched.keys() - patients.keys():
            del self._watched[number]
        for number, patient in patients.items():
            known = self._watched.get(number)
            if known is not None and known.patient.restart == patient.restart:
                known.patient = patient
                continue
            course = begin(healthy=patient.healthy, now_s=now_s)
            self._watched[number] = _Watched(patient, course, due_s=now_s)
            self._changed.set()
        return {number: watched.course for number, watched in self._watched.items()}

    async def run(self) -> None:
        """Probe until cancelled."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._changed.clear()
                now_s = self._clock.uptime_s()
                for number, watched in sorted(self._watched.items()):
                    if watched.due_s <= now_s:
                        watched.due_s = float("inf")
                        group.create_task(self._probe(number, watched))
                next_s = min((watched.due_s for watched in self._watched.values()), default=float("inf"))
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(next_s - now_s if next_s < float("inf") else None):
                        await self._changed.wait()

    async def _probe(self, number: int, watched: _Watched) -> None:
        async with self._room:
            if self._watched.get(number) is not watched:
                return
            probed = await self._asked(watched.patient)
        now_s = self._clock.uptime_s()
        check, before = watched.patient.check, watched.course
        watched.course = after(before, check, probed, now_s=now_s)
        watched.due_s = now_s + pause_s(watched.course, check, now_s=now_s)
        self._changed.set()
        if self._watched.get(number) is watched and (
            (watched.course.health, watched.course.reason) != (before.health, before.reason)
        ):
            self._wake()

    async def _asked(self, patient: Patient) -> Probed:
        if self._prober is None:
            return Probed(Verdict.UNCLEAR, "nobody on this worker makes them")
        began_s = self._clock.uptime_s()
        try:
            probed = await self._prober.probe(patient)
        except Exception as error:
            logger.exception("a health check failed unexpectedly", extra={"number": patient.number})
            return Probed(Verdict.UNCLEAR, f"{type(error).__name__}: {error}")
        if probed.verdict is not Verdict.FAILED:
            return probed
        if self._network_trouble and patient.check.kind is not CheckKind.EXEC:
            return Probed(Verdict.UNCLEAR, self._network_trouble)
        late_s = self._clock.uptime_s() - began_s - patient.check.timeout_s
        if late_s > STALLED_S:
            return Probed(Verdict.UNCLEAR, "this machine is too busy to make it in time")
        return probed
