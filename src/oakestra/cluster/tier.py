"""A cluster: records what it is told, and makes passes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from random import Random

from oakestra.cluster import story
from oakestra.cluster.decisions import Decision, Relieve
from oakestra.cluster.execute import accept, apply, stamp
from oakestra.cluster.observe import (
    Observed,
    WorkerSeen,
    observe,
    only_time_passed,
    waits_for_workers,
)
from oakestra.cluster.plan import plan, remedies
from oakestra.cluster.render.down import Rendering
from oakestra.cluster.render.measured import telemetry
from oakestra.cluster.render.up import cluster_report
from oakestra.cluster.requests import Requests
from oakestra.cluster.state import ClusterState, SlotRecord, WorkerRecord, WorkerView
from oakestra.control.clock import Clock
from oakestra.control.entropy import new_id
from oakestra.control.failpoints import Point, reach
from oakestra.control.logs import counted
from oakestra.control.loop import Loop
from oakestra.control.settled import Settled
from oakestra.model.errors import Invalid
from oakestra.model.event import Event
from oakestra.model.ids import ClusterId, WorkerId, is_id
from oakestra.model.instance import Slot
from oakestra.scheduling.liveness import Liveness, Patience
from oakestra.store import Store
from oakestra.store.event_log import EventLog
from oakestra.transport import Beats, Channel, Link
from oakestra.transport.calls import Answers, Relay
from oakestra.wire.native import (
    UNKNOWN_HERE,
    Beat,
    ClusterAssignment,
    ClusterJoined,
    ClusterReport,
    JoinWorker,
    Telemetry,
    Version,
    WorkerJoined,
    WorkerReport,
    decode,
    encode,
)
from oakestra.wire.sequence import ahead, outdated

logger = logging.getLogger(__name__)

RESEND_EVERY_S = 1.0
"""A set that a beat shows missing is sent again at most this often."""

ANSWER_EVERY_S = 15.0
"""A worker that beats hears back at least this often, so that it can tell a dead link from a quiet cluster."""


PROBE_EVERY_S = 0.075
"""Twenty questions in the second and a half between suspicion and loss."""
APART_S = 0.02
"""Between two passes at least: reports of many come one by one, and nobody feels so little."""
LOOK_AGAIN_S = 0.5
STALL_LOOK_S = 1.0
STALLED_S = 2.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The numbers of a cluster that an operator may set."""

    vcpu_overcommit: float = 8.0
    suspect_after_s: float = 3.0
    """A worker that beats over UDP is asked after so much silence, 20 times, …"""
    lost_after_s: float = 4.5
    """… and lost after so much."""
    slow_lost_after_s: float = 15.0
    """One whose beats come over MQTT only is lost after so much: TCP stalls on bad links."""
    adopt_s: float = 15.0
    """A store that is new, but not the cluster's first, waits so long for workers to join again and report what they
    run before it places anything: a worker's beat, its join, and some lost messages."""
    beat_s: float = 5.0
    telemetry_s: float = 15.0
    resync_s: float = 10.0


class Cluster:
    """The middle tier. `run` makes passes until cancelled; everything else records and wakes."""

    def __init__(
        self,
        store: Store,
        up: Link,
        down: Link,
        *,
        name: str,
        mqtt_port: int,
        new_store: bool,
        beats: Beats | None = None,
        clock: Clock,
        ids: Random,
        tuning: Tuning,
    ) -> None:
        self.state = ClusterState(store)
        self.events = EventLog(self.state.records, self.state.events)
        self._liveness: Mapping[WorkerId, Liveness] = {}
        self._known = story.Known()
        self._asking: set[WorkerId] = set()
        """Suspects: they are asked whether they are there."""
        self._suspects = asyncio.Event()
        self._beats = beats
        self.root_connected = False
        self._up = up
        self._down = down
        self._name = name
        self._mqtt_port = mqtt_port
        self._clock = clock
        self._ids = ids
        self._tuning = tuning
        self._since_s = clock.uptime_s()
        # an empty store knows only from root whether it is the first one this cluster has
        self._adopt_until_s = float("inf") if new_store else self._since_s
        self._told: ClusterAssignment | None = None
        self._report = ClusterReport(version=Version(), applied=Version(), complete=False)
        self._said: ClusterReport | None = None
        """The last report as it was before it got its version."""
        self._report_epoch = int(clock.wall_s() * 1000)
        self._report_due = False
        self._settled = Settled(only_time_passed, resync_s=tuning.resync_s)
        self._resend: set[WorkerId] = set()
        self._copied = False
        """These records are an older copy: a worker was told something by them, or by later ones, that they do not know."""
        self._epoch_heard = 0
        """The latest of which a worker told."""
        self._rendering = Rendering()
        self._reported: Observed | None = None
        """What the last report says."""
        self._loop = Loop(self._pass, resync_s=tuning.resync_s, apart_s=APART_S)
        requests = Requests(
            self.state,
            self.events,
            is_lost=self._is_lost,
            remedies=self.remedies,
            tell=self._tell_act,
            wake=self._loop.wake,
        )
        self._answers = Answers(requests.methods())
        self._tasks: asyncio.TaskGroup | None = None
        self._relay = Relay(up, down, own=self._asked)
        up.listen(self._from_root, self._root_presence)
        down.listen(self._from_worker, self._worker_presence)

    @property
    def id(self) -> ClusterId:
        """Who root says that this cluster is; empty before the first join."""
        return self.state.root.cluster

    @property
    def subnet_lease(self) -> tuple[int, int] | None:
        """First worker subnet index that root leased to this cluster, and how many; None before that."""
        root = self.state.root
        return (root.subnet_first, root.subnet_count) if root.subnet_count else None

    async def run(self) -> None:
        """Make passes, beat and forward measurements until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._tasks = group
            group.create_task(self._loop.run())
            group.create_task(self._up.run())
            group.create_task(self._down.run())
            group.create_task(self._beat_forever())
            group.create_task(self._ask_suspects())
            group.create_task(self._notice_stalls())
            if self._beats is not None:
                group.create_task(self._beats.run())
            group.create_task(self._measure_forever())

    # --- joining ---------------------------------------------------------------------------------------------

    def joined(self, answer: ClusterJoined) -> None:
        """Record who root says that this cluster is."""
        if answer.id != self.id:
            self.state.root = replace(self.state.root, cluster=answer.id)
        if self._adopt_until_s == float("inf"):
            self._adopt_until_s = self._clock.uptime_s() + (self._tuning.adopt_s if answer.known else 0.0)
        self._loop.wake()

    async def join(self, request: JoinWorker, *, peer: str) -> WorkerJoined:
        """Make the worker with this key a member, or find that it is one; return who it is."""
        record = next((known for known in self.state.workers.values() if known.key == request.key), None)
        if record is None:
            record = WorkerRecord(
                id=self._worker_id(request),
                key=request.key,
                name=request.name,
                joined_wall_s=self._clock.wall_s(),
            )
            logger.info("worker joined", extra={"worker": record.name, "id": record.id, "from": peer})
        incarnation = _incarnation(record, request)
        joined = replace(
            record,
            name=request.name,
            host=request.host or peer,
            tunnel_port=request.tunnel_port,
            capacity=request.capacity,
            incarnation=incarnation,
            subnet_indexes=record.subnet_indexes or self._claimed(request),
        )
        self.state.workers.put(joined.id, joined)
        await self.state.commit()
        reach(Point.CLUSTER_WORKER_KEPT)
        self._loop.wake()
        return WorkerJoined(
            id=joined.id,
            cluster=self.id,
            cluster_name=self._name,
            mqtt_port=self._mqtt_port,
            incarnation=incarnation,
        )

    def _claimed(self, request: JoinWorker) -> tuple[int, ...]:
        """Return those of the subnets the worker had that nobody else has by now."""
        taken = {index for record in self.state.workers.values() for index in record.subnet_indexes}
        return request.subnet_indexes if not taken & set(request.subnet_indexes) else ()

    def _worker_id(self, request: JoinWorker) -> WorkerId:
        if is_id(request.id) and request.id not in self.state.workers:
            return request.id
        return WorkerId(new_id(self._ids))

    # --- what arrives: record, wake ----------------------------------------------------------------------------

    def _from_root(self, peer: str, channel: Channel, payload: bytes) -> None:
        try:
            if channel is Channel.SET:
                assignment = decode(payload, ClusterAssignment)
                if not outdated(self._told.version if self._told else None, assignment.version):
                    self._told = assignment
                self._loop.wake()
            elif channel is Channel.BEAT:
                beat = decode(payload, Beat)
                if beat.applied != self._report.version:
                    self._report_due = True
                    self._loop.wake()
            elif channel is Channel.CALL:
                self._relay.from_above(peer, payload)
        except Invalid as error:
            logger.warning("root sent something unreadable", extra={"channel": channel, "error": error})

    def _from_worker(self, peer: str, channel: Channel, payload: bytes) -> None:
        worker = WorkerId(peer)
        if worker not in self.state.workers:
            self._down.send(peer, Channel.BEAT, encode(UNKNOWN_HERE))
            return
        view = self.state.view(worker)
        try:
            if channel is Channel.SET:
                report = decode(payload, WorkerReport)
                self._compare(worker, report.applied)
                if not outdated(view.report.version if view.report else None, report.version):
                    view.report, view.fresh = report, True
                    view.note_ready(self._clock.uptime_s())
                self._loop.wake()
            elif channel is Channel.BEAT:
                self._beaten(worker, decode(payload, Beat))
            elif channel is Channel.TELEMETRY:
                self._measured(worker, decode(payload, Telemetry))
            elif channel is Channel.CALL:
                self._relay.from_below(peer, payload)
        except Invalid as error:
            logger.warning("worker sent something unreadable", extra={"worker": worker, "error": error})
            return
        view.last_seen_s = self._clock.uptime_s()

    def _beaten(self, worker: WorkerId, beat: Beat) -> None:
        view = self.state.view(worker)
        version = self._version(worker)
        if beat.applied != version:
            self._compare(worker, beat.applied)
            self._resend.add(worker)
            self._loop.wake()
        known = view.report.version if view.report else Version()
        if view.report is not None and beat.version == known and not view.fresh:
            view.fresh = True
            self._loop.wake()
        now_s = self._clock.uptime_s()
        if beat.version != known or now_s - view.answered_s >= ANSWER_EVERY_S:
            view.answered_s = now_s
            self._down.send(worker, Channel.BEAT, encode(Beat(version=version, applied=known)))

    def _compare(self, worker: WorkerId, applied: Version) -> None:
        """Note whether a worker knows more than these records."""
        self._copied |= ahead(applied, self._version(worker))
        self._epoch_heard = max(self._epoch_heard, applied.epoch)

    def _version(self, worker: WorkerId) -> Version:
        """Return which assignment of a worker these records are at."""
        return Version(epoch=self.state.records.epoch, generation=self.state.workers[worker].generation)

    def _measured(self, worker: WorkerId, telemetry: Telemetry) -> None:
        self.state.view(worker).machine = telemetry.machine
        for measurement in telemetry.instances:
            self.state.usage[measurement.key] = measurement.usage

    def _root_presence(self, peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
        del peer
        self.root_connected = connected
        if connected:
            self._report_due = True
            self._loop.wake()

    def _worker_presence(self, peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
        if connected:
            self._relay.is_back(peer)
            self._resend |= {WorkerId(peer)} & self.state.workers_by_id().keys()
        self._loop.wake()

    # --- the pass ------------------------------------------------------------------------------------------------

    async def _pass(self) -> float | None:
        if self._copied:
            await self._begin_anew()
        told, self._told = self._told, None
        changes = self._changes()
        if told is not None:
            accept(self.state, told)
        self._note_capacities()
        before = self._observe()
        self.state.relieved_since_s = before.relieved_since_s
        self.state.memory = before.memory
        if told is None and self._is_settled(before):
            return self._next_deadline_s(before)
        decisions = plan(before, vcpu_overcommit=self._tuning.vcpu_overcommit)
        self._tell(before, decisions)
        apply(self.state, decisions)
        if decisions:
            logger.info("decided", extra=counted(decisions))
        decided = self._changes() != changes
        observed = self._observe() if decided else before
        payloads = self._render(observed)
        left = self._numbered(observed)
        numbered = left is not observed
        busy = decided or (numbered and waits_for_workers(observed))
        reach(Point.CLUSTER_DECIDED)
        try:
            await self.state.commit()
        except BaseException:
            self._told = self._told or told
            raise
        reach(Point.CLUSTER_COMMITTED)
        for worker, payload in payloads.items():
            self._down.send(worker, Channel.SET, payload)
        reach(Point.CLUSTER_SENT)
        self._forget_measurements(observed)
        if self._reported is None or not only_time_passed(self._reported, observed):
            self._note_report(observed)
        self._reported = left
        self._report_to_root()
        self._settled.note(None if busy else left)
        turned = any(isinstance(decision, Relieve) for decision in decisions)
        return 0.0 if turned else self._next_deadline_s(observed)

    async def _begin_anew(self) -> None:
        """Go on under a new epoch, and find out what runs before anything is placed."""
        logger.warning("these records are an older copy; workers are asked what they run")
        self.state.records.renew(max(int(self._clock.wall_s()), self._epoch_heard + 1))
        await self.state.commit()
        self._resend |= {record.id for record in self.state.workers.values()}
        self._adopt_until_s = self._clock.uptime_s() + self._tuning.adopt_s
        self._copied = False

    def _is_settled(self, observed: Observed) -> bool:
        """Tell whether a pass has nothing to do: nothing is owed, and the last one that saw this changed nothing."""
        owing = self._report_due or self.state.records.pending or any(map(self._may_resend, self._resend))
        return self._settled.holds(observed, now_s=self._clock.uptime_s()) and not owing

    def _numbered(self, observed: Observed) -> Observed:
        """Return what was observed with the numbers that assignments have got since."""
        records = self.state.workers_by_id()
        same = all(records[id] is worker.record for id, worker in observed.workers.items())
        return observed if same else self._observe()

    def _changes(self) -> int:
        return self.state.records.changes(besides=self.state.events)

    def _tell(self, observed: Observed, decisions: tuple[Decision, ...]) -> None:
        told, self._known = story.told(self._known, decisions, observed)
        self._liveness = self._known.liveness
        for id, state in self._liveness.items():
            if state is Liveness.LOST:
                self.state.view(id).fresh = False
        self._asking = {id for id, state in self._liveness.items() if state is Liveness.SUSPECT}
        if self._asking:
            self._suspects.set()
        self.events.add(told, tier=self._name, now_wall_s=self._clock.wall_s(), name_of=observed.name_of)

    def _observe(self) -> Observed:
        return observe(
            self.state,
            now_s=self._clock.uptime_s(),
            since_s=self._since_s,
            patience=self._patience,
            adopt_until_s=self._adopt_until_s,
        )

    def _note_capacities(self) -> None:
        for id, record in self.state.workers_by_id().items():
            report = self.state.view(id).report
            if report is not None and report.capacity != record.capacity:
                self.state.workers.put(id, replace(record, capacity=report.capacity))

    def _render(self, observed: Observed) -> dict[WorkerId, bytes]:
        """Stamp every worker's assignment and return those that must be sent: changed, or shown to be missed."""
        payloads: dict[WorkerId, bytes] = {}
        rendered = self._rendering.worker_assignments(observed, self.state.remote)
        for worker, (assignment, content) in rendered.items():
            version, changed = stamp(self.state, worker, content)
            missed = worker in self._resend and self._may_resend(worker)
            if changed or missed:
                payloads[worker] = encode(replace(assignment, version=version))
            if missed:
                self.state.view(worker).resent_s = self._clock.uptime_s()
                self._resend.discard(worker)
        return payloads

    def _may_resend(self, worker: WorkerId) -> bool:
        return self._clock.uptime_s() - self.state.view(worker).resent_s >= RESEND_EVERY_S

    def _note_report(self, observed: Observed) -> None:
        report = cluster_report(
            observed, applied=self.state.root.applied, vcpu_overcommit=self._tuning.vcpu_overcommit
        )
        if report != self._said:
            self._said = report
            version = Version(epoch=self._report_epoch, generation=self._report.version.generation + 1)
            self._report = replace(report, version=version)
            self._report_due = True

    def _report_to_root(self) -> None:
        if self._report_due:
            self._report_due = False
            self._up.send("up", Channel.SET, encode(self._report))

    def _next_deadline_s(self, observed: Observed) -> float | None:
        now_s = self._clock.uptime_s()
        missed = {record.worker for record in self.state.slots.values()}
        due = [
            LOOK_AGAIN_S
            if worker.liveness is Liveness.LOST and id in missed
            else self._judged_again_s(id, worker)
            for id, worker in observed.workers.items()
        ]
        moving = [record for record in observed.slots.values() if record.leaving is not None]
        due += [observed.unproven_s[record.key] for record in moving if record.key in observed.unproven_s]
        due += observed.lingering_s.values()
        due += observed.memory.due_s
        if observed.adopting:
            due.append(self._adopt_until_s - now_s)
        if self._resend:
            due.append(RESEND_EVERY_S)
        return max(min(due), 0.0) + 0.01 if due else None

    # --- liveness ----------------------------------------------------------------------------------------------

    def heard(self, worker: WorkerId) -> None:
        """Note a sign of life that came beside the link."""
        if worker not in self.state.workers:
            return
        view = self.state.view(worker)
        view.last_seen_s = view.beaten_s = self._clock.uptime_s()
        if worker in self._asking or self._liveness.get(worker) is not Liveness.LIVE:
            self._loop.wake()

    def secret_of(self, worker: WorkerId) -> str | None:
        """Return the key that a worker's signs of life are signed with, None if it is no member."""
        record = self.state.workers.get(worker)
        return record.key if record else None

    def _patience(self, view: WorkerView) -> Patience:
        """Return how long a worker may be silent: long, while nothing but TCP, which stalls, comes from it."""
        last_s = view.last_seen_s or 0.0
        beats = view.beaten_s is not None and last_s - view.beaten_s <= self._tuning.slow_lost_after_s
        return _patience(self._tuning, beats=beats)

    def _judged_again_s(self, id: WorkerId, worker: WorkerSeen) -> float:
        """Return in how many seconds silence will mean more than it does now."""
        patience = self._patience(self.state.view(id))
        match worker.liveness:
            case Liveness.LIVE:
                return patience.suspect_after_s - worker.silent_s
            case Liveness.SUSPECT:
                return max(patience.lost_after_s - worker.silent_s, LOOK_AGAIN_S)
            case Liveness.LOST:
                return self._tuning.resync_s

    async def _ask_suspects(self) -> None:
        """Ask every suspect again and again until it answers or is lost."""
        while True:
            self._suspects.clear()
            if not self._asking:
                await self._suspects.wait()
            for worker in sorted(self._asking):
                if self._beats is not None:
                    self._beats.probe(worker)
            await asyncio.sleep(PROBE_EVERY_S)

    async def _notice_stalls(self) -> None:
        """Give everybody a fresh grace when this process was stopped for a while: it heard nobody then."""
        while True:
            before_s = self._clock.uptime_s()
            await asyncio.sleep(STALL_LOOK_S)
            if self._clock.uptime_s() - before_s > STALL_LOOK_S + STALLED_S:
                logger.warning("this process stood still, everybody gets a fresh grace")
                self._since_s = self._clock.uptime_s()

    # --- requests ----------------------------------------------------------------------------------------------

    def _asked(self, peer: str, payload: bytes) -> None:
        assert self._tasks is not None, "links run in `run`"
        self._answers.received(self._up, peer, payload, self._tasks)

    def remedies(self, records: Sequence[SlotRecord]) -> Mapping[Slot, str]:
        """Return the least that would have to change for each slot to get a worker."""
        return remedies(self._observe(), records, vcpu_overcommit=self._tuning.vcpu_overcommit)

    def _tell_act(self, act: Event) -> None:
        """Note what somebody did; it is durable with what he did."""
        self.events.add([act], tier=self._name, now_wall_s=self._clock.wall_s(), name_of=lambda _: "")

    def _is_lost(self, worker: WorkerId) -> bool:
        return self._observe().workers[worker].liveness is Liveness.LOST

    # --- towards root ----------------------------------------------------------------------------------------------

    async def _beat_forever(self) -> None:
        while True:
            # what is not kept (instances elsewhere) must be asked for again after a restart
            applied = self.state.root.applied if self.state.remote is not None else Version()
            beat = Beat(version=self._report.version, applied=applied)
            self._up.send("up", Channel.BEAT, encode(beat))
            await asyncio.sleep(self._tuning.beat_s)

    async def _measure_forever(self) -> None:
        while True:
            await asyncio.sleep(self._tuning.telemetry_s)
            measured = telemetry(self.state.views, self.state.usage)
            if measured is not None:
                self._up.send("up", Channel.TELEMETRY, encode(measured))

    def _forget_measurements(self, observed: Observed) -> None:
        current = {record.key for record in observed.slots.values()}
        for key in [key for key in self.state.usage if key not in current]:
            del self.state.usage[key]


@lru_cache(maxsize=16)
def _patience(tuning: Tuning, *, beats: bool) -> Patience:
    if beats:
        return Patience(suspect_after_s=tuning.suspect_after_s, lost_after_s=tuning.lost_after_s)
    slow_s = max(tuning.slow_lost_after_s, tuning.lost_after_s)
    return Patience(suspect_after_s=slow_s * 2 / 3, lost_after_s=slow_s)


def _incarnation(record: WorkerRecord, request: JoinWorker) -> int:
    """Return the incarnation of a worker's state: a lower number than it had means a new state and a clock set back."""
    if request.incarnation >= record.incarnation:
        return request.incarnation
    return record.incarnation + 1
