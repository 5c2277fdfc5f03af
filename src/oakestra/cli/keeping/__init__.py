"""Who keeps an installation's programs running: systemd where it runs, our own supervisor elsewhere.

What should run is a value (`programs`), a keeper makes it so, and `readiness` asks whether it is well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """Something that should run, as it was seen."""

    name: str
    pid: int | None
    trouble: str
    """Empty when it is well."""


class Keeper(Protocol):
    """Keeps the programs of one installation running, also after a reboot if it can. Every call is idempotent.

    Calls raise `model.errors.Unavailable` with a sentence that a user can act on.
    """

    def start(self, programs: Sequence[Program]) -> None:
        """Have exactly these programs run from now on; restart only what changed. They need not be well on return."""

    def stop(self) -> Sequence[str]:
        """End every program and keep none from now on; return the names of those that nobody kept."""

    def running(self) -> Mapping[str, int]:
        """Return the pid of each program that runs now, by its name."""

    def seen(self) -> Seen:
        """Return how the keeper itself is."""

    def log(self, name: str) -> str:
        """Return where a program's output is: a file, or a command that shows it."""

    def last_words(self, name: str) -> Sequence[str]:
        """Return the last few lines of a program's output."""


def keeper_of(home: Installation) -> Keeper:
    """Return who keeps this installation. What our supervisor keeps already stays with it until it is stopped."""
    from oakestra.cli.keeping import supervised, systemd

    if systemd.is_here() and not supervised.keeps(home):
        return systemd.Systemd(home)
    return supervised.Supervised(home)
