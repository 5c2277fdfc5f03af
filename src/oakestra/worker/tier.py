"""A worker: records what it is told, looks, and makes passes."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import fields, replace
from functools import partial
from typing import Any

import msgspec

from oakestra.control.clock import Clock
from oakestra.control.failpoints import Point, reach
from oakestra.control.loop import Loop
from oakestra.control.settled import look
from oakestra.model.address import subnet_index
from oakestra.model.container import ContainerState
from oakestra.model.errors import Invalid, OakestraError, Unavailable
from oakestra.model.instance import InstanceStatus
from oakestra.network import Network
from oakestra.runtime import Runtime
from oakestra.runtime.machine import Machine
from oakestra.scheduling.backoff import wait_s
from oakestra.store import Cell, StoreFailed
from oakestra.transport import Channel, Link
from oakestra.transport.calls import Answers
from oakestra.wire.native import (
    UNKNOWN_HERE,
    Beat,
    JoinWorker,
    Version,
    WorkerAssignment,
    WorkerJoined,
    WorkerReport,
    decode,
    encode,
)
from oakestra.wire.sequence import outdated
from oakestra.worker.desired import Desired, accept, adopt, edit, follow, release
from oakestra.worker.execute import Machinery, carry_out, found
from oakestra.worker.health.probes import Prober
from oakestra.worker.health.watch import HealthWatch
from oakestra.worker.measure import Meter
from oakestra.worker.observe import Failure, Observed, StepKind
from oakestra.worker.plan import (
    NAMESPACE_LABEL,
    Act,
    GiveUp,
    Mark,
    Release,
    Rerun,
    Settle,
    Step,
    counted,
    given_up,
    next_wake_s,
    patients,
    plan,
    statuses,
)
from oakestra.worker.plumbing import Plumbing
from oakestra.worker.requests import Requests

logger = logging.getLogger(__name__)

SILENT_S = 40.0
"""Having heard nothing from the cluster for so long, the worker joins again: perhaps it is not known there any more."""
JOIN_AGAIN_S = 2.0
HELLO_S = 0.25
"""Until it hears something, a worker that just connected beats after so long, then ever less often: the broker may be
there before the cluster is, and what was sent to nobody is lost."""
LOOK_FIRST_S = 5.0
"""A worker joins once it has looked at what it runs, but does not wait for that longer than this."""
NETWORK_AGAIN_S = 1.0

Join = Callable[[JoinWorker], Awaitable[WorkerJoined]]
Connect = Callable[[WorkerJoined], Link]
Change = Callable[[Desired], Desired]


async def _no_beat(joined: WorkerJoined) -> None:
    """Beat over the link alone."""
    del joined


class Worker:
    """The lowest tier. `run` makes passes until cancelled; what arrives is recorded and wakes the loop."""

    def __init__(
        self,
        cell: Cell,
        runtime: Runtime,
        network: Network,
        machine: Machine,
        *,
        join: Join,
        connect: Connect,
        request: JoinWorker,
        underlay_v4: str,
        clock: Clock,
        beat: Callable[[WorkerJoined], Coroutine[Any, Any, None]] = _no_beat,
        beat_s: float = 4.0,
        telemetry_s: float = 15.0,
        resync_s: float = 10.0,
        stop_grace_s: float = 5.0,
        prober: Prober | None = None,
    ) -> None:
        self._cell = cell
        self._runtime = runtime
        self._network = network
        self._machine = machine
        self._join = join
        self._connect = connect
        self._beat = beat
        self._request = request
        self._clock = clock
        self._beat_s = beat_s
        self._telemetry_s = telemetry_s
        self._machinery = Machinery(
            runtime=runtime, network=network, stop_grace_s=stop_grace_s, namespaces={}
        )
        self.desired = _load(cell, clock)
        self._saving = asyncio.Lock()
        self._told: WorkerAssignment | None = None
        self._link: Link | None = None
        self._connected = False
        self._connected_now = asyncio.Event()
        self._beat_again_s = beat_s
        self._heard_s = float("-inf")
        self._since_s = clock.uptime_s()
        self._unknown = asyncio.Event()
        self._looked = asyncio.Event()
        self._busy: dict[int, StepKind] = {}
        self._failures: dict[tuple[int, StepKind], Failure] = {}
        self._pulled: set[str] = set()
        self._ran: set[tuple[int, int]] = set()
        self._stopped_since_s: dict[int, float] = {}
        self._trouble = ""
        self._plumbing = Plumbing(network, underlay_v4=underlay_v4, clock=clock, prepare_every_s=resync_s)
        self._tasks: asyncio.TaskGroup | None = None
        self._report = WorkerReport(version=Version(), applied=Version(), complete=False)
        self._report_epoch = int(clock.wall_s() * 1000)
        self._said: WorkerReport | None = None
        """The last report as it was before it and what it tells of got their numbers."""
        self._report_due = False
        self._loop = Loop(self._pass, resync_s=resync_s)
        self._watch = HealthWatch(prober, clock=clock, wake=self._loop.wake)
        requests = Requests(runtime, lambda: self.desired, name=request.name)
        self._answers = Answers(requests.methods(), requests.conversations())

    @property
    def connected(self) -> bool:
        """Whether there is a connection to the cluster now."""
        return self._connected

    def wake(self) -> None:
        """Ask for a pass: something may have changed on this machine."""
        self._loop.wake()

    async def run(self) -> None:
        """Start from what the disk says, then make passes, beat and measure until cancelled."""
        self._runtime.on_change(self._loop.wake)
        await self._runtime.prepare()
        await self._keep(lambda desired: replace(desired, boots=desired.boots + 1))
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            group.create_task(self._loop.run())
            group.create_task(self._watch.run())
            group.create_task(self._membership())
            group.create_task(self._beat_forever())
            group.create_task(self._measure_forever())

    # --- belonging to a cluster -----------------------------------------------------------------------------------

    async def _membership(self) -> None:
        with contextlib.suppress(TimeoutError):  # what runs tells which subnets this worker had
            async with asyncio.timeout(LOOK_FIRST_S):
                await self._looked.wait()
        while True:
            joined = await self._joined()
            link = self._connect(joined)
            link.listen(self._received, self._presence)
            self._link = link
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(link.run()), group.create_task(self._beat(joined))]
                await self._until_silent()
                for task in tasks:
                    task.cancel()
            self._link = None

    async def _joined(self) -> WorkerJoined:
        """Join; while the cluster does not answer and this worker knows where it belongs, go on with that."""
        request = replace(
            self._request,
            id=self.desired.worker or self._request.id,
            capacity=self._machine.capacity(),
            incarnation=self.desired.incarnation,
            subnet_indexes=tuple(subnet_index(subnet) for subnet in self.desired.subnets),
        )
        said = ""
        while True:
            try:
                joined = await self._join(request)
            except OakestraError as error:
                if said != str(error):
                    said = str(error)
                    logger.warning("cannot join the cluster, will keep trying", extra={"error": said})
                if self.desired.mqtt_port:
                    return WorkerJoined(
                        id=self.desired.worker,
                        cluster=self.desired.cluster,
                        cluster_name="",
                        mqtt_port=self.desired.mqtt_port,
                    )
                await asyncio.sleep(JOIN_AGAIN_S)
                continue
            reach(Point.WORKER_JOINED)
            await self._keep(partial(_belonging, joined=joined))
            logger.info("joined", extra={"cluster": joined.cluster_name, "worker": joined.id})
            self._loop.wake()
            return joined

    async def _until_silent(self) -> None:
        """Return when the cluster was silent for long, or says that it does not know this worker."""
        since_s = self._clock.uptime_s()
        self._unknown.clear()
        await asyncio.sleep(JOIN_AGAIN_S)
        while (left_s := max(self._heard_s, since_s) + SILENT_S - self._clock.uptime_s()) > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left_s):
                    await self._unknown.wait()
                    return

    def _presence(self, peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
        del peer
        self._connected = connected
        if connected:
            self._beat_again_s = HELLO_S
            self._connected_now.set()
            self._report_due = True
            self._loop.wake()

    def _received(self, peer: str, channel: Channel, payload: bytes) -> None:
        self._heard_s = self._clock.uptime_s()
        self._beat_again_s = self._beat_s
        try:
            if channel is Channel.SET:
                assignment = decode(payload, WorkerAssignment)
                if not outdated(self._told.version if self._told else None, assignment.version):
                    self._told = assignment
                self._loop.wake()
            elif channel is Channel.BEAT:
                self._beaten(decode(payload, Beat))
            elif channel is Channel.CALL and self._link is not None and self._tasks is not None:
                self._answers.received(self._link, peer, payload, self._tasks)
        except Invalid as error:
            logger.warning(
                "the cluster sent something unreadable", extra={"channel": channel, "error": error}
            )

    def _beaten(self, beat: Beat) -> None:
        if beat == UNKNOWN_HERE:
            self._unknown.set()
        elif beat.applied != self._report.version:
            self._report_due = True
            self._loop.wake()

    # --- the pass -----------------------------------------------------------------------------------------------------

    async def _pass(self) -> float | None:
        observed = await self._observe()
        await self._adopt(observed)
        await self._accept()
        observed = self._watched(self._as_desired(observed))
        await self._plumbing.prepare(observed)
        for step in plan(observed):
            await self._begin(step)
        await self._plumbing.apply(self._as_desired(observed))
        observed = replace(
            observed,
            desired=self.desired,
            busy=dict(self._busy),
            refused_ports=self._plumbing.refused_ports,
            network_trouble=self._plumbing.lasting_trouble,
            unserved=frozenset(self._plumbing.unserved),
        )
        self._report_to_cluster(observed)
        wake_s = next_wake_s(observed)
        return min(wake_s or NETWORK_AGAIN_S, NETWORK_AGAIN_S) if self._plumbing.trouble else wake_s

    def _as_desired(self, observed: Observed) -> Observed:
        """Return what was observed, with what is desired by now."""
        return observed if observed.desired is self.desired else replace(observed, desired=self.desired)

    async def _adopt(self, observed: Observed) -> None:
        """Take over what runs and is not known, before anything gets its number."""
        known = self.desired.by_number
        strangers = [
            (instance, seen.labels.get(NAMESPACE_LABEL, ""))
            for number, seen in observed.containers.items()
            if number not in known and (instance := found(seen)) is not None
        ]
        if strangers:
            before = self.desired
            await self._keep(lambda desired: adopt(desired, strangers))
            if self.desired != before:
                reach(Point.WORKER_ADOPTED)
        self._looked.set()

    async def _accept(self) -> None:
        """Take what the cluster said. What of it must be saved and cannot be, was not said, and the rest goes on."""
        told, self._told = self._told, None
        if told is None:
            return
        reach(Point.WORKER_TOLD)
        trouble = ""
        try:
            await self._save(lambda desired: accept(desired, told))
        except Unavailable as error:
            trouble = str(error)
            if trouble != self._trouble:
                logger.warning("cannot accept what the cluster wants, will repeat", extra={"error": error})
            self._told = self._told or told
            self.desired = follow(self.desired, told)
        self._trouble = trouble

    async def _keep(self, change: Change) -> None:
        """Change what is desired, durably if that can be: losing the change would do no harm."""
        try:
            await self._save(change)
        except Unavailable as error:
            logger.warning("goes on with what is only in memory", extra={"error": error})
            self.desired = change(self.desired)

    async def _save(self, change: Change) -> None:
        """Change what is desired: durable first, then true. Raises `Unavailable`; nothing has changed then."""
        async with self._saving:
            changed = change(self.desired)
            if changed is self.desired or changed == self.desired:
                return
            try:
                await self._cell.write(msgspec.json.encode(changed))
            except StoreFailed as error:
                raise Unavailable(f"this worker cannot save what it should run: {error}") from error
            reach(Point.WORKER_DESIRED_WRITTEN)
            self.desired = changed

    async def _observe(self) -> Observed:
        containers = {seen.number: seen for seen in await self._runtime.observe()}
        attached = frozenset(await self._network.attached())
        now_s = self._clock.uptime_s()
        self._note(containers, now_s)
        return Observed(
            desired=self.desired,
            containers=containers,
            attached=attached,
            attached_as={number: seen.address for number, seen in self._machinery.namespaces.items()},
            pulled=frozenset(self._pulled),
            busy=dict(self._busy),
            failures=dict(self._failures),
            stopped_since_s=dict(self._stopped_since_s),
            refused_ports=self._plumbing.refused_ports,
            network_trouble=self._plumbing.lasting_trouble,
            unserved=frozenset(self._plumbing.unserved),
            ran=frozenset(self._ran),
            now_s=now_s,
            cut_off_s=now_s - max(self._heard_s, self._since_s),
            heard=self._heard_s >= self._since_s,
        )

    def _watched(self, observed: Observed) -> Observed:
        """Have the health of exactly those instances watched that run now, and see how they are doing."""
        health = self._watch.look(patients(observed), network_trouble=self._plumbing.lasting_trouble)
        return replace(observed, health=health) if health != observed.health else observed

    def _note(self, containers: Mapping[int, Any], now_s: float) -> None:
        """Remember what only time tells: since when something has been ended, and which runs were seen."""
        by_number = self.desired.by_number
        for number, seen in containers.items():
            if seen.state is ContainerState.STOPPED:
                self._stopped_since_s.setdefault(number, now_s)
            if seen.state is not ContainerState.STOPPED:
                self._stopped_since_s.pop(number, None)
            if seen.state is ContainerState.RUNNING and number in by_number:
                self._ran.add((number, by_number[number].restart))
        for number in self._stopped_since_s.keys() - containers.keys():
            del self._stopped_since_s[number]
        self._ran = {
            (number, restart)
            for number, restart in self._ran
            if number in by_number and by_number[number].restart == restart
        }

    async def _begin(self, step: Step) -> None:
        if isinstance(step, Act):
            self._busy[step.number] = step.kind
            assert self._tasks is not None, "passes are made by `run`"
            self._tasks.create_task(self._attempt(step))
            return
        try:
            await self._write_down(step)
        except OakestraError as error:
            self._failed(step.number, StepKind.SAVE, str(error))
        else:
            self._failures.pop((step.number, StepKind.SAVE), None)
            self._loop.wake()

    async def _write_down(self, step: Rerun | Mark | GiveUp | Settle | Release) -> None:
        by_number = self.desired.by_number
        match step:
            case Rerun(number=number):
                rerun = counted(by_number[number], step)
                await self._save(lambda desired: edit(desired, rerun))
            case Mark(number=number, healthy=healthy):
                marked = replace(by_number[number], healthy=healthy)
                await self._save(lambda desired: edit(desired, marked))
            case GiveUp(number=number):
                failed = given_up(by_number[number], step)
                await self._save(lambda desired: edit(desired, failed))
                logger.warning("instance is started again", extra={"number": number, "reason": step.reason})
            case Settle(number=number, outcome=outcome):
                settled = replace(by_number[number], outcome=outcome)
                await self._save(lambda desired: edit(desired, settled))
            case Release(number=number):
                await self._runtime.forget_log(number)
                reach(Point.WORKER_LOG_FORGOTTEN)
                await self._save(lambda desired: release(desired, number))
                self._forget(number)

    def _forget(self, number: int) -> None:
        """Let nothing that was seen under this number be held against the next instance that gets it."""
        self._stopped_since_s.pop(number, None)
        self._plumbing.unserved.discard(number)
        self._ran = {(other, restart) for other, restart in self._ran if other != number}
        self._failures = {at: failure for at, failure in self._failures.items() if at[0] != number}

    async def _attempt(self, step: Act) -> None:
        try:
            await carry_out(step, self.desired, self._machinery)
        except OakestraError as error:
            self._failed(step.number, step.kind, str(error))
        except Exception as error:
            logger.exception(
                "step failed unexpectedly", extra={"step": step.kind.name, "number": step.number}
            )
            self._failed(step.number, step.kind, f"{type(error).__name__}: {error}")
        else:
            self._worked(step)
            instance = self.desired.by_number.get(step.number)
            if step.kind is StepKind.PULL and instance is not None:
                self._pulled.add(instance.spec.image)
        finally:
            self._busy.pop(step.number, None)
            self._loop.wake()

    def _worked(self, step: Act) -> None:
        """Forget that the step failed. Only having started shows that the steps before it work, too: making a
        container may fail again and again although fetching its image and clearing away its remains work."""
        self._failures.pop((step.number, step.kind), None)
        if step.kind is StepKind.START:
            self._plumbing.unserved.add(step.number)
            self._failures = {at: kept for at, kept in self._failures.items() if at[0] != step.number}

    def _failed(self, number: int, kind: StepKind, reason: str) -> None:
        before = self._failures.get((number, kind))
        count = 1 if before is None else before.count + 1
        if before is None or before.reason != reason:
            extra = {"step": kind.name, "number": number, "reason": reason}
            logger.warning("step failed, will repeat", extra=extra)
        if kind is StepKind.CREATE:
            self._pulled.clear()  # perhaps somebody removed the image
        self._failures[number, kind] = Failure(
            kind=kind,
            count=count,
            reason=reason,
            until_s=self._clock.uptime_s() + wait_s(count, salt=f"{number}"),
        )

    # --- towards the cluster ----------------------------------------------------------------------------------------

    def _report_to_cluster(self, observed: Observed) -> None:
        if self._link is None:
            return
        report = WorkerReport(
            version=Version(),
            applied=self.desired.applied,
            complete=True,
            statuses=statuses(observed),
            capacity=self._machine.capacity(),
            trouble=self._machine.trouble() or self._trouble or observed.network_trouble,
        )
        if report != self._said:
            self._said = report
            generation = self._report.version.generation + 1
            numbered = self._numbered((self.desired.boots << 32) + generation, report.statuses)
            version = Version(epoch=self._report_epoch, generation=generation)
            self._report = replace(report, version=version, statuses=numbered)
            self._report_due = True
        if self._report_due:
            self._report_due = False
            self._link.send("up", Channel.SET, encode(self._report))
            reach(Point.WORKER_REPORTED)

    def _numbered(self, sequence: int, found: tuple[InstanceStatus, ...]) -> tuple[InstanceStatus, ...]:
        """Number what changed since the last report; what did not keeps its number."""
        before = {status.key: status for status in self._report.statuses}
        return tuple(_numbered(status, before.get(status.key), sequence) for status in found)

    async def _beat_forever(self) -> None:
        while True:
            if self._link is not None:
                beat = Beat(version=self._report.version, applied=self.desired.applied)
                self._link.send("up", Channel.BEAT, encode(beat))
            wait_s, self._beat_again_s = self._beat_again_s, min(2 * self._beat_again_s, self._beat_s)
            self._connected_now.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._connected_now.wait()

    async def _measure_forever(self) -> None:
        meter = Meter(self._runtime, self._machine, self._clock)
        while True:
            await asyncio.sleep(self._telemetry_s)
            telemetry = await meter.measure(self.desired)
            if self._link is not None and telemetry is not None:
                self._link.send("up", Channel.TELEMETRY, encode(telemetry))


_said = look(one.name for one in fields(InstanceStatus) if one.name != "sequence")


def _numbered(status: InstanceStatus, before: InstanceStatus | None, sequence: int) -> InstanceStatus:
    if before is not None and _said(status) == _said(before):
        return before
    return replace(status, sequence=sequence)


def _belonging(desired: Desired, *, joined: WorkerJoined) -> Desired:
    return replace(
        desired,
        worker=joined.id,
        cluster=joined.cluster,
        mqtt_port=joined.mqtt_port,
        incarnation=max(desired.incarnation, joined.incarnation),
    )


def _load(cell: Cell, clock: Clock) -> Desired:
    """Return what was kept; a state that was lost or cannot be read begins a new incarnation."""
    kept = cell.read()
    if kept is not None:
        try:
            return msgspec.json.decode(kept, type=Desired)
        except (msgspec.DecodeError, msgspec.ValidationError) as error:
            logger.error("the kept desired set is damaged, starting anew", extra={"error": error})  # noqa: TRY400 - the sentence says it all
    return Desired(incarnation=int(clock.wall_s()))
