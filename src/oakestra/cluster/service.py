"""Put a cluster together and run it. The only place that names its adapters."""

from __future__ import annotations

import asyncio
import logging

from oakestra.cluster.api import ClusterApi
from oakestra.cluster.config import ClusterConfig
from oakestra.cluster.tier import Cluster, Tuning
from oakestra.control.clock import SystemClock
from oakestra.control.entropy import Entropy
from oakestra.control.keys import own_key
from oakestra.model.errors import Unavailable
from oakestra.store import StoreFailed
from oakestra.store.sqlite import SqliteStore
from oakestra.transport import tcp
from oakestra.transport.beats import BeatListener
from oakestra.transport.broker import Broker
from oakestra.transport.grpc import GrpcClientLink
from oakestra.transport.http_listener import listen, serve
from oakestra.transport.http_server import application
from oakestra.transport.mqtt import MqttLink
from oakestra.wire.native import ClusterJoined, JoinCluster, decode, encode

logger = logging.getLogger(__name__)

ROOT_PORT = 50052


async def run(config: ClusterConfig) -> None:
    """Run a cluster until cancelled. Raises a domain error naming what keeps it from starting."""
    clock, entropy = SystemClock(), Entropy()
    root_host, root_port = tcp.split(config.root, ROOT_PORT)
    listener = listen(config.listen, config.api_port)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    key = own_key(config.state_dir / "key", entropy.stream("key"))
    records = config.state_dir / "cluster.db"
    new_store = not records.exists()
    try:
        store = SqliteStore(records, "cluster", fresh_epoch=int(clock.wall_s()))
    except StoreFailed as error:
        raise Unavailable(f"the cluster cannot read its records: {error}") from error
    # the link tells the tier who it is, and the tier sends over the link: one of them is told later
    up = GrpcClientLink(
        root_host,
        root_port,
        key=key,
        join_request=lambda: encode(_request(config, cluster, key)),
        joined=lambda answer: cluster.joined(decode(answer, ClusterJoined)),
        random=entropy.stream("root"),
    )
    broker_host = tcp.reachable(config.listen)
    cluster = Cluster(
        store,
        up,
        MqttLink.for_cluster(broker_host, config.mqtt_port, random=entropy.stream("mqtt")),
        name=config.name,
        mqtt_port=config.mqtt_port,
        new_store=new_store,
        beats=BeatListener(
            config.listen,
            config.mqtt_port,
            key_of=lambda worker: cluster.secret_of(worker),  # noqa: PLW0108 - made below
            heard=lambda worker: cluster.heard(worker),  # noqa: PLW0108
        ),
        clock=clock,
        ids=entropy.stream("ids"),
        tuning=Tuning(
            vcpu_overcommit=config.vcpu_overcommit,
            suspect_after_s=min(config.worker_suspect_after_s, config.worker_lost_after_s),
            lost_after_s=config.worker_lost_after_s,
            slow_lost_after_s=config.worker_slow_lost_after_s,
            resync_s=config.resync_s,
        ),
    )
    broker = broker_of(config)
    api = ClusterApi(cluster, name=config.name)
    logger.info("cluster is up", extra={"listen": config.listen, "api": config.api_port, "root": config.root})
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(broker.run())
            group.create_task(cluster.run())
            group.create_task(serve(application(api.endpoints()), listener))
    finally:
        store.close()


async def tear_down(config: ClusterConfig) -> None:
    """End what outlives the cluster's process: the broker."""
    await broker_of(config).stop()


def broker_of(config: ClusterConfig) -> Broker:
    """Return the broker of this cluster, whether it runs or not."""
    return Broker(
        config.broker_dir,
        listen=config.listen,
        port=config.mqtt_port,
        random=Entropy().stream("broker"),
    )


def _request(config: ClusterConfig, cluster: Cluster, key: str) -> JoinCluster:
    return JoinCluster(
        key=key,
        name=config.name,
        id=cluster.id,
        location=config.location,
        subnet_lease=cluster.subnet_lease,
        api_port=config.api_port,
    )
