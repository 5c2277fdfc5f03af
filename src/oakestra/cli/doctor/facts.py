"""What is to be known of a machine before anything can be said about it: values, without a judgement."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """A program, as it was found in PATH."""

    name: str
    path: str = ""
    """Empty: it is not there."""
    version: tuple[int, ...] = ()
    """Empty: it did not tell."""
    said: str = ""
    """The last line that it said, if it told no version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """A port that the tier listens on."""

    setting: str
    number: int
    address: str
    protocol: str = "TCP"
    holder: str = ""
    """Who has it; empty: nobody."""
    ours: bool = False
    """The holder is this tier of this installation."""
    hidden: bool = False
    """Somebody has it, and only root may see who."""
    refused: str = ""
    """Why it cannot be had although nobody has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Somebody that the tier must reach."""

    what: str
    address: str
    trouble: str = ""
    """Why it cannot be reached."""
    ahead_s: float | None = None
    """By how much its clock is ahead of ours; None: it did not tell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Disk:
    """The file system that state is kept on."""

    path: str
    free_mib: int
    total_mib: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Store:
    """The file with an orchestrator's records."""

    path: str
    exists: bool
    trouble: str = ""
    hidden: bool = False
    """Only root may look."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """What is looked at for any tier."""

    superuser: bool
    python: str
    missing_packages: tuple[str, ...] = ()
    """Python packages without which the tier's code does not load."""
    memory_available_mib: int
    memory_total_mib: int
    disk: Disk
    wall_s: float
    code_wall_s: float
    """When our code was written onto this machine: no honest clock tells an earlier time."""
    installed: bool
    """The tier was started here before, by `oak up` or `oak … join`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RootFacts:
    """What is looked at for a root."""

    machine: Machine
    ports: tuple[Port, ...]
    store: Store
    password_file: str
    password_mode: int | None
    """Of the file with the random password; None: there is no file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterFacts:
    """What is looked at for a cluster."""

    machine: Machine
    programs: tuple[Program, ...]
    ports: tuple[Port, ...]
    store: Store
    root: Peer


@dataclass(frozen=True, slots=True, kw_only=True)
class Cgroups:
    """Where control groups are, and what they can limit."""

    mode: str
    """v1, v2 or hybrid; empty: there are none."""
    controllers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """Where the machine sends packets for some IPv4 addresses."""

    destination: str
    device: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Firewall:
    """Somebody else's chain that drops what the machine forwards, unless a rule says otherwise."""

    chain: str
    command: str = ""
    """The program that the worker asks to let instances' packets through; empty: it knows none for this chain."""
    command_found: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Leftover:
    """Something of a worker that is not installed here any more."""

    what: str
    removal: str
    """The command that removes it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerFacts:
    """What is looked at for a worker."""

    machine: Machine
    programs: tuple[Program, ...]
    attempts: Mapping[str, str] = field(default_factory=dict)
    """What was tried in namespaces of our own: by name of what the kernel must have, why it has not; empty: it has."""
    cgroups: Cgroups
    forwarding: Mapping[str, str] = field(default_factory=dict)
    """By protocol, why the machine cannot be made to forward; empty: it can."""
    routes: tuple[Route, ...] = ()
    firewalls: tuple[Firewall, ...] = ()
    tunnel: Port
    leftovers: tuple[Leftover, ...] = ()
    cluster: tuple[Peer, ...] = ()
    name_servers: tuple[str, ...] = ()
