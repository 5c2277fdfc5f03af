"""Where an installation keeps things. Several installations share a machine; each has directories of its own."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from oakestra.model.errors import Invalid

DEFAULT = "default"
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,30}(/[a-z0-9][a-z0-9-]{0,30})?")


@dataclass(frozen=True, slots=True)
class Installation:
    """The directories of one installation: `default`, or `lab-<lab>/<host>`."""

    name: str = DEFAULT

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise Invalid(
                f"{self.name!r} cannot name an installation: use up to 31 lower-case letters, digits and dashes"
            )

    @property
    def state(self) -> Path:
        """What must survive a reboot."""
        return Path("/var/lib/oakestra") / self.name

    @property
    def runtime(self) -> Path:
        """Sockets, pid files and exit codes: gone after a reboot."""
        return Path("/run/oakestra") / self.name

    @property
    def logs(self) -> Path:
        """One file per tier."""
        return Path("/var/log/oakestra") / self.name

    def configuration(self, tier: str) -> Path:
        """The file that an operator may write."""
        directory = Path("/etc/oakestra")
        return (directory if self.name == DEFAULT else directory / self.name) / f"{tier}.toml"
