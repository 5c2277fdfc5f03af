"""Look at the machine: facts about it for each tier. Changes nothing, and leaves nothing of what it tries."""

from __future__ import annotations

import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from http.client import HTTPConnection, HTTPException
from importlib import import_module
from pathlib import Path

from oakestra.cli.doctor import ports, running
from oakestra.cli.doctor.facts import (
    ClusterFacts,
    Disk,
    Machine,
    Peer,
    Program,
    RootFacts,
    Store,
)
from oakestra.cluster.config import ClusterConfig
from oakestra.root.config import RootConfig
from oakestra.store.sqlite import SCHEMAS
from oakestra.transport import tcp

ANSWER_WITHIN_S = 3.0
TOLD_WITHIN_S = 10.0
PACKAGES: Mapping[str, Mapping[str, str]] = {
    "root": {
        "msgspec": "msgspec",
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "httptools": "httptools",
        "grpclib": "grpclib",
        "jwt": "PyJWT",
        "argon2": "argon2-cffi",
    },
    "cluster": {
        "msgspec": "msgspec",
        "starlette": "starlette",
        "uvicorn": "uvicorn",
        "httptools": "httptools",
        "grpclib": "grpclib",
        "paho": "paho-mqtt",
    },
    "worker": {"msgspec": "msgspec", "paho": "paho-mqtt"},
}
"""By tier: modules that its code loads, and the package that brings each."""
_VERSION = re.compile(r"(\d+(?:\.\d+)+)")
_ASK_VERSION = {"mosquitto": "-h", "openssl": "version"}
"""How a program is asked for its version, where not by `--version`."""


def root_facts(config: RootConfig, *, installed: bool) -> RootFacts:
    """Look at what a root needs."""
    ours = running.is_tier("root", config.installation)
    return RootFacts(
        machine=machine("root", config.state_dir, installed=installed),
        ports=tuple(
            ports.look(setting, config.listen, getattr(config, setting), ours=ours)
            for setting in ("api_port", "grpc_port")
        ),
        store=store(config.records, "root"),
        password_file=str(config.password_file),
        password_mode=_mode(config.password_file),
    )


def cluster_facts(config: ClusterConfig, *, installed: bool, path: str) -> ClusterFacts:
    """Look at what a cluster needs; programs are looked for in `path`."""
    host, port = tcp.split(config.root, RootConfig().grpc_port)
    broker = running.is_broker(config.broker_dir / "mosquitto.conf")
    return ClusterFacts(
        machine=machine("cluster", config.state_dir, installed=installed),
        programs=programs(["mosquitto"], path),
        ports=(
            ports.look(
                "api_port",
                config.listen,
                config.api_port,
                ours=running.is_tier("cluster", config.installation),
            ),
            ports.look("mqtt_port", config.listen, config.mqtt_port, ours=broker),
        ),
        store=store(config.state_dir / "cluster.db", "cluster"),
        root=connect("root", host, port),
    )


def machine(tier: str, state_dir: Path, *, installed: bool) -> Machine:
    """Look at what any tier needs."""
    memory = _memory_mib()
    package = Path(__file__).parents[2]
    return Machine(
        superuser=os.geteuid() == 0,
        python=sys.executable,
        missing_packages=tuple(sorted(_missing(PACKAGES[tier]))),
        memory_available_mib=memory.get("MemAvailable", 0),
        memory_total_mib=memory.get("MemTotal", 0),
        disk=disk(existing(state_dir)),
        wall_s=time.time(),  # noqa: TID251 - a person asks what the clock says
        code_wall_s=max(path.stat().st_mtime for path in package.glob("*.py")),
        installed=installed,
    )


def existing(directory: Path) -> Path:
    """Return the directory, or the nearest one above it that is there."""
    return next(place for place in (directory, *directory.parents) if _can_enter(place))


def _can_enter(directory: Path) -> bool:
    try:
        return directory.is_dir()
    except PermissionError:
        return False


def disk(directory: Path) -> Disk:
    """Look at the file system that a directory is on."""
    usage = shutil.disk_usage(directory)
    return Disk(path=str(directory), free_mib=usage.free >> 20, total_mib=usage.total >> 20)


def _memory_mib() -> Mapping[str, int]:
    lines = Path("/proc/meminfo").read_text().splitlines()
    return {line.partition(":")[0]: int(line.split()[1]) >> 10 for line in lines}


def _missing(packages: Mapping[str, str]) -> Iterator[str]:
    for module, package in packages.items():
        try:
            import_module(module)
        except ImportError:  # is not there, or was built for another machine
            yield package


def programs(names: Sequence[str], path: str) -> tuple[Program, ...]:
    """Look for programs and ask each for its version."""
    return tuple(_program(name, shutil.which(name, path=path)) for name in names)


def _program(name: str, path: str | None) -> Program:
    if path is None:
        return Program(name=name)
    said = ""
    try:
        done = subprocess.run(
            (path, _ASK_VERSION.get(name, "--version")),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TOLD_WITHIN_S,
            check=False,
        )
        said = done.stdout or done.stderr
    except (OSError, subprocess.TimeoutExpired) as error:
        return Program(name=name, path=path, said=str(error))
    found = _VERSION.search(said)
    if found is None:
        return Program(name=name, path=path, said=(said.strip().splitlines() or [""])[-1])
    return Program(name=name, path=path, version=tuple(int(part) for part in found[1].split(".")))


def connect(what: str, host: str, port: int) -> Peer:
    """Find out whether somebody accepts connections there."""
    peer = Peer(what=what, address=f"{host}:{port}")
    try:
        socket.create_connection((host, port), timeout=ANSWER_WITHIN_S).close()
    except OSError as error:
        return replace(peer, trouble=error.strerror or str(error))
    return peer


def ask(what: str, host: str, port: int) -> Peer:
    """Find out whether a tier answers there over HTTP, and what its clock says."""
    peer = Peer(what=what, address=f"{host}:{port}")
    connection = HTTPConnection(host, port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", "/status")
        answer = connection.getresponse()
        answer.read()
        now_s = time.time()  # noqa: TID251 - compared with another machine's
    except (OSError, HTTPException) as error:
        return replace(peer, trouble=getattr(error, "strerror", None) or str(error) or type(error).__name__)
    finally:
        connection.close()
    if answer.status != HTTPStatus.OK:
        return replace(peer, trouble=f"another program answers there ({answer.status} {answer.reason})")
    with suppress(ValueError):
        told_s = parsedate_to_datetime(answer.getheader("date", "")).timestamp()
        return replace(peer, ahead_s=told_s - now_s)
    return peer


def store(path: Path, schema: str) -> Store:
    """Find out whether an orchestrator's records can be read, without touching them."""
    try:
        if not path.exists():
            return Store(path=str(path), exists=False)
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True, timeout=ANSWER_WITHIN_S)) as records:
            (version,) = records.execute("PRAGMA user_version").fetchone()
            (said,) = records.execute("PRAGMA quick_check(1)").fetchone()
    except PermissionError:
        return Store(path=str(path), exists=True, hidden=True)
    except sqlite3.Error as error:
        return Store(path=str(path), exists=True, trouble=str(error))
    if version > len(SCHEMAS[schema]):
        newer = f"a newer version of oak wrote them (schema {version}, this one knows {len(SCHEMAS[schema])})"
        return Store(path=str(path), exists=True, trouble=newer)
    return Store(path=str(path), exists=True, trouble="" if said == "ok" else said)


def _mode(path: Path) -> int | None:
    try:
        return path.stat().st_mode & 0o777
    except OSError:
        return None
