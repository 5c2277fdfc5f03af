"""Describe endpoints as an OpenAPI 3.0 document, and show it as a page."""

from __future__ import annotations

import re
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec

from oakestra.transport.http_server import Endpoint, Schema

_OPENAPI = "3.0.2"
_BEARER = "bearerAuth"
_COMPONENTS = "#/components/schemas/"
_JSON_KINDS: dict[type, str] = {str: "string", int: "integer", bool: "boolean"}
_REFUSED = "Refused; `message` says why and what to do."


def openapi_document(
    endpoints: Sequence[Endpoint], *, title: str, version: str, error: type
) -> dict[str, Any]:
    """Return the document; `error` is the type of every error's body."""
    named = {body.name: body.schema for body in (endpoint.body for endpoint in endpoints) if _named(body)}
    kinds = [
        kind
        for endpoint in endpoints
        for kind in (endpoint.body, endpoint.reply)
        if kind is not None and not _named(kind)
    ]
    schemas, components = msgspec.json.schema_components(
        [*kinds, error], ref_template=f"{_COMPONENTS}{{name}}"
    )
    remaining = iter(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        body = {"$ref": f"{_COMPONENTS}{endpoint.body.name}"} if _named(endpoint.body) else None
        if endpoint.body is not None and body is None:
            body = next(remaining)
        reply = next(remaining) if endpoint.reply is not None else {}
        operation = _operation(endpoint, body=body, reply=reply, error=schemas[-1])
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    document = {
        "openapi": _OPENAPI,
        "info": {"title": title, "version": version},
        "tags": [{"name": tag} for tag in dict.fromkeys(endpoint.tag for endpoint in endpoints)],
        "paths": paths,
        "components": {
            "schemas": {**components, **named},
            "securitySchemes": {_BEARER: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }
    converted: dict[str, Any] = _as_3_0(document)
    return converted


def _named(kind: Any) -> bool:
    return isinstance(kind, Schema)


def _operation(
    endpoint: Endpoint, *, body: dict[str, Any] | None, reply: dict[str, Any], error: dict[str, Any]
) -> dict[str, Any]:
    refusal = {"description": _REFUSED, "content": {"application/json": {"schema": error}}}
    operation: dict[str, Any] = {
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "operationId": _operation_id(endpoint),
        "responses": {"default": refusal},
    }
    if endpoint.status < HTTPStatus.BAD_REQUEST:
        content = {endpoint.media: {"schema": _answer(endpoint, reply)}}
        operation["responses"] = {
            str(int(endpoint.status)): {"description": "Done.", "content": content},
            "default": refusal,
        }
    if endpoint.details:
        operation["description"] = endpoint.details
    parameters = [
        *(
            _parameter(name, "path", kind=int if name in endpoint.integers else str)
            for name in re.findall(r"\{(\w+)\}", endpoint.path)
        ),
        *(_parameter(query.name, "query", about=query.about, kind=query.kind) for query in endpoint.query),
    ]
    if parameters:
        operation["parameters"] = parameters
    if body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": body}}}
    if endpoint.secured:
        operation["security"] = [{_BEARER: []}]
    return operation


def _answer(endpoint: Endpoint, reply: dict[str, Any]) -> dict[str, Any]:
    if endpoint.media != "application/json":
        return {"type": "string"}
    if endpoint.doubled:
        # OpenAPI 3.0 cannot say what a string holds; these are the names that newer schemas have for it
        return {"type": "string", "x-contentMediaType": "application/json", "x-contentSchema": reply}
    return reply


def _operation_id(endpoint: Endpoint) -> str:
    words = re.findall(r"\w+", endpoint.path)
    return "_".join((endpoint.method.lower(), *words))


def _parameter(name: str, where: str, *, about: str = "", kind: type = str) -> dict[str, Any]:
    parameter: dict[str, Any] = {"name": name, "in": where, "schema": {"type": _JSON_KINDS[kind]}}
    if where == "path":
        parameter["required"] = True
    if about:
        parameter["description"] = about
    return parameter


def _as_3_0(value: Any) -> Any:
    """Say "or null" as OpenAPI 3.0 does, with `nullable`, as it has no type of null; and leave out empty lists of
    what is required, which it forbids."""
    if isinstance(value, list):
        return [_as_3_0(member) for member in value]
    if not isinstance(value, dict):
        return value
    converted = {
        key: _as_3_0(member) for key, member in value.items() if not (key == "required" and member == [])
    }
    options = converted.get("anyOf")
    if isinstance(options, list) and {"type": "null"} in options:
        real = [option for option in options if option != {"type": "null"}]
        del converted["anyOf"]
        converted["nullable"] = True
        if len(real) == 1 and "$ref" not in real[0]:
            converted |= real[0]
        else:
            converted["allOf" if len(real) == 1 else "anyOf"] = real
    return converted
