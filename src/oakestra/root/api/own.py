"""Routes under `/api/v1`: all that root knows, in plain JSON. `oak` uses these."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from oakestra import __version__
from oakestra.control.clock import Clock
from oakestra.model.errors import Invalid, NotFound, OakestraError, Unavailable
from oakestra.root.api.answers import with_end
from oakestra.root.api.applications import whole_number
from oakestra.root.api.gate import Gate
from oakestra.root.api.reach import CallWorker
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import Endpoint, Query, json_response, read_json, streamed
from oakestra.wire import api

TAIL_BYTES = 64 * 1024
TAIL_BYTES_MAX = 16 << 20
_TRUE = ("true", "1", "yes", "on")
_FALSE = ("false", "0", "no", "off", "")


class OwnApi:
    """Answers in our own words."""

    def __init__(
        self,
        operations: Operations,
        views: Views,
        gate: Gate,
        *,
        call_worker: CallWorker,
        clock: Clock,
        epoch: Callable[[], int],
    ) -> None:
        self._operations = operations
        self._views = views
        self._gate = gate
        self._call_worker = call_worker
        self._clock = clock
        self._epoch = epoch
        self._since_s = clock.uptime_s()

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        tag, gate = "oak", self._gate.own
        return [
            Endpoint(
                method="GET", path="/status", answer=self.status, tag=tag, secured=False,
                summary="Tell whether root is up", reply=api.Status,
            ),
            Endpoint(
                method="GET", path="/api/v1/status", answer=self.status, tag=tag, secured=False,
                summary="Tell how root is", details="More with a login than without.", reply=api.Status,
            ),
            Endpoint(
                method="GET", path="/api/v1/applications/", answer=gate(self.applications), tag=tag,
                summary="List the applications one may see", reply=list[api.Application],
            ),
            Endpoint(
                method="GET", path="/api/v1/services/", answer=gate(self.services), tag=tag,
                summary="List the services one may see", reply=list[api.Service],
                query=(Query(name="application", about="Id of an application: only its services."),),
            ),
            Endpoint(
                method="GET", path="/api/v1/services/{service_id}", answer=gate(self.service), tag=tag,
                summary="Show a service with every reason", reply=api.Service,
            ),
            Endpoint(
                method="POST", path="/api/v1/services/{service_id}/scale", answer=gate(self.scale), tag=tag,
                summary="Have so many instances", body=api.Scale, reply=api.Scaled,
            ),
            Endpoint(
                method="GET", path="/api/v1/services/{service_id}/logs", answer=gate(self.logs), tag=tag,
                summary="Read an instance's log", media="text/plain",
                query=(
                    Query(name="instance", about="Instance number; absent: the lowest there is.", kind=int),
                    Query(name="tail", about=f"Only so many bytes of its end; {TAIL_BYTES} if absent.", kind=int),
                    Query(name="follow", about="Go on with what is written from now on.", kind=bool),
                ),
            ),
            Endpoint(
                method="GET", path="/api/v1/clusters/", answer=gate(self.clusters), tag=tag,
                summary="List clusters", reply=list[api.Cluster],
            ),
            Endpoint(
                method="GET", path="/api/v1/workers/", answer=gate(self.workers), tag=tag,
                summary="List workers", reply=list[api.Worker],
            ),
        ]  # fmt: skip

    async def status(self, request: Request) -> Response:
        """Tell how root is."""
        if self._gate.somebody(request) is None:
            return json_response({"version": __version__, "status": "ok"})
        return json_response(
            api.Status(
                version=__version__,
                uptime_s=round(self._clock.uptime_s() - self._since_s, 1),
                epoch=self._epoch(),
                counts=self._views.counts(),
            )
        )

    async def applications(self, asker: Principal, request: Request) -> Response:
        """List applications."""
        del request
        found = self._operations.applications(asker)
        return json_response([self._views.own_application(record) for record in found])

    async def services(self, asker: Principal, request: Request) -> Response:
        """List services."""
        wanted = request.query_params.get("application")
        if wanted is None:
            found = self._operations.services(asker)
        else:
            found = self._operations.services_of(self._operations.application(asker, wanted))
        return json_response(self._views.own_services(found))

    async def service(self, asker: Principal, request: Request) -> Response:
        """Show a service."""
        record = self._operations.service(asker, request.path_params["service_id"])
        return json_response(self._views.own_services([record])[0])

    async def scale(self, asker: Principal, request: Request) -> Response:
        """Have so many instances."""
        wanted: api.Scale = await read_json(request, api.Scale)
        slots = await self._operations.scale(asker, request.path_params["service_id"], wanted.instances)
        return json_response(api.Scaled(instances=tuple(slot.number for slot in slots)))

    async def clusters(self, asker: Principal, request: Request) -> Response:
        """List clusters."""
        del asker, request
        return json_response(self._views.own_clusters())

    async def workers(self, asker: Principal, request: Request) -> Response:
        """List workers."""
        del request
        asker.must_see_infrastructure()
        return json_response(self._views.own_workers())

    async def logs(self, asker: Principal, request: Request) -> Response:
        """Read an instance's log from its worker."""
        record = self._operations.service(asker, request.path_params["service_id"])
        shown = self._views.own_services([record])[0]
        number = request.query_params.get("instance")
        instance = chosen(shown, None if number is None else whole_number(number, "an instance number"))
        if instance.cluster_id is None or not instance.worker_id:
            reason = instance.reason or instance.placement_reason or "it was asked for a moment ago"
            raise Unavailable(f"instance {instance.number} is on no worker yet, so it has no log: {reason}")
        arguments = {
            **named(shown, instance),
            "tail_bytes": _tail(request.query_params.get("tail")),
            "follow": truth(request, "follow"),
        }
        pieces = self._call_worker(instance.cluster_id, instance.worker_id, "logs", arguments)
        first = await anext(pieces, b"")  # what is refused at once is refused with a status code
        return streamed(with_end(first, pieces, _broken_off))


def _broken_off(error: OakestraError) -> bytes:
    return f"\n[the log ends here: {error}]\n".encode()


def named(service: api.Service, instance: api.Instance) -> Mapping[str, Any]:
    """Return what tells a worker which instance is meant: the attempt that is shown, whatever others are there, too."""
    return {
        "service": service.id,
        "slot": instance.number,
        "placement": instance.placement,
        "attempt": instance.attempt,
    }


def chosen(service: api.Service, number: int | None) -> api.Instance:
    """Return the instance with this number, or the first that is on a worker. Raises `NotFound`."""
    if number is None:
        wanted = [instance for instance in service.instances if instance.wanted]
        placed = [instance for instance in wanted if instance.worker_id] or wanted
        if not placed:
            raise NotFound(f"{service.name} has no instances; `oak service deploy` starts one")
        return placed[0]
    for instance in service.instances:
        if instance.number == number:
            return instance
    raise NotFound(f"{service.name} has no instance {number}")


def _tail(text: str | None) -> int:
    if text is None:
        return TAIL_BYTES
    tail = whole_number(text, "a number of bytes")
    if not 0 <= tail <= TAIL_BYTES_MAX:
        raise Invalid(f"expected a number of bytes up to {TAIL_BYTES_MAX}, found {tail}")
    return tail


def truth(request: Request, name: str) -> bool:
    """Return what a parameter after the question mark says. Raises `Invalid` naming it if it is neither yes nor no."""
    text = request.query_params.get(name, "")
    word = text.lower()
    if word not in _TRUE and word not in _FALSE:
        raise Invalid(f"{name}: expected true or false, found {text[:40]!r}")
    return word in _TRUE
