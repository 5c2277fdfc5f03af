"""Routes that tell what happened and why: root's own events, together with those of the clusters."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import OakestraError
from oakestra.model.event import Event
from oakestra.model.ids import ClusterId, ServiceId, WorkerId
from oakestra.model.instance import Slot
from oakestra.root.api.applications import whole_number
from oakestra.root.api.following import event_of, followed
from oakestra.root.api.gate import Gate
from oakestra.root.api.own import truth
from oakestra.root.api.reach import CallWorker
from oakestra.root.operations import Operations
from oakestra.root.state import RootState
from oakestra.root.users.access import Principal
from oakestra.scheduling.placement import nobody
from oakestra.store.event_log import EventLog, told
from oakestra.transport.http_server import Endpoint, Query, json_response, streamed
from oakestra.wire.api import SlotVerdicts, Story

ASKED_WITHIN_S = 3.0
"""A cluster that has not told its part by then is left out, and named."""
_FOLLOW = Query(name="follow", about="Go on with what happens from now on.", kind=bool)
_EVENTS_KEPT = 1000
_OF_ALL_MAX = 10
"""Of what concerns all instances of a service (updates, scaling) the newest are told with one: stories stay short."""

Remedies = Callable[[Sequence[Slot]], Mapping[Slot, str]]


class StoriesApi:
    """Answers what happened."""

    def __init__(
        self,
        state: RootState,
        events: EventLog,
        operations: Operations,
        gate: Gate,
        *,
        call_worker: CallWorker,
        remedies: Remedies,
    ) -> None:
        self._state = state
        self._events = events
        self._operations = operations
        self._gate = gate
        self._call = call_worker
        self._remedies = remedies

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [
            Endpoint(
                method="GET", path="/api/v1/services/{service_id}/story", answer=self._gate.own(self.story),
                tag="oak", summary="Tell the story of a service's instances", reply=Story,
                query=(Query(name="instance", about="Instance number: only that one.", kind=int),),
            ),
            Endpoint(
                method="GET", path="/api/v1/events", answer=self._gate.own(self.events), tag="oak",
                summary="Tell what happened lately",
                details="Lines of JSON, each an event; `tier`, `epoch` and `sequence` together say which one it is.",
                media="application/x-ndjson", query=(_FOLLOW,),
            ),
        ]  # fmt: skip

    async def story(self, asker: Principal, request: Request) -> Response:
        """Tell the story of a service's instances from REQUESTED to now."""
        service = self._operations.service(asker, request.path_params["service_id"])
        number = request.query_params.get("instance")
        arguments: dict[str, Any] = {"service": service.spec.id}
        if number is not None:
            arguments["slot"] = whole_number(number, "an instance number")
        own = self._own(service.spec.id, arguments.get("slot"))
        clusters = list(self._state.clusters.values())
        answers = await asyncio.gather(*(self._ask(cluster.id, arguments) for cluster in clusters))
        silent = [cluster.name for cluster, answer in zip(clusters, answers, strict=True) if answer is None]
        parts = [answer for answer in answers if answer is not None]
        events = sorted((*own, *(event for part, _ in parts for event in part)), key=_moment)
        verdicts = (*self._nowhere(service.spec.id), *(verdict for _, part in parts for verdict in part))
        return json_response(Story(events=tuple(events), verdicts=verdicts, silent=tuple(silent)))

    def _own(self, service: ServiceId, number: int | None) -> tuple[Event, ...]:
        """Return root's part; to one instance's belongs what happened to the whole service since it was asked for."""
        own = self._events.of(service, number)
        if number is None or not own:
            return own
        since_wall_s = own[0].wall_s
        of_all = [event for event in self._events.of(service, -1) if event.wall_s >= since_wall_s]
        return (*own, *of_all[-_OF_ALL_MAX:])

    def _nowhere(self, service: ServiceId) -> list[SlotVerdicts]:
        """Return what would help the instances that no cluster takes; their verdicts are with the instance."""
        waiting = [
            record
            for record in self._state.slots_of(service)
            if record.wanted and (record.cluster is None or nobody(record.verdicts))
        ]
        found = self._remedies([record.slot for record in waiting]) if waiting else {}
        return [
            SlotVerdicts(
                number=record.slot.number,
                reason=record.reason,
                verdicts=(),
                remedy=found.get(record.slot, ""),
            )
            for record in waiting
        ]

    async def _ask(
        self, cluster: ClusterId, arguments: Mapping[str, Any]
    ) -> tuple[list[Event], list[SlotVerdicts]] | None:
        """Return a cluster's part of a story; None if it cannot be asked, or answers with an error, as older ones may."""
        try:
            async with asyncio.timeout(ASKED_WITHIN_S):
                events = _events(await _all(self._call(cluster, WorkerId(""), "events", arguments)))
                thought = await _all(self._call(cluster, WorkerId(""), "verdicts", arguments))
            return events, msgspec.json.decode(thought, type=list[SlotVerdicts])
        except (OakestraError, TimeoutError, msgspec.DecodeError):
            return None

    async def events(self, asker: Principal, request: Request) -> Response:
        """Tell what happened lately, and with `follow` what happens."""
        follow = truth(request, "follow")
        if follow:
            return streamed(self._followed(asker), media_type="application/x-ndjson")
        sources = [told(self._events, {})]
        clusters = [record.id for record in self._state.clusters.values()]
        sources += [self._call(cluster, WorkerId(""), "events", {}) for cluster in clusters]
        parts = await asyncio.gather(*(_within(source) for source in sources))
        seen = (event for part in parts for event in part if self._may_see(asker, event))
        newest = sorted(seen, key=_moment)[-_EVENTS_KEPT:]
        lines = b"".join(msgspec.json.encode(event) + b"\n" for event in newest)
        return Response(lines, media_type="application/x-ndjson")

    async def _followed(self, asker: Principal) -> AsyncGenerator[bytes, None]:
        async with aclosing(followed(self._events, self._state, self._call)) as events:
            async for event in events:
                if self._may_see(asker, event):
                    yield msgspec.json.encode(event) + b"\n"

    def _may_see(self, asker: Principal, event: Event) -> bool:
        """Tell whether to show an event: one's own services', and to who sees everything, the rest and what is gone."""
        service = self._state.services.get(event.service)
        application = self._state.applications.get(service.spec.application_id) if service else None
        if application is not None:
            return asker.may_see(application.application)
        try:
            asker.must_see_infrastructure()
        except OakestraError:
            return False
        return True


def _moment(event: Event) -> tuple[float, str, int]:
    return (event.wall_s, event.tier, event.sequence)


async def _all(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def _within(pieces: AsyncIterator[bytes]) -> list[Event]:
    try:
        async with asyncio.timeout(ASKED_WITHIN_S):
            return _events(await _all(pieces))
    except (OakestraError, TimeoutError, msgspec.DecodeError):
        return []


def _events(lines: bytes) -> list[Event]:
    return [event for event in map(event_of, lines.splitlines()) if event is not None]
