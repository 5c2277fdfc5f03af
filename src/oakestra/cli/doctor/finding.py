"""What was found out about a machine: values, and how they are told to people and programs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    """It works, but less well or not for long."""
    PROBLEM = "problem"
    """The tier does not start, or does not do its work."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that was looked at."""

    level: Level
    what: str
    meaning: str = ""
    """What comes of it. Empty when all is well, as `remedy` is."""
    remedy: str = ""
    """What to type, or else to do."""


def ok(what: str) -> Finding:
    """Return that something is as it should be."""
    return Finding(level=Level.OK, what=what)


def warning(what: str, meaning: str, remedy: str) -> Finding:
    """Return that something is not as it should be, and the tier works nevertheless."""
    return Finding(level=Level.WARNING, what=what, meaning=meaning, remedy=remedy)


def problem(what: str, meaning: str, remedy: str) -> Finding:
    """Return that something keeps the tier from its work."""
    return Finding(level=Level.PROBLEM, what=what, meaning=meaning, remedy=remedy)


Diagnosis = Mapping[str, Sequence[Finding]]
"""By tier."""

_SIGNS = {Level.OK: "✓", Level.WARNING: "!", Level.PROBLEM: "✗"}
_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.PROBLEM: "31"}


def render(diagnosis: Diagnosis, *, coloured: bool = False) -> str:
    """Return everything that was found, by tier, and at the end what it comes to."""
    lines: list[str] = []
    for tier, findings in diagnosis.items():
        lines.append(tier)
        for finding in findings:
            sign = _SIGNS[finding.level]
            lines.append(f"  {_painted(sign, finding.level) if coloured else sign} {finding.what}")
            lines += [f"      {text}" for text in (finding.meaning,) if text]
            lines += [f"      → {line}" for line in finding.remedy.splitlines()]
    return "\n".join([*lines, "", summary(diagnosis)])


def summary(diagnosis: Diagnosis) -> str:
    """Return in a sentence what it comes to."""
    levels = [finding.level for findings in diagnosis.values() for finding in findings]
    problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
    said = [
        f"{count} {word}{'s' if count > 1 else ''}"
        for count, word in ((problems, "problem"), (warnings, "warning"))
        if count
    ]
    return " and ".join(said) if said else "everything is fine"


def has_problems(diagnosis: Diagnosis) -> bool:
    """Tell whether something keeps a tier from its work."""
    return any(finding.level is Level.PROBLEM for findings in diagnosis.values() for finding in findings)


def document(diagnosis: Diagnosis) -> list[dict[str, str]]:
    """Return everything that was found, for programs."""
    return [
        {
            "tier": tier,
            "level": finding.level.value,
            "what": finding.what,
            "meaning": finding.meaning,
            "remedy": finding.remedy,
        }
        for tier, findings in diagnosis.items()
        for finding in findings
    ]


def _painted(sign: str, level: Level) -> str:
    return f"\x1b[{_COLOURS[level]}m{sign}\x1b[0m"
