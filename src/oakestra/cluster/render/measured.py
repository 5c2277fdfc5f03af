"""Render what root should know of a cluster's load. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from oakestra.cluster.state import WorkerView
from oakestra.model.ids import WorkerId
from oakestra.model.instance import InstanceKey
from oakestra.model.machine import InstanceUsage, MachineUsage
from oakestra.wire.native import InstanceMeasurement, Telemetry


def telemetry(
    views: Mapping[WorkerId, WorkerView], usage: Mapping[InstanceKey, InstanceUsage]
) -> Telemetry | None:
    """Return the load of the whole, of every worker and of every instance; None while no worker has reported."""
    workers = tuple((id, view.machine) for id, view in sorted(views.items()) if view.report is not None)
    if not workers:
        return None
    instances = tuple(InstanceMeasurement(key=key, usage=used) for key, used in sorted(usage.items()))
    whole = _together([machine for _, machine in workers])
    return Telemetry(machine=whole, instances=instances, workers=workers)


def _together(machines: Sequence[MachineUsage]) -> MachineUsage:
    """Return the mean load, what memory is free in all, and the fullest disk."""
    return MachineUsage(
        cpu_ratio=sum(machine.cpu_ratio for machine in machines) / len(machines),
        memory_ratio=sum(machine.memory_ratio for machine in machines) / len(machines),
        memory_available_mib=sum(machine.memory_available_mib for machine in machines),
        disk_ratio=max(machine.disk_ratio for machine in machines),
    )
