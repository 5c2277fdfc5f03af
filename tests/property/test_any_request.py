"""Whatever is sent to any route, by somebody who may do everything or by nobody, the answer is one that is described,
and never that we broke."""

from __future__ import annotations

import asyncio
import re
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asgi import AsgiClient
from described import DescribedClient, Description
from oakestra.transport.http_server import Endpoint
from root_api import start_api
from sla_samples import sla

KEYS = (
    "username", "password", "organization_name", "name", "email", "roles", "created_at", "member", "user_id",
    "oldPassword", "newPassword", "application_name", "application_namespace", "application_desc", "instances",
    "sla_version", "customerID", "applications", "microservices",
)  # fmt: skip
words = st.sampled_from(
    ["Admin", "root", "v2.0", "shop", "a" * 24, "0", "-1", "", "é", "%00", "true", "\x1b[2J"]
)
ENDING = st.sampled_from(["false", "perhaps", ""])
"""What is followed never ends, as it should not."""
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | words,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
)


@st.composite
def requests(draw: st.DrawFn, endpoints: list[Endpoint]) -> tuple[str, str, Any, bytes | None]:
    endpoint = draw(st.sampled_from(endpoints))
    path = re.sub(r"\{\w+\}", lambda _: draw(words) or "x", endpoint.path)
    names = [query.name for query in endpoint.query]
    query = {name: draw(ENDING if name == "follow" else words) for name in names if draw(st.booleans())}
    text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
    raw = draw(st.none() | st.binary(max_size=20))
    return endpoint.method, f"{path.replace('#', '').replace('?', '')}?{text}", draw(values), raw


@settings(max_examples=25)
@given(st.data())
def test_no_request_breaks_anything(data: st.DataObject) -> None:
    async def story() -> None:
        with tempfile.TemporaryDirectory() as directory:
            api = await start_api(Path(directory))
            description = Description((await api.client.get("/docs/openapi.json")).json())
            nobody = DescribedClient(api.client, description)
            admin = DescribedClient(await api.admin(), description)
            await admin.post("/api/application/", sla())
            await _several(data, api.endpoints, nobody, admin)

    asyncio.run(story())


async def _several(
    data: st.DataObject, endpoints: list[Endpoint], nobody: AsgiClient, admin: AsgiClient
) -> None:
    for _ in range(20):
        method, url, body, raw = data.draw(requests(endpoints))
        for client in (nobody, admin):
            reply = await client.call(method, url, body, raw=raw)
            if reply.status == 500:
                pytest.fail(f"{method} {url} {body!r} {raw!r}")
