"""`oak events`: what happened lately, and why."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from oakestra.cli import DONE, options
from oakestra.cli.client import Root, names, session
from oakestra.cli.show import stories
from oakestra.cli.show.output import rendered


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
    gone = _gone(services, events(root, follow=False))
    short = names.short_names(gone) | names.short_names(services)
    meant, number = names.told_of([*services, *gone], args.copy) if args.copy else (None, None)
    for event in events(root, follow=args.follow):
        if meant is not None and event["service"] not in meant:
            continue
        if number is not None and event["slot"] != number:
            continue
        print(_shown(event, short, args.output), flush=True)
    return DONE


def events(root: Root, *, follow: bool) -> Iterator[Mapping[str, Any]]:
    """Yield what happened, oldest first."""
    rest = b""
    query = {"follow": "true"} if follow else {}
    for piece in root.stream("/api/v1/events", endless=follow, **query):
        *lines, rest = (rest + piece).split(b"\n")
        yield from (json.loads(line) for line in lines if line)


def _gone(
    services: Sequence[Mapping[str, Any]], events: Iterable[Mapping[str, Any]]
) -> Sequence[Mapping[str, Any]]:
    """Return the services that events tell of, but for those that are there."""
    known = {service["id"] for service in services}
    told = {event["service"]: event["service_name"] for event in events if event.get("service_name")}
    return [{"id": id, "name": name} for id, name in told.items() if id not in known]


def _shown(event: Mapping[str, Any], short: Mapping[str, str], format: str) -> str:
    if format in options.FOR_PEOPLE:
        return stories.line(event, short)
    return rendered(format, event, compact=True).rstrip("\n")
