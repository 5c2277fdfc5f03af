"""Machines that run instances, and what they can offer."""

from __future__ import annotations

from dataclasses import dataclass, field

from oakestra.model.service import Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """What a worker is and has, as it reports it. `resources` are totals, before any reservation."""

    resources: Resources = field(default_factory=Resources)
    architecture: str = ""
    """`amd64`, `arm64`, … as in image indexes."""
    virtualizations: tuple[str, ...] = ()
    """Runtimes by the names SLAs use, e.g. `docker`, `unikernel`."""
    csi_drivers: tuple[str, ...] = ()
    addons: tuple[str, ...] = ()
    instances_max: int = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineUsage:
    """Measured load of a machine: telemetry, a score, never a filter."""

    cpu_ratio: float = 0.0
    """0–1 over all cores."""
    memory_ratio: float = 0.0
    memory_available_mib: int = 0
    disk_ratio: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceUsage:
    """Measured load of one instance: telemetry."""

    cpu_ratio: float = 0.0
    """Of one core; may exceed 1."""
    memory_bytes: int = 0
    disk_bytes: int = 0
    log_tail: str = ""
    """The end of its log, at most 1024 bytes."""
