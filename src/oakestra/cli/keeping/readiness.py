"""Tell whether a tier of this machine is well, by asking it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import Any

from oakestra.cli import tiers
from oakestra.model.errors import OakestraError
from oakestra.transport import local, tcp

ANSWER_WITHIN_S = 3.0


@dataclass(frozen=True, slots=True)
class Check:
    """Something that can be asked."""

    tier: str
    what: str
    """In words: what is well, once there is no trouble."""
    trouble: Callable[[], str]
    """Returns what is wrong now; empty when all is well."""


def environment() -> Mapping[str, str]:
    """Return the environment of this command."""
    return dict(os.environ)  # noqa: TID251 - what the tiers are started with


def check(tier: str, flags: Mapping[str, Any]) -> Check:
    """Return how to ask this tier."""
    settings = tiers.read_configuration(tier, flags)
    if tier == "root":
        url = f"http://{tcp.reachable(settings.listen)}:{settings.api_port}"
        return Check(tier, f"root answers at {url}", lambda: _root(settings))
    if tier == "cluster":
        return Check(tier, f"cluster {settings.name} is connected to root", lambda: _cluster(settings))
    return Check(tier, f"worker {settings.name} is connected to its cluster", lambda: _worker(settings))


def _root(settings: Any) -> str:
    answer = _ask(tcp.reachable(settings.listen), settings.api_port)
    return answer if isinstance(answer, str) else ""


def _cluster(settings: Any) -> str:
    answer = _ask(tcp.reachable(settings.listen), settings.api_port)
    if isinstance(answer, str):
        return answer
    if answer.get("name") != settings.name:
        return f"another cluster, {answer.get('name')}, answers on port {settings.api_port}"
    return "" if answer.get("root_connected") else f"it is not connected to root at {settings.root}"


def _worker(settings: Any) -> str:
    try:
        answer = next(local.call(settings.socket, "status", {}, timeout_s=ANSWER_WITHIN_S))
    except OakestraError as error:
        return str(error)
    return "" if answer.get("connected") else f"it is not connected to its cluster at {settings.cluster}"


def _ask(host: str, port: int) -> dict[str, Any] | str:
    """Return a tier's status, or why there is none."""
    connection = HTTPConnection(host, port, timeout=ANSWER_WITHIN_S)
    try:
        connection.request("GET", "/status")
        return dict(json.loads(connection.getresponse().read()))
    except (OSError, HTTPException, ValueError) as error:
        return f"nobody answers on {host} port {port} ({error})"
    finally:
        connection.close()
