"""`oak events`: what happened lately, and why."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

from oakestra.cli import DONE, options
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import stories
from oakestra.cli.show.output import rendered
from oakestra.model.errors import NotFound, Unavailable
from oakestra.model.event import Heard

LOOK_AGAIN_S = 1.0
"""So often a root that went away is looked for."""
Event = Mapping[str, Any]


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak events`."""
    parser.add_argument(
        "copy", metavar="INSTANCE", nargs="?", help="only those of a service, or of SERVICE.NUMBER"
    )
    parser.add_argument("-f", "--follow", action="store_true", help="go on with what happens from now on")
    options.prints(parser)
    options.asks_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print events as they come."""
    root = session.connect(args)
    services = root.get("/api/v1/services/")
    past = list(events(root, follow=False))
    gone = _gone(services, past)
    short = names.short_names(gone) | names.short_names(services)
    meant, number = names.told_of([*services, *gone], args.copy) if args.copy else (None, None)
    if meant is not None and number is not None:
        _must_be_known(args.copy, services, past, meant, number)
    told = False
    for event in followed(root) if args.follow else past:
        if meant is not None and event["service"] not in meant:
            continue
        if number is not None and event["slot"] != number:
            continue
        if event["service"] not in short:  # made since this began
            short |= names.short_names(_gone((), [event]))
        print(_shown(event, short, args.output), flush=True)
        told = True
    if not told and args.output in options.FOR_PEOPLE:
        print("nothing happened that is still remembered", file=sys.stderr)
    return DONE


def events(root: Root, *, follow: bool) -> Iterator[Event]:
    """Yield what happened, oldest first; with `follow` also what happens."""
    rest = b""
    query = {"follow": "true"} if follow else {}
    for piece in root.stream("/api/v1/events", endless=follow, **query):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (json.loads(line) for line in lines if line)


def followed(root: Root, *, pause: Callable[[float], None] = time.sleep) -> Iterator[Event]:
    """Yield what happened and happens, each event once; while root is away, wait for it, and say so once."""
    heard = Heard()
    while True:
        with suppress(Unavailable):
            for event in events(root, follow=True):
                if heard.hear(event["tier"], event["epoch"], event["sequence"]):
                    yield event
        print(
            f"oak: root at {root.url} went away; going on when it answers again", file=sys.stderr, flush=True
        )
        _wait_for(root, pause)
        print("oak: root answers again", file=sys.stderr, flush=True)


def _wait_for(root: Root, pause: Callable[[float], None]) -> None:
    """Return when root answers; it asks its clusters by itself when they are there again."""
    while True:
        pause(LOOK_AGAIN_S)
        with suppress(Unavailable):
            root.get("/api/v1/services/")
            return


def _must_be_known(
    text: str, services: Iterable[Document], past: Iterable[Event], meant: Container[str], number: int
) -> None:
    """Raise `NotFound` if there never was an instance of this number, as far as anybody remembers."""
    given = any(one["id"] in meant and number < one["next_slot"] for one in services)
    if not given and not any(event["service"] in meant and event["slot"] == number for event in past):
        raise NotFound(f"nobody ever heard of an instance {text}; `oak instance ls` lists those there are")


def _gone(services: Sequence[Document], events: Iterable[Event]) -> Sequence[Document]:
    """Return the services that events tell of, but for those that are there."""
    known = {service["id"] for service in services}
    told = {event["service"]: event["service_name"] for event in events if event.get("service_name")}
    return [{"id": id, "name": name} for id, name in told.items() if id not in known]


def _shown(event: Event, short: Mapping[str, str], format: str) -> str:
    if format in options.FOR_PEOPLE:
        return stories.line(event, short)
    return rendered(format, event, compact=True).rstrip("\n")
