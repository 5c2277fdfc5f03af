"""A container as it was seen: what a worker's plan is made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum


class ContainerState(Enum):
    """What the runtime knows of a container by looking."""

    CREATED = "created"
    RUNNING = "running"
    STOPPED = "stopped"
    BROKEN = "broken"
    """Half made or half removed; only `delete` makes sense."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSeen:
    """What was seen of a container that belongs to this worker."""

    number: int
    labels: Mapping[str, str]
    state: ContainerState
    pid: int = 0
    exit_code: int | None = None
    """Of the last process, 128 + signal when killed; None if it was lost, e.g. in a power cut."""
    out_of_memory: bool = False
    finished_wall_s: float | None = None
    started_wall_s: float | None = None
