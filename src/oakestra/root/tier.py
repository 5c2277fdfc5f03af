"""Root: records what it is told, and makes passes."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from random import Random
from typing import Any

from oakestra.control.clock import Clock
from oakestra.control.entropy import new_id
from oakestra.control.failpoints import Point, reach
from oakestra.control.logs import counted
from oakestra.control.loop import Loop
from oakestra.control.settled import Settled
from oakestra.model.errors import Conflict, Invalid
from oakestra.model.ids import ClusterId, WorkerId, is_id
from oakestra.model.instance import Slot
from oakestra.root import story
from oakestra.root.addresses import first_lease
from oakestra.root.decisions import Decision
from oakestra.root.execute import apply, stamp
from oakestra.root.moves import CLUSTER_GRACE_S, lingers_s
from oakestra.root.observe import REBUILT_AFTER_S, Observed, last_pass, observe, only_time_passed
from oakestra.root.plan import plan, remedies
from oakestra.root.rebuild.execute import begin_anew
from oakestra.root.render import cluster_assignments
from oakestra.root.rollout import next_deadline_s
from oakestra.root.state import ClusterRecord, ClusterView, RootState
from oakestra.scheduling.liveness import Liveness
from oakestra.store import Store
from oakestra.store.event_log import EventLog
from oakestra.transport import Channel, Link
from oakestra.transport.calls import Asker
from oakestra.transport.inflow import Entry
from oakestra.wire.native import (
    Beat,
    Call,
    ClusterAssignment,
    ClusterJoined,
    ClusterReport,
    JoinCluster,
    Telemetry,
    Version,
    decode,
    encode,
)
from oakestra.wire.rest import Seen
from oakestra.wire.sequence import ahead, digest, outdated

logger = logging.getLogger(__name__)

RESEND_EVERY_S = 1.0
"""A set that a beat shows missing is sent again at most this often."""
ANSWER_EVERY_S = 15.0
"""A cluster that beats hears back at least this often."""
APART_S = 0.02
"""Between two passes at least: reports of many come one by one, and nobody feels so little."""
LOOK_AGAIN_S = 1.0
"""A silent cluster is looked at so often: its silence may come to mean more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """The numbers of root that an operator may set."""

    lost_after_s: float = 15.0
    resync_s: float = 10.0


class Root:
    """The top tier. `run` makes passes until cancelled; everything else records and wakes."""

    def __init__(
        self,
        store: Store,
        down: Link,
        *,
        clock: Clock,
        ids: Random,
        first_address: int,
        tuning: Tuning,
    ) -> None:
        self.state = RootState(store)
        self.state.pool.begin_at(first_address)
        self.events = EventLog(self.state.records, self.state.events)
        self._liveness: Mapping[ClusterId, Liveness] = {}
        self._names: story.Names = {}
        """Of the last pass: of what was removed since is told by the name it had."""
        self._down = down
        self._clock = clock
        self._ids = ids
        self._tuning = tuning
        self._since_s = clock.uptime_s()
        self._resend: set[ClusterId] = set()
        self._resent_s: dict[ClusterId, float] = {}
        self._said: dict[ClusterId, tuple[ClusterAssignment, str]] = {}
        """What each cluster was told last, without its version, and the digest of that."""
        self._answered_s: dict[ClusterId, float] = {}
        self._copied = False
        """These records are an older copy: a cluster was told something by them, or by later ones, that they do not know."""
        self._epoch_heard = 0
        """The latest of which a cluster told."""
        self._alike = partial(only_time_passed, grace_s=CLUSTER_GRACE_S)
        self._settled = Settled(self._alike, resync_s=tuning.resync_s)
        self._rendered: Observed | None = None
        """What the assignments that were rendered last follow from."""
        self._loop = Loop(self._pass, resync_s=tuning.resync_s, apart_s=APART_S)
        self._asker = Asker(down)
        down.listen(self._from_cluster, self._presence)

    def wake(self) -> None:
        """Ask for a pass: something was recorded."""
        self._loop.wake()

    async def run(self) -> None:
        """Make passes until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._loop.run())
            group.create_task(self._down.run())

    # --- joining -------------------------------------------------------------------------------------------------

    async def join(self, payload: bytes, peer_host: str) -> bytes:
        """Make the cluster with this key a member, or find that it is one; return who it is."""
        request = decode(payload, JoinCluster)
        record = next((known for known in self.state.clusters.values() if known.key == request.key), None)
        known = record is not None
        namesake = next((known for known in self.state.clusters.values() if known.name == request.name), None)
        if namesake is not None and namesake.key != request.key:
            raise Conflict(
                f"another cluster is called {request.name!r}; give this one a name of its own (--name), "
                "or remove the other one from root if it is gone for good"
            )
        if record is None:
            first, count = self._lease(request)
            record = ClusterRecord(
                id=self._cluster_id(request),
                name=request.name,
                key=request.key,
                joined_wall_s=self._clock.wall_s(),
                subnet_first=first,
                subnet_count=count,
            )
            logger.info("cluster joined", extra={"cluster": request.name, "id": record.id, "from": peer_host})
        joined = replace(
            record,
            name=request.name,
            location=request.location,
            host=peer_host,
            api_port=request.api_port,
        )
        self.state.clusters.put(joined.id, joined)
        await self.state.commit()
        reach(Point.ROOT_CLUSTER_KEPT)
        self._resend.add(joined.id)
        self._loop.wake()
        return encode(ClusterJoined(id=joined.id, known=known))

    def identify(self, key: str) -> str | None:
        """Return the id of the cluster with this key, or None if it must join first."""
        return next((record.id for record in self.state.clusters.values() if record.key == key), None)

    def _cluster_id(self, request: JoinCluster) -> ClusterId:
        if is_id(request.id) and request.id not in self.state.clusters:
            return request.id
        return ClusterId(new_id(self._ids))

    def _lease(self, request: JoinCluster) -> tuple[int, int]:
        """Return the worker subnets of a new member: those it says that it had, if they are free."""
        lease = first_lease([record.lease for record in self.state.clusters.values()], request.subnet_lease)
        if lease is None:
            raise Conflict("all worker subnets are leased to clusters; remove one that is gone for good")
        return lease

    # --- what arrives: record, wake ----------------------------------------------------------------------------------

    def _from_cluster(self, peer: str, channel: Channel, payload: bytes) -> None:
        cluster = ClusterId(peer)
        if cluster not in self.state.clusters:
            return
        view = self.state.views.setdefault(cluster, ClusterView())
        try:
            if channel is Channel.SET:
                report = decode(payload, ClusterReport)
                self._compare(cluster, report.applied)
                if not outdated(view.report.version if view.report else None, report.version):
                    view.report = report
                self._loop.wake()
            elif channel is Channel.BEAT:
                self._beaten(cluster, view, decode(payload, Beat))
            elif channel is Channel.TELEMETRY:
                self._measured(cluster, view, decode(payload, Telemetry))
            elif channel is Channel.CALL:
                self._asker.received(peer, payload)
        except Invalid as error:
            logger.warning("cluster sent something unreadable", extra={"cluster": cluster, "error": error})
            return
        if view.last_seen_s is None:
            self._resend.add(cluster)
            self._loop.wake()
        view.last_seen_s = self._clock.uptime_s()
        view.last_seen_wall_s = self._clock.wall_s()

    def _beaten(self, cluster: ClusterId, view: ClusterView, beat: Beat) -> None:
        version = self._version(cluster)
        if beat.applied != version:
            self._compare(cluster, beat.applied)
            self._resend.add(cluster)
            self._loop.wake()
        known = view.report.version if view.report else Version()
        now_s = self._clock.uptime_s()
        if beat.version != known or now_s - self._answered_s.get(cluster, 0.0) >= ANSWER_EVERY_S:
            self._answered_s[cluster] = now_s
            self._down.send(cluster, Channel.BEAT, encode(Beat(version=version, applied=known)))

    def _compare(self, cluster: ClusterId, applied: Version) -> None:
        """Note whether a cluster knows more than these records."""
        self._copied |= ahead(applied, self._version(cluster))
        self._epoch_heard = max(self._epoch_heard, applied.epoch)

    def _version(self, cluster: ClusterId) -> Version:
        """Return which assignment of a cluster these records are at."""
        return Version(epoch=self.state.records.epoch, generation=self.state.clusters[cluster].generation)

    def _measured(self, cluster: ClusterId, view: ClusterView, telemetry: Telemetry) -> None:
        view.cpu_ratio = telemetry.machine.cpu_ratio
        view.memory_ratio = telemetry.machine.memory_ratio
        view.machines = dict(telemetry.workers)
        now_wall_s = self._clock.wall_s()
        self.state.histories.note(cluster, Seen(now_wall_s, view.cpu_ratio, view.memory_ratio))
        for measurement in telemetry.instances:
            usage = measurement.usage
            self.state.usage[measurement.key] = usage
            self.state.histories.note(measurement.key, Seen(now_wall_s, usage.cpu_ratio, usage.memory_bytes))

    def _presence(self, peer: str, connected: bool) -> None:  # noqa: FBT001 - the contract of links
        if connected:
            self._resend.add(ClusterId(peer))
        else:
            self._asker.lost(peer)
        self._loop.wake()

    # --- the pass ----------------------------------------------------------------------------------------------------

    async def _pass(self) -> float | None:
        if self._copied:
            await self._begin_anew()
        observed = self._observe()
        if self._is_settled(observed):
            return self._next_deadline_s(observed, busy=False)
        changes = self._changes()
        self.state.last = last_pass(observed)
        decisions = plan(observed)
        seen = observed
        self._tell(observed, decisions)
        apply(self.state, decisions, now_wall_s=self._clock.wall_s())
        if decisions:
            logger.info("decided", extra=counted(decisions))
        decided = self._changes() != changes
        observed = self._observe() if decided else observed
        same = self._rendered is not None and self._alike(self._rendered, observed)
        payloads = {} if same and not self._resend else self._render(observed)
        left = self._observe() if payloads else observed  # those that are new were numbered
        reach(Point.ROOT_DECIDED)
        await self.state.commit()
        reach(Point.ROOT_COMMITTED)
        # not before: what could not be saved is told again
        self._names = _names(seen)
        self._liveness = {id: cluster.liveness for id, cluster in seen.clusters.items()}
        for cluster, payload in payloads.items():
            self._down.send(cluster, Channel.SET, payload)
        reach(Point.ROOT_SENT)
        self._forget_measurements(observed)
        self._rendered = left
        self._settled.note(None if decided else left)
        return self._next_deadline_s(observed, busy=_left_something(decisions))

    async def _begin_anew(self) -> None:
        """Go on under a new epoch, so that clusters claim what these records do not know."""
        logger.warning("these records are an older copy; clusters are asked for what came after it")
        begin_anew(self.state, max(int(self._clock.wall_s()), self._epoch_heard + 1))
        await self.state.commit()
        self.state.renewed_s = self._clock.uptime_s()
        reach(Point.ROOT_BEGUN_ANEW)
        self._resend |= {record.id for record in self.state.clusters.values()}
        self._copied = False

    def _is_settled(self, observed: Observed) -> bool:
        """Tell whether a pass has nothing to do: nothing is owed, and the last one that saw this changed nothing."""
        owing = self._resend or self.state.records.pending
        return self._settled.holds(observed, now_s=self._clock.uptime_s()) and not owing

    def _changes(self) -> int:
        return self.state.records.changes(besides=self.state.events)

    def _tell(self, observed: Observed, decisions: tuple[Decision, ...]) -> None:
        told = (
            *story.liveness(self._liveness, observed),
            *story.decided(decisions, observed, {**self._names, **_names(observed)}),
        )
        self.events.add(told, tier="root", now_wall_s=self._clock.wall_s(), name_of=observed.name_of)

    def _observe(self) -> Observed:
        return observe(
            self.state,
            now_s=self._clock.uptime_s(),
            now_wall_s=self._clock.wall_s(),
            since_s=self._since_s,
            lost_after_s=self._tuning.lost_after_s,
        )

    def _render(self, observed: Observed) -> dict[ClusterId, bytes]:
        """Stamp every cluster's assignment and return those that must be sent: changed, or shown to be missed.

        Nothing new is said to a cluster before it has said what it was told last: that these records are an older copy
        shows in its having been told more.
        """
        now_s = self._clock.uptime_s()
        payloads: dict[ClusterId, bytes] = {}
        self._resend &= observed.clusters.keys()
        before, self._said = self._said, {}
        for cluster, assignment in cluster_assignments(observed).items():
            if self.state.clusters[cluster].generation and not self._has_spoken(cluster):
                self._resend.discard(cluster)  # it is told when it speaks
                continue
            said = before.get(cluster)
            if said is None or said[0] != assignment:  # to compare is much less work than to digest
                said = (assignment, digest(assignment))
            self._said[cluster] = said
            version, changed = stamp(self.state, cluster, said[1])
            resent_s = self._resent_s.get(cluster, float("-inf"))
            missed = cluster in self._resend and now_s - resent_s >= RESEND_EVERY_S
            if changed or missed:
                payloads[cluster] = encode(replace(assignment, version=version))
            if missed:
                self._resent_s[cluster] = now_s
                self._resend.discard(cluster)
        return payloads

    def _has_spoken(self, cluster: ClusterId) -> bool:
        view = self.state.views.get(cluster)
        return view is not None and view.last_seen_s is not None

    def _next_deadline_s(self, observed: Observed, *, busy: bool) -> float | None:
        if busy:
            return 0.0
        due = [until - observed.now_wall_s for until in observed.quarantined.values()]
        due += [
            max(self._tuning.lost_after_s / 2 - cluster.silent_s, LOOK_AGAIN_S)
            for cluster in observed.clusters.values()
        ]
        rolling_s = next_deadline_s(observed)
        if rolling_s is not None:
            due.append(rolling_s)
        due += lingers_s(observed)
        due += observed.memory.due_s
        if observed.new_for_s is not None:
            due.append(REBUILT_AFTER_S - observed.new_for_s)
        if self._resend:
            due.append(RESEND_EVERY_S)
        return max(min(due), 0.01) if due else None

    def _forget_measurements(self, observed: Observed) -> None:
        current = {record.status.key for record in observed.slots.values() if record.status}
        for key in [key for key in self.state.usage if key not in current]:
            del self.state.usage[key]
        self.state.histories.keep_only(current | set(observed.clusters))

    def remedies(self, slots: Sequence[Slot]) -> Mapping[Slot, str]:
        """Return the least that would have to change for each slot to get a cluster."""
        return remedies(self._observe(), slots)

    # --- requests to workers -------------------------------------------------------------------------------------------

    def call_worker(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """Ask a worker something; yield the pieces of its answer. Raises the worker's error, or `Unavailable`."""
        return self._asker.ask(cluster, self._call(worker, method, arguments))

    def converse_with_worker(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> tuple[AsyncGenerator[bytes, None], Entry]:
        """As `call_worker`; more is entered while it is answered, by the second of what is returned."""
        return self._asker.converse(cluster, self._call(worker, method, arguments))

    def _call(self, worker: WorkerId, method: str, arguments: Mapping[str, Any]) -> Call:
        return Call(id=new_id(self._ids), method=method, worker=worker, arguments=dict(arguments))


def _names(observed: Observed) -> story.Names:
    return {id: cluster.record.name for id, cluster in observed.clusters.items()}


def _left_something(decisions: tuple[object, ...]) -> bool:
    """Tell whether another pass may find more to do: tombstones go one step per pass."""
    return any(type(decision).__name__.startswith("Forget") for decision in decisions)
