"""An HTTP client that shares no code with ours: sockets, the standard library's JSON, and strict about types."""

from __future__ import annotations

import http.client
import json
from dataclasses import dataclass
from typing import Any


class Fraction(float):
    """A number that was written with a point or an exponent."""


@dataclass(frozen=True)
class Answer:
    """What came over the wire."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        """The body, parsed once, as Go does it: whole numbers and others are told apart."""
        return parsed(self.body)

    @property
    def twice(self) -> Any:
        """The body of an answer that is a string that holds JSON."""
        assert isinstance(self.json, str), self.body
        return parsed(self.json)


def parsed(text: str | bytes) -> Any:
    return json.loads(text, parse_float=Fraction)


@dataclass(frozen=True)
class Client:
    """Speaks HTTP without following anything."""

    root: str
    """Its URL."""
    token: str = ""

    def ask(self, method: str, url: str, body: Any = None, **headers: str) -> Answer:
        connection = http.client.HTTPConnection(self.root.removeprefix("http://"), timeout=60)
        try:
            sent = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
            lines = {name.replace("_", "-"): value for name, value in headers.items()}
            if self.token:
                lines.setdefault("Authorization", f"Bearer {self.token}")
            connection.request(method, url, body=sent, headers=lines)
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def login(self, name: str = "Admin", password: str = "Admin", **more: str) -> Client:
        reply = self.ask("POST", "/api/auth/login", {"username": name, "password": password, **more})
        return Client(self.root, reply.json["token"])


def fits(value: Any, shape: Any, place: str = "$") -> None:
    """Fail at the first place where a value is not of a shape."""
    if isinstance(shape, dict):
        assert isinstance(value, dict), f"{place}: {value!r}"
        for key, inner in shape.items():
            assert key in value, f"{place} has no {key}"
            fits(value[key], inner, f"{place}.{key}")
    elif isinstance(shape, list | tuple):
        assert isinstance(value, list), f"{place}: {value!r}"
        assert isinstance(shape, tuple) or bool(value) == bool(shape), f"{place}: {value!r}"
        for index, member in enumerate(value):
            fits(member, shape[0], f"{place}[{index}]")
    elif isinstance(shape, set):
        assert value in shape, f"{place}: {value!r}"
    elif isinstance(shape, type):
        kinds = {float: (int, Fraction), int: (int,)}.get(shape, (shape,))
        assert type(value) in kinds, f"{place}: expected {shape.__name__}, found {value!r}"
    else:
        assert value == shape, f"{place}: expected {shape!r}, found {value!r}"
