"""Judge whether a cluster can run on a machine. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from oakestra.cli.doctor.facts import ClusterFacts
from oakestra.cli.doctor.finding import Finding, ok
from oakestra.cli.doctor.machine import (
    Appetite,
    Need,
    judge_machine,
    judge_peer,
    judge_port,
    judge_programs,
    judge_store,
)

MEMORY = Appetite(needed_mib=48, easy_mib=128)
"""It idles at 27 MiB, its broker at 8."""
DISK = Appetite(needed_mib=32, easy_mib=512)
NEEDS = (
    Need(
        name="mosquitto",
        package="mosquitto",
        purpose="workers talk with their cluster through it",
        since=(2, 0),  # its configuration is read otherwise since
    ),
)


def judge(facts: ClusterFacts) -> Iterator[Finding]:
    """Yield what there is to say."""
    yield from judge_machine(facts.machine, memory=MEMORY, disk=DISK)
    yield from judge_programs(facts.programs, NEEDS)
    yield from map(judge_port, facts.ports)
    yield judge_store(facts.store)
    yield from _judge_root(facts)


def _judge_root(facts: ClusterFacts) -> Iterator[Finding]:
    if not facts.machine.installed:
        if facts.machine.superuser:  # others cannot know
            yield ok(
                "no root yet: `sudo oak up` starts all here, `sudo oak cluster join HOST` joins one elsewhere"
            )
        return
    yield from judge_peer(
        facts.root,
        meaning="what runs goes on, but nothing new comes from root, and root hears nothing",
        remedy="on root's machine: oak status\n"
        "it must listen on an address that leads here: sudo oak up --listen 0.0.0.0\n"
        "to join another root: sudo oak cluster join HOST",
    )
