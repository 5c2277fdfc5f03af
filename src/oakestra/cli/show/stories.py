"""Show events as lines of a story. Pure."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

Document = Mapping[str, Any]


def line(event: Document, names: Mapping[str, str]) -> str:
    """Return one event as a line: when, who, what it is about, and what happened in a sentence.

    `names` gives services short names; events of services without one are shown by id.
    """
    moment = time.strftime("%d %b %H:%M:%S", time.localtime(event["wall_s"]))
    millis = int(event["wall_s"] * 1000) % 1000
    subject = about(event, names)
    return (
        f"{moment}.{millis:03d}  {event['tier']:<12}  {subject:<24}  {event['kind']:<11}  {sentence(event)}"
    )


def about(event: Document, names: Mapping[str, str]) -> str:
    """Return what an event is about: an instance by its short name, a worker or a cluster."""
    if not event["service"]:
        return str(event["subject"])
    name = names.get(event["service"], event["service"])
    return name if event["slot"] < 0 else f"{name}.{event['slot']}"


def sentence(event: Document) -> str:
    """Return what happened; where it happened, if the sentence does not say."""
    reason, subject = str(event["reason"]), str(event["subject"])
    said = not subject or subject in reason or not event["service"]
    return reason if said else f"{reason} (on {subject})"


def told(events: Sequence[Document]) -> str:
    """Return the story of one instance, its first moment in full and the others as seconds after it."""
    if not events:
        return ""
    first_s = events[0]["wall_s"]
    rows = [f"{time.strftime('%d %b %H:%M:%S', time.localtime(first_s)):>15}"]
    rows += [f"{'+' + _after(event['wall_s'] - first_s):>15}" for event in events[1:]]
    return "\n".join(
        f"{moment}  {event['tier']:<10}  {event['kind']:<11}  {sentence(event)}"
        for moment, event in zip(rows, events, strict=True)
    )


def _after(seconds: float) -> str:
    seconds = max(seconds, 0.0)
    if seconds < 600:  # noqa: PLR2004 - up to ten minutes fractions tell something
        return f"{seconds:.3f} s"
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours} h {rest // 60} min" if hours else f"{rest // 60} min {rest % 60} s"
