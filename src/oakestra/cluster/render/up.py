"""Render what root should know of a cluster. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import replace

from oakestra.cluster.elsewhere import exhausted
from oakestra.cluster.ledger import free_of
from oakestra.cluster.moves import still_held
from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.render.claims import claims
from oakestra.cluster.render.serving import serving, status_of
from oakestra.cluster.state import SlotRecord
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceStatus, Phase
from oakestra.model.service import Resources, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.scheduling.request import WorkerCandidate
from oakestra.wire.native import Aggregate, ClusterReport, Refusal, Version, WorkerSummary


def cluster_report(observed: Observed, *, applied: Version, vcpu_overcommit: float) -> ClusterReport:
    """Return what root should know, without a version."""
    candidates = free_of(observed, vcpu_overcommit=vcpu_overcommit)
    return ClusterReport(
        version=Version(),
        applied=applied,
        complete=not observed.adopting,
        store=observed.epoch,
        statuses=tuple(_statuses(observed)),
        successors=tuple(_successors(observed)),
        refusals=tuple(_refusals(observed)),
        exhausted=tuple(_exhausted(observed)),
        claims=tuple(claims(observed)),
        availability=observed.former_availability,
        aggregates=tuple(_aggregates(candidates)),
        workers=tuple(_summary(observed.workers[id], candidates[id]) for id in sorted(candidates)),
    )


def _refusals(observed: Observed) -> Iterator[Refusal]:
    """Yield what no worker here can take, once all workers that seem to be there have said what they hold.

    What was taken away to be placed anew here is nobody else's: it is placed when its earlier attempt is gone.
    """
    if observed.adopting or any(
        worker.liveness is not Liveness.LOST and not worker.reported for worker in observed.workers.values()
    ):
        return
    held = still_held(observed, set())
    for slot, record in sorted(observed.slots.items()):
        spec = observed.services.get(record.placed.service)
        if slot in held:
            continue
        stays = spec is not None and record.may_still_run(spec)
        if record.worker is None and record.leaving is None and record.reason and not stays:
            yield Refusal(placed=record.placed, reason=record.reason)


def _exhausted(observed: Observed) -> Iterator[Refusal]:
    """Yield what fails here and cannot be tried on another worker, so that root may try another cluster."""
    for _, record in sorted(observed.slots.items()):
        if why := exhausted(observed, record):
            yield Refusal(placed=record.placed, reason=why)


def _statuses(observed: Observed) -> Iterator[InstanceStatus]:
    held = still_held(observed, set())
    for slot, record in sorted(observed.slots.items()):
        (worker, key), status = serving(observed, record)
        if record.done is not None and observed.is_done(record):
            yield record.done
        elif status is not None:
            here = worker or WorkerId("")
            yield status if status.worker == here else replace(status, worker=here)
        elif worker is not None:
            yield InstanceStatus(
                key=key,
                phase=Phase.WORKER_ASSIGNED,
                reason=_not_begun(observed, record, worker),
                worker=worker,
            )
        else:
            spec = observed.services.get(record.placed.service)
            yield InstanceStatus(
                key=record.key,
                phase=Phase.CLUSTER_ASSIGNED,
                reason=record.reason,
                worker=_may_still_run_on(record, spec, held.get(slot)),
            )
    for (id, key), withdrawal in sorted(observed.withdrawals.items()):
        record_now = observed.slots.get(key.slot)
        if record_now is not None and record_now.placed == key.placed:
            continue  # the placement lives on; its earlier attempts are this cluster's own business
        holder = observed.workers.get(id)
        seen = holder.statuses.get(key) if holder else None
        phase = Phase.WORKER_ASSIGNED if seen is None else seen.phase
        status = seen or InstanceStatus(key=key, phase=phase)
        yield replace(status, worker=id, ready=False, reason=withdrawal.reason)


def _may_still_run_on(record: SlotRecord, spec: ServiceSpec | None, holder: WorkerId | None) -> WorkerId:
    """Return where what must not run twice may still run, so that root can say it again; empty: nowhere."""
    if spec is not None and record.may_still_run(spec):
        return record.seen_on
    return holder if holder and spec is not None and spec.runs_alone else WorkerId("")


def _successors(observed: Observed) -> Iterator[InstanceStatus]:
    """Yield the attempts that are to replace one which still serves."""
    for _, record in sorted(observed.slots.items()):
        if record.leaving is None:
            continue
        (worker, _), _ = serving(observed, record)
        status = status_of(observed, record.worker, record.key)
        if worker == record.leaving.worker and status is not None:
            yield status


def _not_begun(observed: Observed, record: SlotRecord, id: WorkerId) -> str:
    """Say why an instance was not seen on its worker: what the worker complains of, or why it was chosen."""
    worker = observed.workers.get(id)
    return f"{worker.record.name}: {worker.trouble}" if worker and worker.trouble else record.reason


def _aggregates(candidates: Mapping[WorkerId, WorkerCandidate]) -> Iterator[Aggregate]:
    groups: defaultdict[tuple[str, str], list[WorkerCandidate]] = defaultdict(list)
    for candidate in candidates.values():
        if not candidate.unusable:
            for virtualization in candidate.capacity.virtualizations:
                groups[candidate.capacity.architecture, virtualization].append(candidate)
    for (architecture, virtualization), members in sorted(groups.items()):
        yield Aggregate(
            architecture=architecture,
            virtualization=virtualization,
            workers=len(members),
            total=Resources.total(member.total for member in members),
            free=Resources.total(member.free for member in members),
            largest_free=Resources.largest([member.free for member in members]),
        )


def _summary(worker: WorkerSeen, candidate: WorkerCandidate) -> WorkerSummary:
    return WorkerSummary(
        id=worker.record.id,
        name=worker.record.name,
        host=worker.record.host,
        live=worker.liveness is not Liveness.LOST and worker.reported,
        liveness=worker.liveness.value,
        instances=candidate.instances,
        capacity=worker.record.capacity,
        free=candidate.free,
        tunnel_port=worker.record.tunnel_port,
        subnet_indexes=worker.record.subnet_indexes,
        trouble=worker.trouble,
        availability=worker.record.availability.value,
    )
