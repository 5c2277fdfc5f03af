"""Put a worker together and run it. The only place that names its adapters."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from functools import partial
from pathlib import Path

from oakestra.control.clock import Clock, SystemClock
from oakestra.control.entropy import Entropy
from oakestra.control.keys import own_key
from oakestra.model.errors import Forbidden
from oakestra.model.ids import WorkerId
from oakestra.network.linux import LinuxNetwork
from oakestra.runtime.images import ImageStore
from oakestra.runtime.machine import LinuxMachine, architecture
from oakestra.runtime.oci import OciRuntime, images_in_use
from oakestra.store.file import FileCell
from oakestra.transport import http_client, tcp
from oakestra.transport.beats import BeatSender, beat_key
from oakestra.transport.local import LocalServer
from oakestra.transport.mqtt import MqttLink
from oakestra.wire.native import JoinWorker, WorkerJoined, decode, encode
from oakestra.worker.api import WorkerApi
from oakestra.worker.config import WorkerConfig
from oakestra.worker.health.probes import MachineProber
from oakestra.worker.tier import Worker

logger = logging.getLogger(__name__)

CLUSTER_PORT = 10100
JOIN_WITHIN_S = 10.0
BEAT_S = 2.0
VIRTUALIZATIONS = ("docker",)
_ID_LENGTH = 24
_ANYWHERE = "192.0.2.1"
"""An address that is nobody's (RFC 5737): the way to it is the machine's default route."""


async def run(config: WorkerConfig) -> None:
    """Run a worker until cancelled; its containers go on. Raises a domain error naming what keeps it from starting."""
    _must_be_root()
    clock, entropy = SystemClock(), Entropy()
    key = own_key(config.state_dir / "key", entropy.stream("key"))
    host, port = tcp.split(config.cluster, CLUSTER_PORT)
    config.runtime_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    runtime = _runtime(config, worker_id(key), clock)
    machine = LinuxMachine(
        state_dir=config.state_dir,
        virtualizations=VIRTUALIZATIONS,
        memory_mib=config.memory_mib,
        vcpus=config.vcpus,
    )
    underlay = config.address or _underlay(host)
    worker = Worker(
        FileCell(config.state_dir / "desired.json"),
        runtime,
        _network(config, worker_id(key)),
        machine,
        join=partial(_join, host, port),
        connect=lambda joined: MqttLink.for_worker(
            joined.id, host, joined.mqtt_port, random=entropy.stream("mqtt")
        ),
        beat=lambda joined: BeatSender(
            joined.id, host, joined.mqtt_port, secret=beat_key(key), first=int(clock.wall_s() * 1000)
        ).run(every_s=BEAT_S),
        request=JoinWorker(
            key=key,
            name=config.name,
            capacity=machine.capacity(),
            id=worker_id(key),
            host=underlay,
            tunnel_port=config.tunnel_port,
        ),
        underlay_v4=underlay,
        clock=clock,
        resync_s=config.resync_s,
        stop_grace_s=config.stop_grace_s,
        prober=MachineProber(runtime),
    )
    api = WorkerApi(worker, runtime, name=config.name)
    logger.info("worker is up", extra={"cluster": config.cluster, "address": underlay})
    async with asyncio.TaskGroup() as group:
        group.create_task(worker.run())
        group.create_task(LocalServer(config.socket, api.methods()).run())


async def tear_down(config: WorkerConfig) -> int:
    """Stop and remove every container of this worker and its network; return how many. The agent must not run.

    What should run is still on disk: a worker started again makes it anew.
    """
    _must_be_root()
    key_file = config.state_dir / "key"
    if not key_file.exists():
        return 0
    key = own_key(key_file, Entropy().stream("key"))
    runtime = _runtime(config, worker_id(key), SystemClock())
    await runtime.prepare()
    seen = await runtime.observe()
    async with asyncio.TaskGroup() as group:
        for container in seen:
            group.create_task(runtime.stop(container.number, grace_s=config.stop_grace_s))
    await runtime.purge()
    runtime.close()
    await _network(config, worker_id(key)).remove()
    return len(seen)


def worker_id(key: str) -> WorkerId:
    """Return the id that a worker with this key has: same key, same id."""
    return WorkerId(hashlib.sha256(key.encode()).hexdigest()[:_ID_LENGTH])


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise Forbidden(
            "a worker needs root rights, to make containers and their network; start it with sudo"
        )


def _runtime(config: WorkerConfig, id: WorkerId, clock: Clock) -> OciRuntime:
    images = ImageStore(
        config.state_dir,
        image_dirs=[Path(directory) for directory in config.image_dirs],
        in_use=lambda: images_in_use(config.state_dir),
        clock=clock,
        architecture=architecture(),
        insecure_registries=config.insecure_registries,
        credentials_file=Path(config.registry_credentials) if config.registry_credentials else None,
    )
    return OciRuntime(
        id,
        images,
        state_dir=config.state_dir,
        runtime_dir=config.runtime_dir,
        log_dir=config.home.logs / "instances",
        cgroup_parent=f"/oakestra/{config.installation}/{id[:6]}",
        clock=clock,
        allow_privileged=config.allow_privileged,
        boot_id=config.boot_id or None,
    )


def _network(config: WorkerConfig, id: WorkerId) -> LinuxNetwork:
    return LinuxNetwork(id, runtime_dir=config.runtime_dir, tunnel_port=config.tunnel_port)


def _underlay(cluster_host: str) -> str:
    """Return the address at which other workers reach us: the one towards the cluster, unless that is this machine."""
    towards = tcp.address_towards(cluster_host)
    if not towards or towards.startswith("127.") or towards == "::1":
        return tcp.address_towards(_ANYWHERE) or towards
    return towards


async def _join(host: str, port: int, request: JoinWorker) -> WorkerJoined:
    shown = f"[{host}]" if ":" in host else host
    answer = await http_client.post(
        f"http://{shown}:{port}/api/v1/workers",
        encode(request),
        headers={"Content-Type": "application/msgpack"},
        timeout_s=JOIN_WITHIN_S,
    )
    return decode(answer.body, WorkerJoined)
