"""Read `health_check` of an SLA. Unlike elsewhere in an SLA, keys we do not know are mistakes here.

Nobody would notice that a misspelt check is not made. Names that other systems have for the same are answered with ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oakestra.model.service import CheckKind, HealthCheck
from oakestra.wire.checks import (
    Mistakes,
    Rule,
    both,
    described,
    each,
    matching,
    schema_of,
    text,
)
from oakestra.wire.closed import between, closed, seconds

NEVER = "never"
PORT_MAX = 65535
INTERVAL_S = (1, 3600)
TIMEOUT_S = (0.1, 300)
START_PERIOD_S = (0, 3600)
RESTART_AFTER_S = (0, 86400)
THRESHOLD_MAX = 100

_KINDS = (CheckKind.HTTP, CheckKind.TCP, CheckKind.EXEC)
_CALLED_HERE = {
    "command": "exec", "cmd": "exec", "test": "exec", "httpGet": "http", "tcpSocket": "tcp",
    "interval": "interval_s", "periodSeconds": "interval_s", "period_s": "interval_s",
    "timeout": "timeout_s", "timeoutSeconds": "timeout_s",
    "start_period": "start_period_s", "initialDelaySeconds": "start_period_s", "grace": "start_period_s",
    "grace_s": "start_period_s", "grace_period_s": "start_period_s",
    "retries": "unhealthy_threshold", "failureThreshold": "unhealthy_threshold",
    "failures_before_critical": "unhealthy_threshold", "failure_threshold": "unhealthy_threshold",
    "successThreshold": "healthy_threshold", "success_before_passing": "healthy_threshold",
    "success_threshold": "healthy_threshold",
    "restart_after": "restart_after_s", "check_restart": "restart_after_s",
}  # fmt: skip
"""What Compose, Kubernetes and Nomad, or a guess, call the keys."""


def health_check(found: Mapping[str, Any]) -> HealthCheck:
    """Return what a checked `health_check` says."""
    kind = next(kind for kind in _KINDS if kind.value in found)
    of_kind = found[kind.value]
    settings: dict[str, Any] = {
        key: None if found[key] == NEVER else float(found[key])
        for key in ("interval_s", "timeout_s", "start_period_s", "restart_after_s")
        if key in found
    }
    thresholds = {
        key: int(found[key]) for key in ("healthy_threshold", "unhealthy_threshold") if key in found
    }
    return HealthCheck(
        kind=kind,
        port=int(of_kind.get("port", 0)),
        path=of_kind.get("path", "/"),
        command=tuple(of_kind.get("command", ())),
        **settings,
        **thresholds,
    )


# --- rules ---------------------------------------------------------------------------------------------------


def _or_never(path: str, value: Any, mistakes: Mistakes) -> None:
    if isinstance(value, str) and value != NEVER:
        mistakes.expected(path, f"a number of seconds, or {NEVER!r}", value)
    elif not isinstance(value, str):
        _RESTART_SECONDS(path, value, mistakes)


def _names_a_program(path: str, value: Any, mistakes: Mistakes) -> None:
    if not value or not value[0].strip():
        mistakes.expected(path, "a program and its arguments", value)


def _one_kind(path: str, value: Any, mistakes: Mistakes) -> None:
    kinds = [kind.value for kind in _KINDS if kind.value in value]
    if len(kinds) != 1:
        found = f"found {' and '.join(kinds)}" if kinds else "found none"
        mistakes.add(path, f"expected one of 'http', 'tcp' and 'exec', {found}")


_RESTART_SECONDS = seconds(RESTART_AFTER_S)
_PORT = between(1, PORT_MAX)
_PATH = matching(r"/[!-~]{0,1000}", "a path that begins with / and has no spaces in it")
_COMMAND = both(each(text), Rule(_names_a_program, {"minItems": 1}))
_THRESHOLD = between(1, THRESHOLD_MAX)

HEALTH_CHECK = both(
    closed(
        {
            "http": described(
                closed({"port": _PORT, "path": _PATH}, required=("port",)),
                "Passes when a GET request is answered with a status from 200 to 399.",
            ),
            "tcp": described(
                closed({"port": _PORT}, required=("port",)), "Passes when a connection is accepted."
            ),
            "exec": described(
                closed({"command": _COMMAND}, required=("command",)),
                "Passes when this command, run inside, ends with exit code 0.",
            ),
            "interval_s": seconds(INTERVAL_S),
            "timeout_s": seconds(TIMEOUT_S),
            "start_period_s": seconds(START_PERIOD_S),
            "healthy_threshold": _THRESHOLD,
            "unhealthy_threshold": _THRESHOLD,
            "restart_after_s": Rule(
                _or_never, {"anyOf": [schema_of(_RESTART_SECONDS), {"type": "string", "enum": [NEVER]}]}
            ),
        },
        called_here=_CALLED_HERE,
    ),
    _one_kind,
)
