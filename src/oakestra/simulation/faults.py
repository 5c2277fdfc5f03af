"""What can go wrong, and how often. All chance comes from the random source that is handed in."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random

NO_DEVICE = "a device that it needs is not on this machine"


class Event(Enum):
    """Something that happens at a moment and may last for a while."""

    CRASH = "crash"
    """A tier's process is killed and started again later."""
    REBOOT = "reboot"
    """A worker's machine loses power and boots again later."""
    CUT = "cut"
    """Nothing passes between two tiers."""
    SITE_CUT = "site cut"
    """Nothing passes between a cluster and root, for long enough that what it has may be replaced elsewhere."""
    ONE_WAY = "one way"
    """Nothing passes from one tier to another, but everything back."""
    DISK_FULL = "disk full"
    STATE_LOST = "state lost"
    """A cluster loses its records, or a worker its desired set."""
    ROOT_COPIED = "root copied"
    """Somebody copies root's records."""
    ROOT_LOST = "root lost"
    """Root loses its records, or gets the last copy of them back."""
    CLOCK_JUMP = "clock jump"
    """Somebody sets a machine's wall clock."""
    PROCESS_ENDS = "process ends"
    """An instance crashes or finishes."""
    NETWORK_TAKEN = "network taken"
    """Somebody removes an instance's network namespace."""
    IMAGE_REMOVED = "image removed"
    CLOSED = "closed"
    """An operator lets a worker or cluster take nothing new, or has it emptied."""
    CRASH_AT = "crash at"
    """A tier's process is killed when it next comes to some fail point, and started again later."""
    UNABLE = "unable"
    """A worker cannot make containers of some image for a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """How bad the world is."""

    loss_ratio: float = 0.0
    repeat_ratio: float = 0.0
    delay_max_s: float = 0.01
    step_failure_ratio: float = 0.0
    """Of the calls to a worker's runtime."""
    network_failure_ratio: float = 0.0
    """Of the calls to a worker's kernel."""
    commit_failure_ratio: float = 0.0
    datagrams: bool = True
    """Whether datagrams pass between workers and clusters at all."""
    step_max_s: float = 0.05
    pull_max_s: float = 0.5
    flush_max_s: float = 0.005
    events: tuple[Event, ...] = ()
    """Those that may happen; one that is there twice is twice as likely."""
    every_s: float = 10.0
    """Mean time between two events."""
    lasting_s: float = 20.0
    """Mean time until what happened is undone."""


CALM = Faults()


def draw_faults(random: Random) -> Faults:
    """Return a kind of bad world. Each has only some of the faults, so that none hides what another would show."""
    events = [event for event in Event if random.random() < 0.6]  # noqa: PLR2004 - more than half of them
    return Faults(
        loss_ratio=_some(random, 0.3),
        repeat_ratio=_some(random, 0.2),
        delay_max_s=0.01 + _some(random, 3.0),
        step_failure_ratio=_some(random, 0.2),
        network_failure_ratio=_some(random, 0.2),
        commit_failure_ratio=_some(random, 0.05),
        datagrams=random.random() < 0.8,  # noqa: PLR2004 - mostly
        step_max_s=0.05 + _some(random, 2.0),
        pull_max_s=0.5 + _some(random, 60.0),
        flush_max_s=0.005 + _some(random, 0.5),
        events=(*events, Event.CRASH, Event.CRASH_AT),
        every_s=random.uniform(2.0, 20.0),
        lasting_s=random.uniform(2.0, 40.0),
    )


def _some(random: Random, at_most: float) -> float:
    """Return nothing half of the time, otherwise anything up to `at_most`."""
    chosen = random.random() * at_most
    return chosen if random.random() < 0.5 else 0.0  # noqa: PLR2004 - half
