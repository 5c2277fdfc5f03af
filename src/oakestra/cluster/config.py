"""What an operator may set of a cluster. Read once; nothing else reads the environment."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from oakestra.control import settings
from oakestra.control.installation import DEFAULT, Installation

TIER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """A cluster's settings. The file is `/etc/oakestra/cluster.toml`, the variables `OAKESTRA_CLUSTER_<FIELD>`."""

    installation: str = DEFAULT
    """Which of several installations on this machine; names its directories."""
    name: str = field(default_factory=platform.node)
    """What users call it; `direct` and `clusters` constraints name it. Unique at its root."""
    location: str = ""
    """Where it is: `latitude,longitude,radius_m`, as in the original."""
    root: str = "127.0.0.1:50052"
    """Where root listens for clusters: `host` or `host:port`."""
    listen: str = "127.0.0.1"
    """Address to listen on for workers, for joining and MQTT alike."""
    api_port: int = 10100
    """Where workers join."""
    mqtt_port: int = 10003
    """Of the broker, which this cluster starts and keeps."""
    vcpu_overcommit: float = 8.0
    """vCPUs promised per core; they are shares, not cores."""
    worker_suspect_after_s: float = 3.0
    """A worker silent for so long is asked whether it is there, and gets nothing new until it answers."""
    worker_lost_after_s: float = 4.5
    """A worker silent for so long is lost, and its instances are started elsewhere."""
    worker_slow_lost_after_s: float = 15.0
    """The same for workers whose UDP does not come through: TCP may stall for seconds on a bad link."""
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
    def broker_dir(self) -> Path:
        return self.home.runtime / TIER / "broker"


def read(flags: Mapping[str, Any]) -> ClusterConfig:
    """Return the configuration of this process. Raises `Invalid` naming every mistake."""
    home = Installation(flags.get("installation") or DEFAULT)
    return settings.load(
        ClusterConfig,
        file=home.configuration(TIER),
        environment=os.environ,  # noqa: TID251 - the one place
        flags=flags,
        tier=TIER,
    )
