"""Routes about clusters, and the original's callbacks, through which nobody is let in."""

from __future__ import annotations

from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Forbidden
from oakestra.root.api.gate import Gate
from oakestra.root.api.views import Views
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import Answer, Endpoint, json_response
from oakestra.wire.documents import ClusterDocument

_OFF = "Switched off: the original has no way to tell who calls here."


class ClustersApi:
    """Answers what clusters there are; if `public`, also to who is not logged in, as the original does."""

    def __init__(self, views: Views, gate: Gate, *, public: bool) -> None:
        self._views = views
        self._gate = gate
        self._public = public

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [
            Endpoint(
                method="GET", path="/api/clusters/", answer=self._listing(active_only=False),
                tag="Clusters", summary="List clusters", secured=not self._public,
                reply=list[ClusterDocument],
            ),
            Endpoint(
                method="GET", path="/api/clusters/active", answer=self._listing(active_only=True),
                tag="Clusters", summary="List clusters heard of lately", secured=not self._public,
                reply=list[ClusterDocument],
            ),
            Endpoint(
                method="POST", path="/api/result/deploy", answer=self.refuse, tag="Scheduling",
                summary="Take a scheduler's result", details=_OFF, secured=False,
                status=HTTPStatus.FORBIDDEN,
            ),
            Endpoint(
                method="POST", path="/api/information/{cluster_id}", answer=self.refuse, tag="Clusterinfo",
                summary="Take a cluster's report", details=_OFF, secured=False,
                status=HTTPStatus.FORBIDDEN,
            ),
        ]  # fmt: skip

    def _listing(self, *, active_only: bool) -> Answer:
        async def everybody(request: Request) -> Response:
            del request
            return json_response(self._views.clusters(active_only=active_only))

        async def members(asker: Principal, request: Request) -> Response:
            del asker
            return await everybody(request)

        return everybody if self._public else self._gate.services(members)

    async def refuse(self, request: Request) -> Response:
        """Say why nothing is taken here."""
        del request
        raise Forbidden(
            "calls of original clusters and schedulers are switched off, as they cannot prove who they are; "
            "clusters of this version report through their own connection"
        )
