"""Call an ASGI application in this process, without sockets."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import msgspec
from starlette.types import ASGIApp, Message


@dataclass(frozen=True)
class Reply:
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    def doubled(self) -> Any:
        """The value of a body that must be parsed twice."""
        text = self.json()
        assert isinstance(text, str), f"not doubled: {self.body!r}"
        return msgspec.json.decode(text)


class AsgiClient:
    """Sends requests; `token` becomes the bearer of every one."""

    def __init__(self, app: ASGIApp, *, token: str | None = None) -> None:
        self._app = app
        self.token = token

    def as_(self, token: str | None) -> AsgiClient:
        return AsgiClient(self._app, token=token)

    async def call(
        self,
        method: str,
        url: str,
        body: Any = None,
        *,
        raw: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        sent = raw if raw is not None else (b"" if body is None else msgspec.json.encode(body))
        parts = urlsplit(url)
        lines = {"host": "root.test", **(headers or {})}
        if self.token is not None:
            lines["authorization"] = f"Bearer {self.token}"
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": parts.path,
            "raw_path": parts.path.encode(),
            "query_string": parts.query.encode(),
            "root_path": "",
            "headers": [(name.lower().encode(), value.encode()) for name, value in lines.items()],
            "client": ("192.0.2.1", 12345),
            "server": ("192.0.2.2", 10000),
        }
        return await self._exchange(scope, sent)

    async def _exchange(self, scope: dict[str, Any], sent: bytes) -> Reply:
        waiting: list[Message] = [{"type": "http.request", "body": sent, "more_body": False}]
        received: list[Message] = []
        gone = asyncio.Event()

        async def receive() -> Message:
            if waiting:
                return waiting.pop(0)
            await gone.wait()
            return {"type": "http.disconnect"}

        async def send(message: Message) -> None:
            received.append(message)

        try:
            await self._app(scope, receive, send)
        finally:
            gone.set()
        start = received[0]
        return Reply(
            status=start["status"],
            headers={name.decode(): value.decode() for name, value in start["headers"]},
            body=b"".join(message.get("body", b"") for message in received[1:]),
        )

    async def get(self, url: str) -> Reply:
        return await self.call("GET", url)

    async def post(self, url: str, body: Any = None) -> Reply:
        return await self.call("POST", url, body)

    async def put(self, url: str, body: Any = None) -> Reply:
        return await self.call("PUT", url, body)

    async def delete(self, url: str) -> Reply:
        return await self.call("DELETE", url)
