"""Do to a lab's hosts what happens to machines: processes are killed, the power fails."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from dataclasses import replace

from oakestra.control import processes, supervisor
from oakestra.control.processes import Process
from oakestra.lab import kernel, record, remains
from oakestra.lab.plan import Host, Lab, installation, prefix, removal, with_boot
from oakestra.lab.remains import Scope
from oakestra.model.errors import Invalid, NotFound

BROKER, SUPERVISOR, AGENT = "broker", "supervisor", "agent"
ALSO = {"cluster": (BROKER,), "worker": (AGENT,)}
"""What may be killed on a host beside its tier; a worker's process is called its agent as well."""


def whole(name: str) -> Scope:
    """Return a lab with all its hosts, as far as the machine knows any of it."""
    known = tuple(namespace for namespace in kernel.namespaces() if namespace.startswith(prefix(name)))
    return Scope(installation=installation(name), namespaces=known)


def only(host: Host) -> Scope:
    """Return one host."""
    return Scope(installation=host.installation, namespaces=(host.namespace,))


def running(lab: Lab, host: Host, what: str = "") -> Process | None:
    """Return the process of a host's tier, of its broker, or of the lab's supervisor; None if it does not run.

    Raises `Invalid` if there is no such process on that host at any time.
    """
    known = {host.tier, SUPERVISOR, *ALSO.get(host.tier, ())}
    if what and what not in known:
        raise Invalid(f"{host.name} is a {host.tier} and has no {what}; it has: {', '.join(sorted(known))}")
    directory = record.home(lab.name).runtime
    if what == SUPERVISOR:
        return supervisor.supervisor_of(directory)
    if what == BROKER:
        return next((seen for seen in remains.find(only(host)) if seen.name == "mosquitto"), None)
    found = supervisor.read_running(directory).get(host.name)
    return processes.look(found.pid) if found else None


def kill(lab: Lab, host: Host, what: str = "") -> Process:
    """Send SIGKILL to a process of a host; return it when it has ended. Raises `NotFound` if it does not run."""
    process = running(lab, host, what)
    if process is None:
        raise NotFound(f"the {what or host.tier} of {host.name} does not run now; see: oak lab status")
    remains.end((process,))
    return process


def reboot(lab: Lab, host: Host) -> None:
    """Take a host's power away and give it back: everything on it dies at once, files stay, what is in /run does not.

    Everything else goes on; the supervisor starts the host's tier when the host is whole again.
    """
    booted = replace(lab, boots={**lab.boots, host.name: lab.boots.get(host.name, 0) + 1})
    programs = supervisor.programs_file(record.home(lab.name))
    with _held_still(lab) as keeper:
        remains.cut_power(only(host))
        kernel.carry_out(removal(lab, host))
        record.write(booted)
        kernel.build(booted)
        supervisor.write_programs(programs, with_boot(supervisor.read_programs(programs), booted, host))
        if keeper is not None:
            processes.kill(keeper.pid, signal.SIGHUP)


def remove(name: str) -> None:
    """Leave nothing of a lab, whatever there is of it. Raises `Unavailable` naming what does not go away."""
    remains.cut_power(whole(name))
    kernel.remove(name)
    remains.erase(whole(name))


def let_go_on(lab: Lab) -> None:
    """Wake the lab's supervisor, should a reboot have been cut off while it was held still."""
    keeper = supervisor.supervisor_of(record.home(lab.name).runtime)
    if keeper is not None:
        processes.kill(keeper.pid, signal.SIGCONT)


@contextlib.contextmanager
def _held_still(lab: Lab) -> Iterator[Process | None]:
    """Keep the supervisor from starting what is meant to be dead."""
    keeper = supervisor.supervisor_of(record.home(lab.name).runtime)
    if keeper is not None:
        processes.kill(keeper.pid, signal.SIGSTOP)
    try:
        yield keeper
    finally:
        let_go_on(lab)
