"""What an operator may set of a root. Read once; nothing else reads the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from oakestra.control import settings
from oakestra.control.installation import DEFAULT, Installation

TIER = "root"


@dataclass(frozen=True, slots=True, kw_only=True)
class RootConfig:
    """A root's settings. The file is `/etc/oakestra/root.toml`, the variables `OAKESTRA_ROOT_<FIELD>`."""

    installation: str = DEFAULT
    """Which of several installations on this machine; names its directories."""
    listen: str = "127.0.0.1"
    """Address to listen on. Loopback until told otherwise, as the API is plain HTTP."""
    api_port: int = 10000
    """REST API, OpenAPI document and Swagger UI."""
    grpc_port: int = 50052
    """Where clusters join."""
    admin_password: str | None = None
    """Password of the user Admin from now on; also `OAKESTRA_ADMIN_PASSWORD`. Absent: a random one, kept in a file."""
    public_clusters: bool = False
    """List clusters to who is not logged in, as the original does."""
    cluster_lost_after_s: float = 15.0
    """A cluster silent for so long is lost: three of its beats missed."""
    resync_s: float = 10.0
    """Everything is looked at afresh at least this often."""
    log_level: str = "INFO"

    @property
    def home(self) -> Installation:
        return Installation(self.installation)

    @property
    def state_dir(self) -> Path:
        return self.home.state / TIER

    @property
    def records(self) -> Path:
        return self.state_dir / "root.db"

    @property
    def password_file(self) -> Path:
        return self.state_dir / "admin.password"


def read(flags: Mapping[str, Any]) -> RootConfig:
    """Return the configuration of this process. Raises `Invalid` naming every mistake."""
    environment = dict(os.environ)  # noqa: TID251 - the one place
    if password := environment.get("OAKESTRA_ADMIN_PASSWORD"):
        environment.setdefault("OAKESTRA_ROOT_ADMIN_PASSWORD", password)
    home = Installation(flags.get("installation") or DEFAULT)
    return settings.load(
        RootConfig, file=home.configuration(TIER), environment=environment, flags=flags, tier=TIER
    )
