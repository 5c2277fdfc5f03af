"""Rules for objects of an SLA in which every key counts: a misspelt one is a mistake, as nobody would notice it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from oakestra.wire.checks import Check, Mistakes, Rule, both, fields, schema_of, whole


def closed(
    known: Mapping[str, Check],
    *,
    required: tuple[str, ...] = (),
    called_here: Mapping[str, str] | None = None,
) -> Rule:
    """An object without other keys; `called_here` maps names that other systems have to ours."""
    inner = fields(known, required=required)
    ours = called_here or {}

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        inner(path, value, mistakes)
        if isinstance(value, dict):
            for key in sorted(value.keys() - known.keys()):
                name = ours.get(key)
                if name in known:
                    mistakes.add(f"{path}.{key}", f"is called {name!r} here")
                else:
                    mistakes.add(f"{path}.{key}", f"is unknown; there are {', '.join(known)}")

    return Rule(check, {**schema_of(inner), "additionalProperties": False})


def seconds(bounds: tuple[float, float]) -> Rule:
    """A number of seconds, both bounds included."""
    least, most = bounds

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most
        if not fits:
            mistakes.expected(path, f"a number of seconds from {least} to {most}", value)

    return Rule(check, {"type": "number", "minimum": least, "maximum": most})


def between(least: int, most: int) -> Rule:
    """A whole number, both bounds included."""

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        if not least <= value <= most:
            mistakes.expected(path, f"a whole number from {least} to {most}", value)

    return both(whole, Rule(check, {"minimum": least, "maximum": most}))
