"""How the labs on this machine are, and their hosts."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

from oakestra.cli.lab import start
from oakestra.cli.show.cells import painted
from oakestra.cli.show.output import Shown
from oakestra.cli.show.table import Column
from oakestra.lab import faults, plan, power, record
from oakestra.lab.plan import Host, Lab
from oakestra.model.errors import OakestraError

ASKED_AT_ONCE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class HostStatus:
    """A host as it is now."""

    host: str
    tier: str
    address: str
    processes: dict[str, int | None]
    """Process ids by what they are; None: does not run."""
    trouble: str
    """Empty: it is well."""
    network: str
    """What was done to it; empty: nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LabStatus:
    """A lab as it is remembered."""

    name: str
    clusters: int
    workers: int
    """Of each cluster."""
    network: str
    root: str
    trouble: str


_HOST_COLUMNS: tuple[Column[HostStatus], ...] = (
    Column("HOST", lambda seen: seen.host),
    Column("TIER", lambda seen: seen.tier),
    Column("ADDRESS", lambda seen: seen.address),
    Column("PIDS", lambda seen: ", ".join(f"{what} {pid or '-'}" for what, pid in seen.processes.items())),
    Column("WELL", lambda seen: "no" if seen.trouble else "yes", paint=painted),
    Column("NETWORK", lambda seen: seen.network),
    Column("TROUBLE", lambda seen: seen.trouble),
)
_LAB_COLUMNS: tuple[Column[LabStatus], ...] = (
    Column("LAB", lambda lab: lab.name),
    Column("CLUSTERS", lambda lab: str(lab.clusters)),
    Column("WORKERS", lambda lab: f"{lab.workers} each"),
    Column("NETWORK", lambda lab: lab.network),
    Column("ROOT", lambda lab: lab.root),
    Column("TROUBLE", lambda lab: lab.trouble),
)


def look(lab: Lab) -> list[HostStatus]:
    """Ask every host at once how it is."""
    with ThreadPoolExecutor(ASKED_AT_ONCE) as pool:
        return list(pool.map(lambda host: _look(lab, host), plan.hosts(lab)))


def shown(found: Sequence[HostStatus]) -> Shown:
    """Return what there is to say about hosts."""
    return Shown(
        document=[asdict(seen) for seen in found], text=lambda style: style.table(_HOST_COLUMNS, found)
    )


def labs(names: Iterable[str]) -> Shown:
    """Return what there is to say about labs."""
    found = [_lab(name) for name in sorted(names)]
    return Shown(
        document=[asdict(lab) for lab in found],
        text=lambda style: style.table(_LAB_COLUMNS, found),
        nothing="there is no lab on this machine; start one: sudo oak lab up",
    )


def _look(lab: Lab, host: Host) -> HostStatus:
    kinds = (host.tier, power.BROKER) if host.tier == "cluster" else (host.tier,)
    running = {kind: power.running(lab, host, kind) for kind in kinds}
    return HostStatus(
        host=host.name,
        tier=host.tier,
        address=host.address,
        processes={kind: process.pid if process else None for kind, process in running.items()},
        trouble=start.check(host).trouble(),
        network=faults.described(lab.faults, host.name),
    )


def _lab(name: str) -> LabStatus:
    try:
        lab = record.read(name)
        url = start.root_url(lab) if lab else ""
        trouble = "" if lab else f"only parts of it are left; remove them: sudo oak lab down --name {name}"
    except OakestraError as error:
        lab, url, trouble = None, "", str(error)
    return LabStatus(
        name=name,
        clusters=lab.clusters if lab else 0,
        workers=lab.workers if lab else 0,
        network=lab.network if lab else "",
        root=url,
        trouble=trouble,
    )
