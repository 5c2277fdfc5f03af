"""Find what somebody means among what root lists: an id, or a name as long as it takes to be the only one. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple

from oakestra.cli.client import Document
from oakestra.model.errors import Conflict, NotFound

_PARTS_OF_A_SERVICE = 4


class Copy(NamedTuple):
    """A service, and one of its instance numbers; None: all of them."""

    service: Document
    number: int | None


def short_names(services: Sequence[Document]) -> dict[str, str]:
    """Return by id what to call each service: `application.service`, or its full name where that means two."""
    short = {service["id"]: _short(service["name"]) for service in services}
    times = Counter(short.values())
    return {
        service["id"]: name if times[name := short[service["id"]]] == 1 else service["name"]
        for service in services
    }


def application(applications: Sequence[Document], text: str) -> Document:
    """Return the application with this id, `name` or `name.namespace`."""
    return _only(applications, text, _application_names, what="application", listing="oak app ls")


def service(services: Sequence[Document], text: str) -> Document:
    """Return the service with this id, `service`, `application.service` or full name."""
    return _only(services, text, _service_names, what="service", listing="oak service ls")


def copy(services: Sequence[Document], text: str) -> Copy:
    """Return the service that is meant, or with a number at the end, one of its instances."""
    try:
        return Copy(service(services, text), None)
    except NotFound:
        name, _, number = text.rpartition(".")
        if not name or not number.isascii() or not number.isdigit():
            raise
    found = service(services, name)
    if all(instance["number"] != int(number) for instance in found["instances"]):
        raise NotFound(
            f"{short_names(services)[found['id']]} has no instance {number}; `oak instance ls` lists them"
        )
    return Copy(found, int(number))


def told_of(services: Sequence[Document], text: str) -> tuple[frozenset[str], int | None]:
    """Return the ids of all services of this name, those that are gone included, and which instance is meant.

    None: all of them. An instance may be gone, too. Raises `NotFound` if no service is called so.
    """
    name, _, number = text.rpartition(".")
    numbered = bool(name) and number.isascii() and number.isdigit()
    for called, meant in ((text, None), *(((name, int(number)),) if numbered else ())):
        found = frozenset(one["id"] for one in services if called in (one["id"], *_service_names(one)))
        if found:
            return found, meant
    raise _none(services, text, _service_names, what="service", listing="oak service ls")


def cluster(clusters: Sequence[Document], text: str) -> Document:
    """Return the cluster with this id or name."""
    return named(clusters, text, kind="cluster")


def named(machines: Sequence[Document], text: str, *, kind: str) -> Document:
    """Return the worker or cluster with this id or name."""
    return _only(machines, text, _plain_names, what=kind, listing=f"oak {kind} ls")


def _only(
    candidates: Sequence[Document],
    text: str,
    names: Callable[[Document], tuple[str, ...]],
    *,
    what: str,
    listing: str,
) -> Document:
    found = [candidate for candidate in candidates if candidate["id"] == text] or [
        candidate for candidate in candidates if text in names(candidate)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        meant = ", ".join(f"{names(candidate)[0]} ({candidate['id']})" for candidate in found)
        raise Conflict(f"{text!r} means more than one {what}: {meant}; name one in full, or by its id")
    raise _none(candidates, text, names, what=what, listing=listing)


def _none(
    candidates: Sequence[Document],
    text: str,
    names: Callable[[Document], tuple[str, ...]],
    *,
    what: str,
    listing: str,
) -> NotFound:
    from difflib import get_close_matches  # only mistakes pay for it

    known = [name for candidate in candidates for name in names(candidate)]
    close = get_close_matches(text, known, 1)
    hint = f"did you mean {close[0]}? " if close else ""
    return NotFound(f"there is no {what} {text!r}; {hint}`{listing}` lists them")


def _application_names(document: Document) -> tuple[str, ...]:
    return f"{document['name']}.{document['namespace']}", document["name"]


def _service_names(document: Document) -> tuple[str, ...]:
    full = document["name"]
    parts = full.split(".")
    if len(parts) != _PARTS_OF_A_SERVICE:
        return (full,)
    app, namespace, name, _ = parts
    return full, f"{app}.{name}", name, f"{app}.{namespace}.{name}"


def _plain_names(document: Document) -> tuple[str, ...]:
    return (document["name"],)


def _short(full: str) -> str:
    parts = full.split(".")
    return f"{parts[0]}.{parts[2]}" if len(parts) == _PARTS_OF_A_SERVICE else full
