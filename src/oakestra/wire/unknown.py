"""Find what an SLA says that nobody understands: it is kept, has no effect, and is most often misspelt. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from oakestra.wire.sla import SLA_SCHEMA


def unknown_keys(document: object) -> tuple[str, ...]:
    """Return a sentence about every key of an SLA that has no effect, with its place and the one that may be meant."""
    return tuple(_within(SLA_SCHEMA, document, ""))


def _within(schema: Mapping[str, Any], found: object, place: str) -> Iterator[str]:
    known = schema.get("properties")
    if isinstance(found, list):
        for index, one in enumerate(found):
            yield from _within(schema.get("items", {}), one, f"{place}[{index}]")
    elif isinstance(found, dict) and known:
        for key, value in found.items():
            if key in known:
                yield from _within(known[key], value, f"{place}.{key}" if place else key)
            else:
                yield f"{place or 'the SLA'}: no key is called {key!r}, so it has no effect{_meant(key, known)}"


def _meant(key: str, known: Mapping[str, Any]) -> str:
    allowed = [name for name, schema in known.items() if schema != {"not": {}}]
    alike = get_close_matches(key.lower(), allowed, n=1)
    return f"; {alike[0]!r} may be meant" if alike else ""
