"""Rules about JSON values, put together from small checks that report every mistake with its place.

A `Rule` also says the same as a JSON schema, as far as schemas can say it; so documents are described by what
checks them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DEPTH_MAX = 32
"""A document nested deeper is nobody's SLA."""
VALUES_MAX = 50_000
"""A document with more values than this is refused before it is looked at."""
WHOLE_MAX = 1 << 40
"""No machine has a tebi of anything we count."""
SAID_MAX = 60
"""Of a wrong value so many characters are repeated in the message."""

_SURROGATE = re.compile("[\ud800-\udfff]")

Check = Callable[[str, Any, "Mistakes"], None]
"""Looks at the value at a path and notes what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A check that can also be read: its schema lets through whatever the check lets through."""

    check: Check
    schema: Mapping[str, Any]

    def __call__(self, path: str, value: Any, mistakes: Mistakes) -> None:
        """Check."""
        self.check(path, value, mistakes)


def schema_of(check: Check) -> dict[str, Any]:
    """Return what is known about a check: of one that is no `Rule`, nothing."""
    return dict(check.schema) if isinstance(check, Rule) else {}


def described(check: Check, about: str, **schema: Any) -> Rule:
    """The same check, with a sentence about the value and more of a schema."""
    return Rule(check, {**schema_of(check), **schema, "description": about})


class Mistakes:
    """Collects what is wrong, each with its path, up to a bound."""

    SHOWN_MAX = 20

    def __init__(self) -> None:
        self._found: list[str] = []

    def __len__(self) -> int:
        return len(self._found)

    def add(self, path: str, sentence: str) -> None:
        """Note that something is wrong at `path`."""
        self._found.append(f"{path or 'the document'}: {sentence}")

    def expected(self, path: str, what: str, found: object) -> None:
        """Note that `found` stands where `what` was expected."""
        self.add(path, f"expected {what}, found {said(found)}")

    def text(self) -> str:
        """Return all mistakes in one text; of very many, the first and their number."""
        shown = "; ".join(self._found[: self.SHOWN_MAX])
        more = len(self._found) - self.SHOWN_MAX
        return f"{shown}; and {more} more" if more > 0 else shown


def said(value: object) -> str:
    """Return how to speak of a wrong value in a message."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return repr(value if len(value) <= SAID_MAX else value[:SAID_MAX] + "…")
        case int() | float():
            text = repr(value) if abs(value) < 10**SAID_MAX else "a huge number"
            return f"the number {text}"
        case Mapping():
            return "an object"
        case list() | tuple():
            return f"a list of {len(value)}"
        case _:
            return f"a {type(value).__name__}"


def bounded(document: object, mistakes: Mistakes) -> None:
    """Note it if the document is too deep, too large, or has values that JSON cannot hold."""
    waiting: list[tuple[str, object, int]] = [("", document, 0)]
    seen = 0
    while waiting:
        path, value, depth = waiting.pop()
        seen += 1
        if seen > VALUES_MAX:
            mistakes.add("", f"more than {VALUES_MAX} values; an SLA this large is refused")
            return
        if depth > DEPTH_MAX:
            mistakes.add(path, f"nested deeper than {DEPTH_MAX} levels")
            return
        match value:
            case dict():
                for key, inner in value.items():
                    _key(path, key, mistakes)
                    waiting.append((f"{path}.{key}".lstrip("."), inner, depth + 1))
            case list():
                waiting.extend((f"{path}[{index}]", inner, depth + 1) for index, inner in enumerate(value))
            case _:
                _plain(path, value, mistakes)


def _key(path: str, key: object, mistakes: Mistakes) -> None:
    if isinstance(key, str):
        _plain(f"a key of {path or 'the document'}", key, mistakes)
    else:
        mistakes.expected(path, "keys that are text", key)


def _plain(path: str, value: object, mistakes: Mistakes) -> None:
    match value:
        case str():
            if _SURROGATE.search(value):
                mistakes.add(path, "text with half a character (a lone surrogate)")
        case float():
            if not math.isfinite(value):
                mistakes.expected(path, "a finite number", value)
        case int() if abs(value) >= 1 << 63:
            mistakes.expected(path, "a number of at most 63 bits", value)
        case None | bool() | int():
            pass
        case _:
            mistakes.expected(path, "a JSON value", value)


def _text(path: str, value: Any, mistakes: Mistakes) -> None:
    if not isinstance(value, str):
        mistakes.expected(path, "text", value)
    elif "\0" in value:
        mistakes.add(path, "text must not contain a NUL character")


text = Rule(_text, {"type": "string"})
"""Any text, without NUL characters."""


def matching(pattern: str, what: str) -> Rule:
    """Text that is, as a whole, what the pattern says."""
    compiled = re.compile(pattern)

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        if not isinstance(value, str) or compiled.fullmatch(value) is None:
            mistakes.expected(path, what, value)

    return Rule(check, {"type": "string", "pattern": f"^(?:{pattern})$"})


def one_of(words: Sequence[str]) -> Rule:
    """One of these words."""

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        if not isinstance(value, str) or value not in words:
            mistakes.expected(path, f"one of {', '.join(words)}", value)

    return Rule(check, {"type": "string", "enum": list(words)})


def _whole(path: str, value: Any, mistakes: Mistakes) -> None:
    fits = (
        isinstance(value, int | float)
        and not isinstance(value, bool)
        and 0 <= value <= WHOLE_MAX
        and value == int(value)
    )
    if not fits:
        mistakes.expected(path, "a whole number, 0 or more", value)


whole = Rule(_whole, {"type": "integer", "minimum": 0, "maximum": WHOLE_MAX})
"""A whole number, not negative; `1.0` counts as 1."""


def _number(path: str, value: Any, mistakes: Mistakes) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        mistakes.expected(path, "a number", value)


number = Rule(_number, {"type": "number"})
"""Any number."""


def _flag(path: str, value: Any, mistakes: Mistakes) -> None:
    if not isinstance(value, bool):
        mistakes.expected(path, "true or false", value)


flag = Rule(_flag, {"type": "boolean"})
"""True or false."""


def each(check: Check) -> Rule:
    """A list whose every member passes the check."""

    def check_list(path: str, value: Any, mistakes: Mistakes) -> None:
        if not isinstance(value, list):
            mistakes.expected(path, "a list", value)
            return
        for index, member in enumerate(value):
            check(f"{path}[{index}]", member, mistakes)

    return Rule(check_list, {"type": "array", "items": schema_of(check)})


def fields(known: Mapping[str, Check], *, required: Sequence[str] = ()) -> Rule:
    """An object; keys that are not known are let through."""

    def check_object(path: str, value: Any, mistakes: Mistakes) -> None:
        if not isinstance(value, dict):
            mistakes.expected(path, "an object", value)
            return
        for key in required:
            if key not in value:
                mistakes.add(path, f"{key!r} is missing")
        for key, check in known.items():
            if key in value:
                check(f"{path}.{key}".lstrip("."), value[key], mistakes)

    schema: dict[str, Any] = {"type": "object"}
    if known:
        schema["properties"] = {key: schema_of(check) for key, check in known.items()}
    if required:
        schema["required"] = list(required)
    return Rule(check_object, schema)


def both(first: Check, second: Check) -> Rule:
    """The second check, if the first finds nothing."""

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        before = len(mistakes)
        first(path, value, mistakes)
        if len(mistakes) == before:
            second(path, value, mistakes)

    return Rule(check, {**schema_of(first), **schema_of(second)})
