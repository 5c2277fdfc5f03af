"""Judge what every tier needs of a machine: programs, packages, ports, disk, memory, a clock, its records. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from oakestra.cli.doctor.facts import Disk, Machine, Peer, Port, Program, Store
from oakestra.cli.doctor.finding import Finding, ok, problem, warning

DAY_S = 86400.0
APART_S = 60.0
"""Clocks that are further apart make logs and ages hard to read."""
FAR_APART_S = 3600.0
"""Clocks that are further apart make certificates of one machine look expired or not yet valid on another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """A program that a tier needs."""

    name: str
    package: str
    purpose: str
    """What does not work without it."""
    since: tuple[int, ...] = ()
    """The first version that does."""
    later: bool = False
    """Nothing needs it yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Appetite:
    """How much a tier takes: with less than `needed` it fails, with less than `easy` soon."""

    needed_mib: int
    easy_mib: int


def judge_machine(machine: Machine, *, memory: Appetite, disk: Appetite) -> Iterator[Finding]:
    """Yield what there is to say about the machine itself."""
    yield _judge_packages(machine)
    yield _judge_memory(machine, memory)
    yield _judge_disk(machine.disk, disk)
    yield _judge_clock(machine)


def _judge_packages(machine: Machine) -> Finding:
    if not machine.missing_packages:
        return ok("its Python packages are installed")
    missing = " ".join(machine.missing_packages)
    return problem(
        f"Python packages are missing: {missing}",
        "the tier does not start",
        f"{machine.python} -m pip install {missing}",
    )


def _judge_memory(machine: Machine, memory: Appetite) -> Finding:
    free = machine.memory_available_mib
    what = f"{free} MiB of {machine.memory_total_mib} MiB memory available"
    if free < memory.needed_mib:
        return problem(
            what, "the kernel will end the tier or something beside it", "stop something that takes memory"
        )
    if free < memory.easy_mib:
        return warning(
            what, "it runs, but there is little left", "stop something that takes memory, or add some"
        )
    return ok(what)


def _judge_disk(disk: Disk, appetite: Appetite) -> Finding:
    what = f"{disk.free_mib} MiB of {disk.total_mib} MiB free at {disk.path}"
    show = f"du -xh --max-depth=2 {disk.path} | sort -h | tail"
    if disk.free_mib < appetite.needed_mib:
        return problem(what, "nothing more can be kept there, and changes are refused", show)
    if disk.free_mib < appetite.easy_mib:
        return warning(what, "it will be full soon", show)
    return ok(what)


def _judge_clock(machine: Machine) -> Finding:
    shown = datetime.fromtimestamp(machine.wall_s, UTC).strftime("%Y-%m-%d %H:%M UTC")
    if machine.wall_s < machine.code_wall_s - DAY_S:
        return problem(
            f"the clock says {shown}, before this program was installed",
            "certificates and logins look as if they were not valid yet",
            "timedatectl set-ntp true",
        )
    return ok(f"the clock says {shown}")


def judge_programs(programs: Sequence[Program], needs: Sequence[Need]) -> Iterator[Finding]:
    """Yield whether each program that is needed is there, and new enough."""
    found = {program.name: program for program in programs}
    for need in needs:
        yield _judge_program(found[need.name], need)


def _judge_program(program: Program, need: Need) -> Finding:
    bad = warning if need.later else problem
    install = f"sudo apt-get install {need.package}"
    if not program.path:
        return bad(f"{need.name} is missing", need.purpose, install)
    if not program.version:
        return bad(
            f"{program.path} does not tell its version: {program.said or 'it says nothing'}",
            f"it may be broken; {need.purpose}",
            f"{install} --reinstall",
        )
    shown = ".".join(map(str, program.version))
    if program.version < need.since:
        wanted = ".".join(map(str, need.since))
        return bad(f"{need.name} {shown} is too old, {wanted} is needed", need.purpose, install)
    return ok(f"{need.name} {shown}")


def judge_port(port: Port) -> Finding:
    """Return whether a port is free, or has whom it should have."""
    where = f"{port.protocol} port {port.number} on {port.address}"
    if port.ours:
        return ok(f"{where}: this tier has it")
    if port.hidden:
        return warning(
            f"{where} is taken by a program that only root may see",
            "it may be this tier itself",
            "sudo oak doctor",
        )
    if port.holder:
        show = f"ss -Hlnp{port.protocol[0].lower()} sport = :{port.number}"
        return problem(
            f"{where} is taken by {port.holder}",
            "the tier does not start",
            f"stop that (see it with `{show}`), or set `{port.setting}` to another port",
        )
    if port.refused:
        return problem(
            f"{where} cannot be had: {port.refused}",
            "the tier does not start",
            f"set `listen` or `{port.setting}` to what this machine has, or type sudo",
        )
    return ok(f"{where} is free")


def judge_peer(peer: Peer, *, meaning: str, remedy: str) -> Iterator[Finding]:
    """Yield whether a peer is reached, and whether clocks agree."""
    if peer.trouble:
        yield problem(f"{peer.what} is not reached at {peer.address}: {peer.trouble}", meaning, remedy)
        return
    yield ok(f"{peer.what} is reached at {peer.address}")
    if peer.ahead_s is not None and abs(peer.ahead_s) > APART_S:
        yield _judge_drift(peer, peer.ahead_s)


def _judge_drift(peer: Peer, ahead_s: float) -> Finding:
    direction = "ahead of" if ahead_s > 0 else "behind"
    what = f"the clock of {peer.what} is {abs(ahead_s):.0f} s {direction} this one"
    if abs(ahead_s) > FAR_APART_S:
        meaning = "certificates of one look expired or not yet valid to the other"
        return problem(what, meaning, "timedatectl set-ntp true")
    return warning(what, "logs and ages of the two do not fit together", "timedatectl set-ntp true")


def judge_store(store: Store) -> Finding:
    """Return whether an orchestrator's records can be read."""
    if store.hidden:
        return warning(
            f"only root may look into {store.path}", "whether it can be read is not known", "sudo oak doctor"
        )
    if store.trouble:
        return problem(
            f"the records in {store.path} cannot be read: {store.trouble}",
            "the tier does not start, so that it does not forget what it knew",
            f"put a copy back, or begin anew without it: mv {store.path} {store.path}.damaged",
        )
    return ok(f"the records in {store.path} are whole" if store.exists else "no records yet")
