"""Read a tier's configuration once: the file, then the environment, then flags; all mistakes told together."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, TypeVar, get_type_hints

import msgspec

from oakestra.model.errors import Invalid


class Configuration(Protocol):
    """A frozen dataclass whose fields are settings."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


C = TypeVar("C", bound=Configuration)
PREFIX = "OAKESTRA_"


def read_file(path: Path) -> Mapping[str, Any]:
    """Return the settings in a TOML file; none if there is no such file. Raises `Invalid` naming the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error


def load(
    kind: type[C], *, file: Path, environment: Mapping[str, str], flags: Mapping[str, Any], tier: str
) -> C:
    """Return the configuration; a later source wins: `file`, `OAKESTRA_<TIER>_<FIELD>`, `flags` that are not None.

    Raises `Invalid` listing every setting that is unknown, missing or of the wrong type.
    """
    hints = get_type_hints(kind)
    mistakes: list[str] = []
    values: dict[str, Any] = {}
    written = read_file(file)
    mistakes += [f"{file}: there is no setting {name!r}" for name in written if name not in hints]
    for field in fields(kind):
        variable = f"{PREFIX}{tier}_{field.name}".upper()
        found = [
            (f"{file}: {field.name}", written.get(field.name)),
            (variable, _from_text(environment.get(variable), hints[field.name])),
            (f"--{field.name.replace('_', '-')}", flags.get(field.name)),
        ]
        given = [(source, value) for source, value in found if value is not None]
        if not given:
            if field.default is MISSING and field.default_factory is MISSING:
                mistakes.append(
                    f"{field.name} is missing: set it in {file}, as {variable} or on the command line"
                )
            continue
        source, value = given[-1]
        try:
            values[field.name] = msgspec.convert(value, hints[field.name], strict=False)
        except msgspec.ValidationError as error:
            mistakes.append(f"{source}: {error}, found {value!r}")
    if mistakes:
        raise Invalid("the configuration cannot be used:\n  " + "\n  ".join(mistakes))
    return kind(**values)


def _from_text(text: str | None, hint: Any) -> Any:
    """Return what a variable says: lists are separated by commas."""
    if text is None:
        return None
    if getattr(hint, "__origin__", hint) is tuple:
        return [part.strip() for part in text.split(",") if part.strip()]
    return text


def render(configuration: Configuration, *, secret: frozenset[str] = frozenset()) -> str:
    """Return the effective configuration as TOML, secrets hidden."""
    lines: list[str] = []
    for field in fields(configuration):
        value = getattr(configuration, field.name)
        if field.name in secret and value:
            value = "(hidden)"
        shown = msgspec.json.encode(msgspec.to_builtins(value)).decode()
        if value is not None:
            lines.append(f"{field.name} = {shown}")
    return "\n".join(lines) + "\n"
