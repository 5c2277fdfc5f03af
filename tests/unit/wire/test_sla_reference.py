"""`docs/reference/sla.md` and `wire/sla.py` say the same."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any, NamedTuple

from oakestra.model.service import HealthCheck
from oakestra.wire.sla import SLA_SCHEMA, parse_sla

PAGE = (Path(__file__).parents[3] / "docs/reference/sla.md").read_text()
TYPES = {
    "string": "text",
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "object",
}


class Key(NamedTuple):
    """A key as page or schema know it."""

    kind: str
    required: bool


def documented(*headings: str) -> dict[str, list[str]]:
    """Return the rows of the tables below these headings, by key."""
    rows: dict[str, list[str]] = {}
    for section in re.split(r"^#+ ", PAGE, flags=re.MULTILINE):
        if section.partition("\n")[0] in headings:
            for line in section.splitlines():
                cells = [cell.strip() for cell in line.strip("|").split("|")]
                if cells[0].startswith("`"):
                    assert cells[0] not in rows, f"{cells[0]} is there twice"
                    rows[cells[0].strip("`")] = cells[1:]
    return rows


def described(
    schema: Mapping[str, Any], within: str = "", *, only: bool = False
) -> Iterator[tuple[str, Key]]:
    """Yield every key below an object's schema; `only`: its own."""
    for name, found in schema.get("properties", {}).items():
        if found == {"not": {}}:
            continue  # said to be called otherwise
        listed = found.get("type") == "array"
        inner = found.get("items", {}) if listed else found
        objects = listed and inner.get("type") == "object"
        path = f"{within}{name}{'[]' if objects else ''}"
        yield path, Key(_kind(found, inner, listed=listed), name in schema.get("required", ()))
        if not only and inner.get("type") == "object":
            yield from described(inner, f"{path}.")


def _kind(found: Mapping[str, Any], inner: Mapping[str, Any], *, listed: bool) -> str:
    if "anyOf" in found:
        return "number or `never`"
    if not listed:
        return TYPES[found["type"]]
    return "list of objects" if inner["type"] == "object" else "list of texts"


def test_the_page_has_every_key_with_its_type() -> None:
    application = SLA_SCHEMA["properties"]["applications"]["items"]
    service = application["properties"]["microservices"]["items"]
    parts = [
        (documented("The document"), dict(described(SLA_SCHEMA, only=True))),
        (documented("An application"), dict(described(application, only=True))),
        (documented(*_service_headings()), dict(described(service))),
    ]
    for rows, keys in parts:
        assert sorted(rows) == sorted(keys)
        assert {key: Key(row[0], row[1] == "required") for key, row in rows.items()} == keys
        assert all(row[2] for row in rows.values()), "each key has a meaning"


def _service_headings() -> list[str]:
    part = PAGE[PAGE.index("## A microservice") :]
    return re.findall(r"^### (.*)$", part, flags=re.MULTILINE)


def test_the_defaults_of_a_health_check_are_true() -> None:
    rows = documented("The health check")
    for field in fields(HealthCheck):
        if field.default is not MISSING and f"health_check.{field.name}" in rows:
            assert rows[f"health_check.{field.name}"][1] == f"{field.default:g}"
    assert rows["health_check.http.path"][1] == HealthCheck.__dataclass_fields__["path"].default


def test_the_page_shows_a_document_that_is_accepted() -> None:
    (text,) = re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)
    (application,) = parse_sla(json.loads(text)).applications
    assert application.microservices[0].health_check is not None
