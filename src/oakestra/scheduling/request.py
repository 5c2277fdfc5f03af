"""What is to be placed, and who could take it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from oakestra.model.machine import Capacity
from oakestra.model.service import Constraint, PublishedPort, Resources, ServiceSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What one instance asks of the machine it runs on."""

    resources: Resources = field(default_factory=Resources)
    virtualization: str = "docker"
    architectures: tuple[str, ...] = ()
    csi_drivers: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    constraints: tuple[Constraint, ...] = ()
    avoided: Mapping[str, str] = field(default_factory=dict)
    """Candidates that cannot run it although they should, by id, and how that shows: it completes "failed …"."""

    @classmethod
    def of(cls, spec: ServiceSpec, *, avoided: Mapping[str, str] | None = None) -> Request:
        """Return what an instance of this service asks for."""
        return cls(
            resources=spec.resources,
            virtualization=spec.virtualization,
            architectures=spec.architectures,
            csi_drivers=spec.csi_drivers,
            ports=spec.ports,
            constraints=spec.constraints,
            avoided=avoided or {},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerCandidate:
    """A worker being considered. `free` is what it has minus what is reserved on it."""

    id: str
    name: str
    unusable: str = ""
    """Why it takes nothing at the moment (lost, never reported, cordoned); empty if it does."""
    capacity: Capacity = field(default_factory=Capacity)
    free: Resources = field(default_factory=Resources)
    total: Resources = field(default_factory=Resources)
    """What it has, over-commitment included: the scale for `free`."""
    ports_taken: frozenset[tuple[str, int]] = frozenset()
    """(protocol, host port) of instances that are there."""
    instances: int = 0
    siblings: int = 0
    """Instances of the same service that are there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """What a cluster's live workers of one architecture and runtime offer together."""

    architecture: str
    virtualization: str
    free: Resources
    total: Resources
    largest_free: Resources


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterCandidate:
    """A cluster being considered, known by its aggregates only."""

    id: str
    name: str
    unusable: str = ""
    pools: tuple[Pool, ...] = ()
    siblings: int = 0
    refused: str = ""
    """Why it refused this very slot a moment ago; empty if it did not."""
