"""Judge whether a root can run on a machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from oakestra.cli.doctor.facts import RootFacts
from oakestra.cli.doctor.finding import Finding, ok, warning
from oakestra.cli.doctor.machine import Appetite, judge_machine, judge_port, judge_store

MEMORY = Appetite(needed_mib=48, easy_mib=128)
"""It idles at 27 MiB, and hashing a password takes 19."""
DISK = Appetite(needed_mib=32, easy_mib=512)
_OTHERS = 0o077


def judge(facts: RootFacts) -> Iterator[Finding]:
    """Yield what there is to say."""
    yield from judge_machine(facts.machine, memory=MEMORY, disk=DISK)
    yield from map(judge_port, facts.ports)
    yield judge_store(facts.store)
    if not facts.store.hidden:
        yield _judge_password(facts)


def _judge_password(facts: RootFacts) -> Finding:
    file, mode = facts.password_file, facts.password_mode
    if mode is not None and mode & _OTHERS:
        return warning(
            f"others can read {file}",
            "whoever has an account on this machine can log in as Admin",
            f"sudo chmod 600 {file}",
        )
    if mode is not None:
        return ok(f"Admin's password is in {file}")
    if facts.store.exists:
        return ok("Admin's password was chosen by somebody, and is in no file")
    return ok("Admin gets a password when root starts for the first time")
