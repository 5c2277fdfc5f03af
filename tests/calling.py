"""Root, a cluster that relays, and a worker that answers, joined by links that lose what they are told to."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from random import Random
from typing import Any

from oakestra.model.ids import WorkerId
from oakestra.simulation import virtual_time
from oakestra.transport import Channel
from oakestra.transport.calls import Answers, Asker, Conversation, Method, Relay
from oakestra.transport.fake import FakeHub
from oakestra.wire.native import Call, decode_call

ROOT, CLUSTER, WORKER = "root", "cluster", "worker"


class Fleet:
    """Root asks, a cluster relays, a worker answers."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        group: asyncio.TaskGroup,
        conversations: Mapping[str, Conversation] | None = None,
    ) -> None:
        self.hub = FakeHub(Random(1))
        self.passed: list[Any] = []
        root = self.hub.link(ROOT, parent=None)
        up, down = self.hub.link(CLUSTER, parent=ROOT), self.hub.link(CLUSTER, parent=None)
        worker = self.hub.link(WORKER, parent=CLUSTER)
        self.asker = Asker(root)
        self._methods, self._conversations = methods, conversations
        self.restart_worker()
        relay = self.relay = Relay(up, down, own=lambda _peer, _payload: None)

        def on_worker(peer: str, channel: Channel, payload: bytes) -> None:
            self.passed.append(decode_call(payload))
            self.answers.received(worker, peer, payload, group)

        root.listen(
            lambda peer, _, payload: self.asker.received(peer, payload),
            lambda peer, connected: None if connected else self.asker.lost(peer),
        )
        up.listen(lambda peer, _, payload: relay.from_above(peer, payload), _unheard)
        down.listen(lambda peer, _, payload: relay.from_below(peer, payload), _unheard)
        worker.listen(on_worker, _unheard)
        for link in (root, up, down, worker):
            group.create_task(link.run())

    def restart_worker(self) -> None:
        """Let the worker's agent be another one, which knows of no call."""
        self.answers = Answers(self._methods, self._conversations)

    def ask(self, method: str, *, deadline_s: float = 30.0, **arguments: Any) -> AsyncGenerator[bytes, None]:
        call = Call(
            id=f"{method}-1",
            method=method,
            worker=WorkerId(WORKER),
            deadline_s=deadline_s,
            arguments=arguments,
        )
        return self.asker.ask(CLUSTER, call)


def _unheard(peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
    del peer, connected


Body = Callable[[Fleet], Any]


def in_fleet(
    methods: Mapping[str, Method], body: Body, conversations: Mapping[str, Conversation] | None = None
) -> Any:
    """Run the body in virtual time, with a fleet around it."""

    async def run() -> Any:
        async with asyncio.TaskGroup() as group:
            fleet = Fleet(methods, group, conversations)
            await asyncio.sleep(1)
            result = await body(fleet)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
        return result

    return virtual_time.run(run())
