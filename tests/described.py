"""Hold what an API answers against what its OpenAPI document says."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema
import msgspec

from asgi import AsgiClient, Reply


@dataclass
class Description:
    """An OpenAPI 3.0 document, and which of its operations were seen to do what they say."""

    document: Mapping[str, Any]
    done: set[tuple[str, str]] = field(default_factory=set)

    def operations(self) -> set[tuple[str, str]]:
        """Return (method, path) of every operation that does not only refuse."""
        return {
            (method.upper(), path)
            for path, methods in self.document["paths"].items()
            for method, operation in methods.items()
            if "200" in operation["responses"]
        }

    def check(self, method: str, url: str, reply: Reply) -> None:
        """Fail if the reply is not one that is described."""
        path, operation = self._operation(method, url.partition("?")[0])
        described = operation["responses"].get(str(reply.status), operation["responses"]["default"])
        ((media, content),) = described["content"].items()
        assert reply.headers["content-type"].partition(";")[0] == media, (method, path)
        if media == "application/json":
            self._check_value(reply.json(), content["schema"], place=f"{method} {path} → {reply.status}")
        if reply.status == 200:
            self.done.add((method, path))

    def validate(self, value: object, schema: Mapping[str, Any]) -> None:
        """Raise `jsonschema.ValidationError` if the value is not what a schema of this document says."""
        rooted = {**_plain(schema), "components": _plain(self.document["components"])}
        jsonschema.validate(value, rooted, cls=jsonschema.Draft202012Validator)

    def _check_value(self, value: object, schema: Mapping[str, Any], *, place: str) -> None:
        try:
            self.validate(value, schema)
            if "x-contentSchema" in schema:
                assert isinstance(value, str)
                self.validate(msgspec.json.decode(value), schema["x-contentSchema"])
        except jsonschema.ValidationError as error:
            raise AssertionError(f"{place}: {error.json_path}: {error.message}") from error

    def _operation(self, method: str, called: str) -> tuple[str, Mapping[str, Any]]:
        """Return the operation that is called; a path without parameters goes before one with."""
        paths = sorted(self.document["paths"], key=lambda path: path.count("{"))
        for path in paths:
            pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(path.rstrip("/")))
            if re.fullmatch(f"{pattern}/?", called) and method.lower() in self.document["paths"][path]:
                return path, self.document["paths"][path][method.lower()]
        raise AssertionError(f"{method} {called} is not described")


class DescribedClient(AsgiClient):
    """Checks every reply against the description."""

    def __init__(self, client: AsgiClient, description: Description) -> None:
        super().__init__(client._app, token=client.token)
        self.description = description

    async def call(self, method: str, url: str, body: Any = None, **keys: Any) -> Reply:
        reply = await super().call(method, url, body, **keys)
        self.description.check(method, url, reply)
        return reply


def _plain(value: Any) -> Any:
    """Say as JSON schemas do what OpenAPI 3.0 says with `nullable`."""
    if isinstance(value, list):
        return [_plain(member) for member in value]
    if not isinstance(value, dict):
        return value
    plain = {key: _plain(member) for key, member in value.items() if key != "nullable"}
    return {"anyOf": [plain, {"type": "null"}]} if value.get("nullable") is True else plain
