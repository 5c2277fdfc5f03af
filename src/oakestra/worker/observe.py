"""Gather what a worker wants and sees into one value."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from oakestra.model.container import ContainerSeen
from oakestra.model.service import InstanceAddress
from oakestra.worker.desired import Desired
from oakestra.worker.health.course import Course


class StepKind(Enum):
    """What can be under way, or can have failed, for one instance."""

    PULL = "fetch the image"
    ATTACH = "attach the network"
    CREATE = "create the container"
    START = "start the process"
    STOP = "stop the process"
    DELETE = "remove the container"
    DETACH = "detach the network"
    SAVE = "write down what comes next"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A step that did not work, and when to try it again."""

    kind: StepKind
    count: int
    reason: str
    until_s: float
    """By `uptime_s`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """Everything a pass looks at."""

    desired: Desired
    containers: Mapping[int, ContainerSeen]
    attached: frozenset[int]
    attached_as: Mapping[int, InstanceAddress]
    """Addresses of those that this very agent attached; an earlier one may have had other subnets."""
    pulled: frozenset[str]
    """Images this agent made sure of."""
    busy: Mapping[int, StepKind]
    """Steps under way, by instance number."""
    failures: Mapping[tuple[int, StepKind], Failure]
    """By instance number and step, until that step works or the instance runs."""
    stopped_since_s: Mapping[int, float]
    """When each ended process was first seen ended, by `uptime_s`."""
    refused_ports: Mapping[tuple[str, int], str]
    """Published ports that the machine would not give, and why."""
    network_trouble: str
    """Why the machine's network is not as it should be, and has not been for a while; empty when it is."""
    unserved: frozenset[int]
    """Instances that this agent started and that no change of the network took into account yet."""
    ran: frozenset[tuple[int, int]]
    """(number, restart) of runs that were once seen RUNNING or later."""
    now_s: float
    cut_off_s: float = 0.0
    """For how long nothing was heard of the cluster, or since when this agent runs."""
    heard: bool = True
    """Whether this agent ever heard the cluster."""
    health: Mapping[int, Course] = field(default_factory=dict)
    """How each running instance that has a health check is doing."""
