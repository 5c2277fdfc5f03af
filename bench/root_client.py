"""Ask a root as a bench does: one connection, one login, no ceremony."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

POLL_S = 0.005
WAIT_S = 120.0


@dataclass
class Root:
    """A logged-in client of root's API that keeps its connection."""

    host: str
    port: int
    password: str
    _token: str = ""
    _connection: http.client.HTTPConnection = field(init=False)

    def __post_init__(self) -> None:
        self._connection = http.client.HTTPConnection(self.host, self.port, timeout=30)
        who = {"username": "Admin", "password": self.password}
        self._token = self.call("POST", "/api/auth/login", who)["token"]

    def call(self, method: str, path: str, body: object = None) -> Any:
        headers = {"Authorization": f"Bearer {self._token}", "Content-Type": "application/json"}
        content = json.dumps(body) if body is not None else None
        self._connection.request(method, path, content, headers)
        try:
            answer = self._connection.getresponse()
        except http.client.RemoteDisconnected:  # root closes a connection that nobody used for a while
            if method != "GET":
                raise
            self._connection.close()
            self._connection.request(method, path, content, headers)
            answer = self._connection.getresponse()
        content = answer.read()
        if answer.status >= 400:
            raise SystemExit(f"{method} {path}: {answer.status} {content[:300].decode()}")
        return json.loads(content) if content else None

    def create(self, document: object) -> dict[str, Any]:
        """Create the applications of an SLA; return the last."""
        answer = self.call("POST", "/api/application/", document)
        return dict(json.loads(answer)[-1])  # the original's way: JSON in JSON

    def instances(self, service: str) -> list[dict[str, Any]]:
        return list(self.call("GET", f"/api/v1/services/{service}")["instances"])

    def deploy(self, service: str, count: int) -> None:
        """Ask for so many instances, one POST each."""
        for _ in range(count):
            self.call("POST", f"/api/service/{service}/instance")


def sleeper(name: str, **keys: object) -> dict[str, Any]:
    """Return an SLA of one service that needs nearly nothing."""
    service = {
        "microservice_name": "sleep", "microservice_namespace": "b", "virtualization": "container",
        "code": "docker.io/oakestra/example:1", "cmd": ["/bin/sleep", "100000"], "memory": 8, "vcpus": 0, **keys,
    }  # fmt: skip
    application = {"application_name": name, "application_namespace": "b", "microservices": [service]}
    return {"sla_version": "v2.0", "customerID": "Admin", "applications": [application]}


def until(seen: Callable[[], bool], what: str, *, poll_s: float = POLL_S) -> float:
    """Return how long it took until `seen`."""
    begun_s = time.monotonic()
    while not seen():
        if time.monotonic() - begun_s > WAIT_S:
            raise SystemExit(f"{what}: not within {WAIT_S:.0f} s")
        time.sleep(poll_s)
    return time.monotonic() - begun_s
