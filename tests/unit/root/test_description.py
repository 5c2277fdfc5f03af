"""The OpenAPI document describes every route, and nothing that is not there."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openapi_spec_validator
import pytest

from oakestra.transport.http_server import Endpoint
from root_api import RootApi, start_api

REFERENCE = Path(__file__).parents[3] / "docs" / "reference" / "rest.md"

# The original's routes, as its own document lists them.
ORIGINAL = """
POST /api/auth/login            POST /api/auth/register          POST /api/auth/refresh
GET /api/permission/{}          GET /api/users/                  GET /api/users/{}
GET /api/user/{}                PUT /api/user/{}                 DELETE /api/user/{}
POST /api/user/{}               POST /api/user/                  PUT /api/user/
GET /api/organization/          POST /api/organization/          PUT /api/organization/{}
DELETE /api/organization/{}     GET /api/applications/           GET /api/applications/{}
POST /api/application/          GET /api/application/{}          PUT /api/application/{}
DELETE /api/application/{}      GET /api/services/               GET /api/services/{}
POST /api/service/              GET /api/service/{}              PUT /api/service/{}
DELETE /api/service/{}          POST /api/service/{}/instance    DELETE /api/service/{}/instance/{}
GET /api/clusters/              GET /api/clusters/active         POST /api/result/deploy
POST /api/information/{}        GET /docs/openapi.json
"""


@pytest.fixture
def api(tmp_path: Path) -> RootApi:
    return asyncio.run(start_api(tmp_path))


def document(api: RootApi) -> dict[str, Any]:
    reply = asyncio.run(api.client.get("/docs/openapi.json"))
    assert reply.status == 200
    parsed: dict[str, Any] = reply.json()
    return parsed


def routes(found: dict[str, Any]) -> set[tuple[str, str]]:
    return {(method.upper(), path) for path, methods in found["paths"].items() for method in methods}


def test_every_route_is_described_and_every_description_has_a_route(api: RootApi) -> None:
    assert routes(document(api)) == {(endpoint.method, endpoint.path) for endpoint in api.endpoints}


def test_every_route_is_in_the_reference(api: RootApi) -> None:
    """A row a route, as it is here; a new route needs a row in docs/reference/rest.md."""
    rows = [line for line in REFERENCE.read_text().splitlines() if re.match(r"\| [A-Z]+ \| `/", line)]
    assert rows == [row(endpoint) for endpoint in api.endpoints]


def row(endpoint: Endpoint) -> str:
    marks = [
        ("doubled", endpoint.doubled),
        ("no login", not endpoint.secured),
        ("only refuses", endpoint.status >= 400),
    ]
    notes = ", ".join(word for word, there in marks if there)
    return f"| {endpoint.method} | `{endpoint.path}` | {endpoint.summary} |{f' {notes}' if notes else ''} |"


def test_no_route_of_the_original_is_missing(api: RootApi) -> None:
    nameless = {(method, re.sub(r"\{\w+\}", "{}", path)) for method, path in routes(document(api))}
    wanted = set(re.findall(r"(\w+) (/\S+)", ORIGINAL))
    assert wanted <= nameless


def test_described_routes_answer(api: RootApi) -> None:
    """Nobody is logged in, so most refuse; none may be missing or break."""
    for method, path in routes(document(api)):
        reply = asyncio.run(api.client.call(method, re.sub(r"\{\w+\}", "0", path)))
        assert reply.status not in (405, 500), (method, path)
        assert reply.status != 404 or reply.json()["message"] != f"there is nothing at {path}"


def test_what_needs_a_login_says_so(api: RootApi) -> None:
    found = document(api)
    for endpoint in api.endpoints:
        described = found["paths"][endpoint.path][endpoint.method.lower()]
        reply = asyncio.run(api.client.call(endpoint.method, re.sub(r"\{\w+\}", "0", endpoint.path)))
        assert ("security" in described) == (reply.status in (401, 422)), (endpoint.method, endpoint.path)


def test_the_document_is_openapi_3_0(api: RootApi) -> None:
    found = document(api)
    openapi_spec_validator.validate(found)
    assert found["openapi"] == "3.0.2"
    assert found["info"] == {"title": "Oakestra root api", "version": "v1"}
    references = {value for key, value in walk(found) if key == "$ref"}
    names = {reference.removeprefix("#/components/schemas/") for reference in references}
    assert names <= set(found["components"]["schemas"])
    assert ("type", "null") not in list(walk(found)), "3.0 has no type of null"
    assert not any(key in ("prefixItems", "const") for key, _ in walk(found)), "nor these"
    ids = [operation["operationId"] for methods in found["paths"].values() for operation in methods.values()]
    assert len(set(ids)) == len(ids)


def walk(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, inner in value.items():
            if not isinstance(inner, dict | list):
                yield key, inner
            yield from walk(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from walk(inner)


def test_the_page_and_its_files(api: RootApi) -> None:
    page = asyncio.run(api.client.get("/api/docs"))
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    assert "<title>Oakestra root orchestrator</title>" in page.body.decode()
    linked = re.findall(r'(?:src|href)="(/[^"]+)"', page.body.decode())
    assert len(linked) == 3
    for path in linked:
        assert asyncio.run(api.client.get(path)).status == 200
    assert asyncio.run(api.client.get("/api/docs/../api.py")).status == 404
