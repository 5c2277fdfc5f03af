"""Routes for whoever keeps a fleet and its services up to date: take machines out, change services, go back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import NotFound, Unavailable
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.root.api.gate import Gate
from oakestra.root.api.reach import Reach, workers_of
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.state import RootState
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import Endpoint, Schema, json_response, read_json
from oakestra.wire import api
from oakestra.wire.sla import SERVICE_CHANGE_SCHEMA

_CHANGE = Schema(name="ServiceChange", schema=SERVICE_CHANGE_SCHEMA)
NOBODY = WorkerId("")
"""A call that names no worker is for the cluster itself."""


class UpkeepApi:
    """Answers what operators ask."""

    def __init__(
        self, state: RootState, operations: Operations, views: Views, gate: Gate, reach: Reach
    ) -> None:
        self._state = state
        self._operations = operations
        self._views = views
        self._gate = gate
        self._reach = reach

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        own = self._gate.own
        return [
            Endpoint(
                method="PUT", path="/api/v1/services/{service_id}", answer=own(self.update), tag="oak",
                summary="Change a service: make a new revision",
                details="The keys of its SLA that are to be other than they are; the rest stays.",
                body=_CHANGE, reply=api.Service,
            ),
            Endpoint(
                method="POST", path="/api/v1/services/{service_id}/rollback", answer=own(self.roll_back),
                tag="oak", summary="Go back to the revision before", reply=api.Service,
            ),
            Endpoint(
                method="PUT", path="/api/v1/workers/{worker_id}/availability", answer=own(self.set_worker),
                tag="oak", summary="Let a worker take instances, no new ones, or none at all",
                body=api.Availability, reply=api.Changed,
            ),
            Endpoint(
                method="DELETE", path="/api/v1/workers/{worker_id}", answer=own(self.remove_worker),
                tag="oak", summary="Forget a worker that is lost or has nothing", reply=api.Changed,
            ),
            Endpoint(
                method="PUT", path="/api/v1/clusters/{cluster_id}/availability", answer=own(self.set_cluster),
                tag="oak", summary="Let a cluster take instances, no new ones, or none at all",
                body=api.Availability, reply=api.Changed,
            ),
            Endpoint(
                method="DELETE", path="/api/v1/clusters/{cluster_id}", answer=own(self.remove_cluster),
                tag="oak", summary="Forget a cluster that is lost or has nothing", reply=api.Changed,
            ),
        ]  # fmt: skip

    async def update(self, asker: Principal, request: Request) -> Response:
        """Change a service."""
        change: dict[str, Any] = await read_json(request, dict[str, Any])
        record = await self._operations.update_service(asker, request.path_params["service_id"], change)
        return json_response(self._views.own_services([record])[0])

    async def roll_back(self, asker: Principal, request: Request) -> Response:
        """Go back to the revision before."""
        record = await self._operations.roll_back_service(asker, request.path_params["service_id"])
        return json_response(self._views.own_services([record])[0])

    async def set_worker(self, asker: Principal, request: Request) -> Response:
        """Let a worker take instances, no new ones, or none at all."""
        wanted: api.Availability = await read_json(request, api.Availability)
        arguments = {"availability": wanted.availability}
        return await self._of_worker(asker, request, "availability", arguments)

    async def remove_worker(self, asker: Principal, request: Request) -> Response:
        """Forget a worker."""
        return await self._of_worker(asker, request, "remove", {})

    async def _of_worker(
        self, asker: Principal, request: Request, method: str, arguments: Mapping[str, Any]
    ) -> Response:
        asker.must_keep_infrastructure()
        worker = WorkerId(request.path_params["worker_id"])
        cluster, name = self._found(worker)
        refusal = self._reach.refusal(cluster)
        if refusal:
            raise Unavailable(
                f"nothing was recorded about worker {name}: its cluster keeps what becomes of it, and {refusal}; "
                "ask again when it is back, or take out the whole cluster, which root keeps: oak cluster drain"
            )
        pieces = self._reach.call(cluster, NOBODY, method, {"worker": worker, "by": asker.name, **arguments})
        answer = b"".join([piece async for piece in pieces])
        return json_response(msgspec.json.decode(answer, type=api.Changed))

    def _found(self, worker: WorkerId) -> tuple[ClusterId, str]:
        """Return whose worker it is, and its name."""
        for cluster in self._state.clusters.values():
            for known in workers_of(self._state, cluster.id):
                if known.id == worker:
                    return cluster.id, known.name
        raise NotFound(f"there is no worker {worker!r}; `oak worker ls` shows what there is")

    async def set_cluster(self, asker: Principal, request: Request) -> Response:
        """Let a cluster take instances, no new ones, or none at all."""
        asker.must_keep_infrastructure()
        wanted: api.Availability = await read_json(request, api.Availability)
        record = await self._operations.set_cluster(
            asker, request.path_params["cluster_id"], wanted.availability
        )
        return json_response(api.Changed(name=record.name, availability=record.availability.value))

    async def remove_cluster(self, asker: Principal, request: Request) -> Response:
        """Forget a cluster."""
        asker.must_keep_infrastructure()
        record = await self._operations.remove_cluster(asker, request.path_params["cluster_id"])
        return json_response(api.Changed(name=record.name, removed=True))
