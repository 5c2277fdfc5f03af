"""Answer what root asks on behalf of users: what happened, what was thought of workers, and to take workers out."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import msgspec

from oakestra.cluster.state import Availability, ClusterState, SlotRecord, WorkerRecord
from oakestra.model.errors import Conflict, Invalid, NotFound
from oakestra.model.event import Event, EventKind
from oakestra.model.ids import WorkerId
from oakestra.model.instance import Slot, is_done
from oakestra.scheduling.placement import nobody
from oakestra.store.event_log import EventLog, told
from oakestra.transport.calls import Method
from oakestra.wire.api import Changed, SlotVerdicts, Verdict

logger = logging.getLogger(__name__)


class Requests:
    """Answers with what this cluster has; what it changes is durable before it says so."""

    def __init__(
        self,
        state: ClusterState,
        events: EventLog,
        *,
        is_lost: Callable[[WorkerId], bool],
        remedies: Callable[[Sequence[SlotRecord]], Mapping[Slot, str]],
        tell: Callable[[Event], None],
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._events = events
        self._is_lost = is_lost
        self._remedies = remedies
        self._tell = tell
        self._wake = wake

    def methods(self) -> Mapping[str, Method]:
        """Return what can be asked, by name."""
        return {
            "events": self.events,
            "verdicts": self.verdicts,
            "availability": self.availability,
            "remove": self.remove,
        }

    async def events(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield what happened, all of it or of one service or instance; with `follow` also what will."""
        async with aclosing(told(self._events, arguments)) as lines:
            async for line in lines:
                yield line

    async def verdicts(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield why each instance of a service is where it is here, or nowhere, with every candidate's verdict."""
        service = str(arguments.get("service", ""))
        records = [record for record in self._state.slots.values() if record.placed.service == service]
        waiting = [record for record in records if record.worker is None or nobody(record.verdicts)]
        found = self._remedies(waiting) if waiting else {}
        yield msgspec.json.encode(
            [
                SlotVerdicts(
                    number=record.placed.number,
                    reason=record.reason,
                    verdicts=tuple(
                        Verdict(name=verdict.name, refusal=verdict.refusal, score=verdict.score)
                        for verdict in record.verdicts
                    ),
                    remedy=found.get(record.placed.slot, ""),
                )
                for record in records
            ]
        )

    async def availability(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Let a worker take instances, no new ones, or none at all."""
        worker = self._worker(arguments)
        wanted = str(arguments.get("availability", ""))
        if wanted not in set(Availability):
            raise Invalid(f"availability: expected one of {', '.join(Availability)}, found {wanted!r}")
        self._state.workers.put(worker.id, replace(worker, availability=Availability(wanted)))
        if worker.availability is not Availability(wanted):
            self._tell(_act(worker, f"worker {worker.name} is {wanted}, as {_asker(arguments)} asked"))
        await self._state.commit()
        logger.info("availability changed", extra={"worker": worker.name, "availability": wanted})
        self._wake()
        yield msgspec.json.encode(Changed(name=worker.name, availability=wanted))

    async def remove(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Forget a worker that is lost or has nothing; should it come back, it is a new member."""
        worker = self._worker(arguments)
        held = sum(
            holder == worker.id
            for record in self._state.slots.values()
            if not self._is_done(record)
            for holder, _ in record.attempts
        )
        if held and not self._is_lost(worker.id):
            raise Conflict(
                f"worker {worker.name} is alive and has {held} instance{'' if held == 1 else 's'}; move them away first: "
                f"oak worker drain {worker.name}"
            )
        ending = self._ending(worker.id)
        if ending and not self._is_lost(worker.id):
            raise Conflict(
                f"worker {worker.name} is alive and has not ended {ending} instance{'' if ending == 1 else 's'} that must not run "
                "twice (disconnect.replace); ask again when it has, or when that machine is switched off"
            )
        self._state.workers.remove(worker.id)
        self._tell(_act(worker, f"worker {worker.name} was removed by {_asker(arguments)}"))
        await self._state.commit()
        self._state.views.pop(worker.id, None)
        logger.info("worker removed", extra={"worker": worker.name})
        self._wake()
        yield msgspec.json.encode(Changed(name=worker.name, removed=True))

    def _ending(self, worker: WorkerId) -> int:
        """Count what a worker was told to end, and would go on beside its successor if nobody waited for that."""
        withdrawn = (one.key.service for one in self._state.withdrawals.values() if one.worker == worker)
        specs = map(self._state.services.get, withdrawn)
        return sum(spec is not None and spec.runs_alone for spec in specs)

    def _is_done(self, record: SlotRecord) -> bool:
        spec = self._state.services.get(record.placed.service)
        return spec is not None and is_done(spec, record.done)

    def _worker(self, arguments: Mapping[str, Any]) -> WorkerRecord:
        record = self._state.workers.get(str(arguments.get("worker", "")))
        if record is None:
            raise NotFound("this worker is no member of its cluster any more")
        return record


def _act(worker: WorkerRecord, what: str) -> Event:
    return Event(kind=EventKind.ACT, reason=what, subject=worker.name)


def _asker(arguments: Mapping[str, Any]) -> str:
    """Return who asked, as far as root says so: an earlier one does not."""
    return str(arguments.get("by") or "somebody")
