"""What workers and people may ask of a cluster over HTTP: to join, and how it is."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from oakestra import __version__
from oakestra.cluster.tier import Cluster
from oakestra.transport.http_server import Endpoint, json_response, read_body
from oakestra.wire.native import JoinWorker, decode, encode

JOIN_PATH = "/api/v1/workers"


class ClusterApi:
    """Answers on port 10100."""

    def __init__(self, cluster: Cluster, *, name: str) -> None:
        self._cluster = cluster
        self._name = name

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [
            Endpoint(
                method="POST", path=JOIN_PATH, answer=self.join, tag="Workers", secured=False,
                summary="Join as a worker", media="application/msgpack",
            ),
            Endpoint(
                method="GET", path="/status", answer=self.status, tag="Cluster", secured=False,
                summary="Tell whether the cluster is up",
            ),
        ]  # fmt: skip

    async def join(self, request: Request) -> Response:
        """Take a worker in."""
        wanted = decode(await read_body(request), JoinWorker)
        peer = request.client.host if request.client else ""
        joined = await self._cluster.join(wanted, peer=peer)
        return Response(encode(joined), media_type="application/msgpack")

    async def status(self, request: Request) -> Response:
        """Tell how the cluster is."""
        del request
        return json_response(
            {
                "version": __version__,
                "status": "ok",
                "name": self._name,
                "id": self._cluster.id,
                "root_connected": self._cluster.root_connected,
                "workers": len(self._cluster.state.workers),
            }
        )
