"""How lines of a script are written."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from oakestra.model.errors import Invalid

Run = Callable[[list[str], dict[str, Any]], AsyncIterator[str]]


@dataclass(frozen=True, slots=True)
class Verb:
    """A command: how it is written and what it does."""

    usage: str
    about: str
    run: Run


class Misused(Invalid):
    """A command with too few or too many words."""


_UNITS = {"s": 1.0, "m": 60.0, "h": 3600.0}
DAY_S = 86400.0
"""The most that passes at once: a fleet's day takes minutes of whoever waits."""


def parsed(words: Sequence[str]) -> tuple[list[str], dict[str, Any]]:
    """Return the words, and those of the form KEY=VALUE apart; values are JSON where they can be."""
    positional: list[str] = []
    keys: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals:
            positional.append(word)
            continue
        try:
            keys[key] = json.loads(value)
        except ValueError:
            keys[key] = value
    return positional, keys


def exactly(words: list[str], count: int) -> list[str]:
    if len(words) != count:
        raise Misused(
            f"expected {count or 'no'} {'word' if count == 1 else 'words'} here, found {len(words)}"
        )
    return words


def whole(text: str) -> int:
    """Return the whole number that is meant."""
    if not text.isdigit():
        raise Invalid(f"expected a whole number, found {text!r}")
    return int(text)


def seconds(text: str) -> float:
    """Return the length of time that is meant."""
    unit = _UNITS.get(text[-1:], 0.0)
    try:
        length_s = float(text[:-1] if unit else text) * (unit or 1.0)
    except ValueError:
        length_s = -1.0
    if not length_s >= 0:
        raise Invalid(f"expected a time like 30s, 5m or 2h, found {text!r}")
    if length_s > DAY_S:
        raise Invalid(
            f"{text} is more than a day, and no more than that passes at once; expected 24h or less"
        )
    return length_s


def close_to(word: str, words: Iterable[str]) -> str:
    """Return a question that names the likeliest word; nothing if none is like it."""
    close = get_close_matches(word, list(words), 1)
    return f"did you mean {close[0]!r}? " if close else ""
