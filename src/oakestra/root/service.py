"""Put a root together and run it. The only place that names its adapters."""

from __future__ import annotations

import asyncio
import logging

from oakestra.control.clock import SystemClock
from oakestra.control.entropy import Entropy
from oakestra.identity.passwords import Passwords
from oakestra.identity.tokens import Tokens
from oakestra.model.errors import Unavailable
from oakestra.root.addresses import POOL_SIZE
from oakestra.root.api import endpoints
from oakestra.root.api.reach import Reach
from oakestra.root.api.views import Views
from oakestra.root.config import RootConfig
from oakestra.root.operations import Operations
from oakestra.root.tier import Root, Tuning
from oakestra.root.users.accounts import Accounts
from oakestra.root.users.bootstrap import bootstrap
from oakestra.store import StoreFailed
from oakestra.store.sqlite import SqliteStore
from oakestra.transport.grpc import GrpcServerLink
from oakestra.transport.http_listener import listen, serve
from oakestra.transport.http_server import application

logger = logging.getLogger(__name__)


async def run(config: RootConfig) -> None:
    """Run a root until cancelled. Raises a domain error naming what keeps it from starting."""
    clock, entropy = SystemClock(), Entropy()
    listener = listen(config.listen, config.api_port)
    config.state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    try:
        store = SqliteStore(config.records, "root", fresh_epoch=int(clock.wall_s()))
    except StoreFailed as error:
        raise Unavailable(f"root cannot read its records: {error}") from error
    # the link asks the tier who may join, and the tier sends over the link: one of them is told later
    down = GrpcServerLink(
        config.listen,
        config.grpc_port,
        join=lambda payload, host: root.join(payload, host),  # noqa: PLW0108 - made below
        identify=lambda key: root.identify(key),  # noqa: PLW0108
    )
    root = Root(
        store,
        down,
        clock=clock,
        ids=entropy.stream("ids"),
        first_address=entropy.stream("addresses").randrange(POOL_SIZE),
        tuning=Tuning(lost_after_s=config.cluster_lost_after_s, resync_s=config.resync_s),
    )
    passwords = Passwords()
    secret = await bootstrap(
        root.state,
        passwords=passwords,
        clock=clock,
        random=entropy.stream("secrets"),
        admin_password=config.admin_password,
        password_file=config.password_file,
    )
    tokens = Tokens(secret, clock=clock, random=entropy.stream("tokens"))
    reach = Reach(
        root.state,
        clock=clock,
        lost_after_s=config.cluster_lost_after_s,
        call=root.call_worker,
        converse=root.converse_with_worker,
    )
    routes = endpoints(
        state=root.state,
        events=root.events,
        operations=Operations(
            root.state, root.events, clock=clock, random=entropy.stream("services"), wake=root.wake
        ),
        accounts=Accounts(
            root.state, passwords=passwords, tokens=tokens, clock=clock, random=entropy.stream("accounts")
        ),
        views=Views(root.state, clock=clock, reach=reach),
        reach=reach,
        remedies=root.remedies,
        clock=clock,
        public_clusters=config.public_clusters,
    )
    logger.info(
        "root is up", extra={"listen": config.listen, "api": config.api_port, "grpc": config.grpc_port}
    )
    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(root.run())
            group.create_task(serve(application(routes), listener))
    finally:
        store.close()
