"""What an operator may set of a worker. Read once; nothing else reads the environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oakestra.control import settings
from oakestra.control.installation import DEFAULT, Installation

TIER = "worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerConfig:
    """A worker's settings. The file is `/etc/oakestra/worker.toml`, the variables `OAKESTRA_WORKER_<FIELD>`."""

    installation: str = DEFAULT
    """Which of several installations on this machine; names its directories."""
    name: str = field(default_factory=platform.node)
    """A label for people; what identifies the worker is its key."""
    cluster: str = "127.0.0.1:10100"
    """Where the cluster lets workers join: `host` or `host:port`."""
    address: str = ""
    """Address at which other workers reach this machine; empty: the one that leads to the cluster."""
    tunnel_port: int = 50103
    """UDP port of the overlay network, as other workers see it."""
    image_dirs: tuple[str, ...] = ()
    """Directories from which a service may name an image archive (`oci-archive:/…`)."""
    insecure_registries: tuple[str, ...] = ()
    """Registries (`host` or `host:port`) to speak plain HTTP with; those on loopback always are."""
    registry_credentials: str = ""
    """Docker's `config.json` with logins of registries."""
    allow_privileged: bool = False
    """Run privileged containers when a service asks for them."""
    memory_mib: int = 0
    """Memory to offer; 0: what the machine has, less a reserve."""
    vcpus: int = 0
    """Cores to offer; 0: all."""
    boot_id: str = ""
    """What differs between two boots; empty: the kernel's. Hosts of a lab boot without their kernel."""
    stop_grace_s: float = 5.0
    """From SIGTERM to SIGKILL when an instance is stopped."""
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
    def runtime_dir(self) -> Path:
        return self.home.runtime / TIER

    @property
    def socket(self) -> Path:
        """Where `oak` on this machine asks the worker."""
        return self.runtime_dir / "worker.sock"


def read(flags: Mapping[str, Any]) -> WorkerConfig:
    """Return the configuration of this process. Raises `Invalid` naming every mistake."""
    home = Installation(flags.get("installation") or DEFAULT)
    return settings.load(
        WorkerConfig,
        file=home.configuration(TIER),
        environment=os.environ,  # noqa: TID251 - the one place
        flags=flags,
        tier=TIER,
    )
