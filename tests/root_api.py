"""A root with an API and no clusters but those a test puts there."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from pathlib import Path
from random import Random
from typing import Any

from asgi import AsgiClient
from oakestra.identity.passwords import Passwords
from oakestra.identity.tokens import Tokens
from oakestra.model.ids import ClusterId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Slot
from oakestra.model.machine import Capacity, InstanceUsage
from oakestra.model.service import Resources
from oakestra.model.terminal import TerminalSize
from oakestra.root.api import endpoints
from oakestra.root.api.reach import Reach
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.state import ClusterRecord, ClusterView, RootState, slot_key
from oakestra.root.users.accounts import Accounts
from oakestra.root.users.bootstrap import bootstrap
from oakestra.scheduling.placement import CandidateVerdict
from oakestra.store.event_log import EventLog
from oakestra.store.fake import Disk, FakeStore
from oakestra.transport.http_server import Endpoint, application
from oakestra.wire.execution import (
    CommandEnd,
    Entered,
    FrameKind,
    Input,
    InputEnd,
    Written,
    decode_input,
    frame,
)
from oakestra.wire.native import ClusterReport, Refusal, Version, WorkerSummary

TABLES = (
    "users", "organizations", "applications", "services", "slots",
    "withdrawals", "buried", "clusters", "quarantine", "settings", "events",
)  # fmt: skip

BEGINS_WITHIN_S = 10.0
LOST_AFTER_S = 15.0
CLUSTER, WORKER = ClusterId("c" * 24), WorkerId("d" * 24)


@dataclass
class HandClock:
    """Stands still unless a test moves it."""

    now_s: float = 1_700_000_000.0

    def uptime_s(self) -> float:
        return self.now_s

    def wall_s(self) -> float:
        return self.now_s


class Conversation:
    """Stands in for a command that reads: it writes what is entered, and ends with its input, or by Ctrl-C."""

    def __init__(self, call: str, *, room: int = 1000) -> None:
        self.call = call
        self.room = room
        """So many more pieces can be entered."""
        self.entered: list[Input] = []
        self.ended = False
        self._error: Exception | None = None
        self._moved = asyncio.Event()

    async def enter(self, body: bytes) -> None:
        while not self.room:
            await self._until_moved()
        self.room -= 1
        self.entered += decode_input(body)
        self._moved.set()

    def say(self, text: bytes) -> None:
        """Let the command write something by itself."""
        self.entered.append(Entered(text))
        self._moved.set()

    def fail(self, error: Exception) -> None:
        """Let its answer be cut off."""
        self._error = error
        self._moved.set()

    async def until_ended(self) -> None:
        while not self.ended:
            await self._until_moved()

    def make_room(self, pieces: int) -> None:
        self.room += pieces
        self._moved.set()

    async def pieces(self) -> AsyncGenerator[bytes, None]:
        said = 0
        try:
            yield frame(Written(FrameKind.STDOUT, b""))
            while True:
                while said == len(self.entered):
                    await self._until_moved()
                    if self._error is not None:
                        raise self._error
                found = self.entered[said]
                said += 1
                match found:
                    case Entered(data=b"\x03") | InputEnd():
                        yield frame(CommandEnd(exit_code=0 if isinstance(found, InputEnd) else 130))
                        return
                    case Entered():
                        yield frame(Written(FrameKind.STDOUT, found.data))
                    case TerminalSize():
                        yield frame(Written(FrameKind.STDERR, b"%d %d\n" % (found.rows, found.columns)))
        finally:
            self.ended = True
            self._moved.set()

    async def _until_moved(self) -> None:
        self._moved.clear()
        await self._moved.wait()


@dataclass
class Workers:
    """Stands in for the workers that can be asked something."""

    pieces: tuple[bytes, ...] = (b"one\n", b"two\n")
    error: Exception | None = None
    asked: list[tuple[ClusterId, WorkerId, str, Mapping[str, Any]]] = field(default_factory=list)
    conversations: list[Conversation] = field(default_factory=list)
    room: int = 1000
    """For so many pieces conversations have room at first."""

    def converse(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> tuple[AsyncGenerator[bytes, None], Conversation]:
        self.asked.append((cluster, worker, method, arguments))
        if self.error is not None:
            return self._refuse(), Conversation("refused")
        self.conversations.append(Conversation(f"call-{len(self.conversations)}", room=self.room))
        return self.conversations[-1].pieces(), self.conversations[-1]

    async def _refuse(self) -> AsyncGenerator[bytes, None]:
        assert self.error is not None
        raise self.error
        yield b""

    async def call(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        self.asked.append((cluster, worker, method, arguments))
        for piece in self.pieces:
            yield piece
        if self.error is not None:
            raise self.error


@dataclass
class RootApi:
    """Everything a test may want to look at or turn."""

    state: RootState
    disk: Disk
    clock: HandClock
    workers: Workers
    operations: Operations
    events: EventLog
    accounts: Accounts
    endpoints: list[Endpoint]
    client: AsgiClient
    """Nobody's; `admin` logs in."""
    wakes: list[int]

    async def admin(self) -> AsgiClient:
        """Return a client of Admin."""
        return await self.login("Admin", "secret")

    async def session(self, client: AsgiClient) -> str:
        """Return the address to which input of the newest conversation is posted, once it can be."""
        async with asyncio.timeout(BEGINS_WITHIN_S):
            while True:
                if self.workers.conversations:
                    url = f"/api/v1/sessions/{self.workers.conversations[-1].call}/input"
                    if (await client.call("POST", f"{url}?sequence=0", raw=b"")).status == HTTPStatus.OK:
                        return url
                await asyncio.sleep(0)

    async def login(self, name: str, password: str, organization: str | None = None) -> AsgiClient:
        """Return a client of somebody."""
        logged_in = await self.accounts.login(name, password, organization)
        return self.client.as_(logged_in.token)


async def start_api(
    tmp_path: Path, *, disk: Disk | None = None, public_clusters: bool = False, password: str = "secret"
) -> RootApi:
    """Start root's API on a fake store; `password` is Admin's."""
    disk = disk or Disk({name: {} for name in TABLES}, epoch=1)
    state = RootState(FakeStore(TABLES, disk=disk))
    clock, random, workers, wakes = HandClock(), Random(1), Workers(), list[int]()
    passwords = Passwords(memory_kib=8, passes=1)
    secret = await bootstrap(
        state,
        passwords=passwords,
        clock=clock,
        random=random,
        admin_password=password,
        password_file=tmp_path / "admin.password",
    )
    tokens = Tokens(secret, clock=clock, random=random)
    accounts = Accounts(state, passwords=passwords, tokens=tokens, clock=clock, random=random)
    events = EventLog(state.records, state.events)
    operations = Operations(state, events, clock=clock, random=random, wake=lambda: wakes.append(1))
    reach = Reach(state, clock=clock, lost_after_s=LOST_AFTER_S, call=workers.call, converse=workers.converse)
    routes = endpoints(
        state=state,
        events=events,
        operations=operations,
        accounts=accounts,
        views=Views(state, clock=clock, reach=reach),
        reach=reach,
        remedies=lambda slots: {slot: f"more of {slot.number}" for slot in slots},
        clock=clock,
        public_clusters=public_clusters,
    )
    return RootApi(
        state=state,
        disk=disk,
        clock=clock,
        workers=workers,
        operations=operations,
        events=events,
        accounts=accounts,
        endpoints=routes,
        client=AsgiClient(application(routes)),
        wakes=wakes,
    )


def let_cluster_join(api: RootApi, *, refusals: tuple[Refusal, ...] = ()) -> None:
    """Put a live cluster with one worker into the state, as joining and reporting would."""
    worker = WorkerSummary(
        id=WORKER, name="w1", host="192.0.2.8", live=True, instances=1,
        capacity=Capacity(resources=Resources(memory_mib=100, vcpus=4), architecture="amd64",
                          virtualizations=("docker",)),
        free=Resources(memory_mib=60, vcpus=3),
    )  # fmt: skip
    report = ClusterReport(
        version=Version(), applied=Version(), complete=True, workers=(worker,), refusals=refusals
    )
    api.state.clusters.put(
        CLUSTER, ClusterRecord(id=CLUSTER, name="east", key="k", location="48.1,11.5,1000", host="192.0.2.7")
    )
    api.state.views[CLUSTER] = ClusterView(
        last_seen_s=api.clock.uptime_s(), last_seen_wall_s=5.0, report=report, cpu_ratio=0.5
    )


def let_run(
    api: RootApi, service: str, number: int = 0, *, phase: Phase = Phase.RUNNING, reason: str = ""
) -> InstanceKey:
    """Put an instance on the worker, as placing and reporting would."""
    key = slot_key(Slot(ServiceId(service), number))
    record = api.state.slots[key]
    instance = InstanceKey(record.slot.service, number, 1, 2)
    ready = phase is Phase.RUNNING
    status = InstanceStatus(key=instance, phase=phase, ready=ready, worker=WORKER, restart=3, reason=reason)
    api.state.slots.put(
        key,
        replace(
            record, cluster=CLUSTER, placement=1, status=status, reason="east: the only cluster that fits",
            verdicts=(CandidateVerdict(name="east"), CandidateVerdict(name="west", refusal="lost")),
        ),
    )  # fmt: skip
    api.state.usage[instance] = InstanceUsage(cpu_ratio=0.25, memory_bytes=10, log_tail="hi\n")
    return instance
