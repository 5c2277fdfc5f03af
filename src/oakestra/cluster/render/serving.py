"""Tell which of a slot's attempts serves. Pure."""

from __future__ import annotations

from dataclasses import replace

from oakestra.cluster.observe import Observed
from oakestra.cluster.state import SlotRecord
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase
from oakestra.scheduling.liveness import Liveness

Attempt = tuple[WorkerId | None, InstanceKey]


def serving(observed: Observed, record: SlotRecord) -> tuple[Attempt, InstanceStatus | None]:
    """Return which attempt a slot's traffic goes to, and what was seen of it: the current one, if it is proven or alone.

    An earlier one of which nothing was heard since this process started may well serve: it is not given up for that.
    """
    current = status_of(observed, record.worker, record.key)
    proven = current is not None and current.ready and record.key not in observed.unproven_s
    if record.leaving is None or proven:
        return (record.worker, record.key), current
    holder = observed.workers.get(record.leaving.worker)
    earlier = status_of(observed, record.leaving.worker, record.leaving_key)
    unheard = holder is not None and not holder.reported and holder.liveness is not Liveness.LOST
    if unheard or (earlier is not None and earlier.ready):
        reason = _replacing(observed, record, current)
        told = replace(earlier, reason=reason) if earlier is not None else None
        return (record.leaving.worker, record.leaving_key), told
    return (record.worker, record.key), current


def status_of(observed: Observed, worker: WorkerId | None, key: InstanceKey) -> InstanceStatus | None:
    """Return what was last seen of an attempt; on a lost worker nothing is ready, whatever it said before."""
    seen = observed.workers.get(worker) if worker else None
    status = observed.status(worker, key)
    if seen is None or status is None or seen.liveness is not Liveness.LOST:
        return status
    return replace(
        status, ready=False, reason=f"worker {seen.record.name} is lost: {status.reason or 'no news'}"
    )


def _replacing(observed: Observed, record: SlotRecord, successor: InstanceStatus | None) -> str:
    worker = observed.workers.get(record.worker) if record.worker else None
    if worker is None:
        return f"is being replaced; no worker takes its successor yet: {record.reason}"
    far = f"{Phase(successor.phase).name} {successor.reason}".strip() if successor else "not seen yet"
    return f"is being replaced by an attempt on {worker.record.name}: {far}"
