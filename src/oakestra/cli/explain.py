"""`oak explain`: why an instance is where it is, or nowhere, and what was thought of every candidate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial

from oakestra.cli import options
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output, stories
from oakestra.cli.show.cells import UNPLACEABLE, age, condition, duration, painted, service_condition, times
from oakestra.cli.show.columns import Copy, copies
from oakestra.cli.show.output import Shown, Style
from oakestra.cli.show.table import Column, indented

FRESH_S = 60.0
"""What was thought of candidates is said to be of the time of placement if that is longer ago."""
_FITS = "fits"
_PLACED, _ROOT = "placed", "root"


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak explain`."""
    parser.add_argument("copy", metavar="INSTANCE", help="a service, or one of its instances: SERVICE.NUMBER")
    options.prints(parser, watch=True)
    options.asks_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Explain a service's instances, or one."""
    root = session.connect(args)
    return output.present(args, lambda: explanation(root, args.copy))


def explanation(root: Root, text: str) -> Shown:
    """Return why the instances that are meant are where they are."""
    services = root.get("/api/v1/services/")
    service, number = names.copy(services, text)
    found = [
        copy
        for copy in copies([service], among=services)
        if number is None or copy.instance["number"] == number
    ]
    name = names.short_names(services)[service["id"]]
    query = {} if number is None else {"instance": str(number)}
    story = root.get(f"/api/v1/services/{service['id']}/story", **query)
    return Shown(
        document=[{**_document(copy), **_part(story, copy)} for copy in found],
        text=lambda style: "\n\n".join(
            told(copy, _part(story, copy), style, now_wall_s=root.now_wall_s) for copy in found
        ),
        nothing=f"{name} has no instances ({service_condition(service)}); start one: oak service deploy {name}",
    )


def told(copy: Copy, part: Document, style: Style, *, now_wall_s: float) -> str:
    """Return all there is to say about why an instance is where it is, and how it came there. Pure."""
    instance = copy.instance
    word = condition(instance)
    since = age(instance["changed_wall_s"], now_wall_s)
    head = f"{copy.name}  {painted(word) if style.coloured else word}{f' for {since}' if since else ''}"
    lines = [head, *(f"  {line}" for line in _sentences(instance, word))]
    lines += _candidates(
        "CLUSTER", instance["verdicts"], instance["cluster"], part["events"], style, now_wall_s
    )
    lines += [f"  what would help: {remedy}" for remedy in part["remedies"]]
    lines += _candidates("WORKER", part["workers"], instance["worker"], part["events"], style, now_wall_s)
    if part["events"]:
        lines.append(indented(stories.told(part["events"])))
    if part["silent"]:
        silent = ", ".join(part["silent"])
        lines.append(f"  cluster {silent} could not be asked: what it did is missing here")
    return "\n".join(lines)


def _candidates(
    title: str,
    verdicts: Sequence[Document],
    chosen: str,
    events: Sequence[Document],
    style: Style,
    now_wall_s: float,
) -> list[str]:
    """Return what was thought of each candidate, and when, if that is a while ago; nothing without candidates."""
    if not verdicts:
        return []
    table = indented(style.table(_columns(title, chosen), sorted(verdicts, key=partial(_rank, chosen))))
    by_root = title == "CLUSTER"
    placed = [one["wall_s"] for one in events if one["kind"] == _PLACED and (one["tier"] == _ROOT) is by_root]
    old_s = now_wall_s - placed[-1] if chosen and placed else 0.0
    return [f"  as it was placed, {duration(old_s)} ago:", table] if old_s > FRESH_S else [table]


def _rank(chosen: str, verdict: Document) -> tuple[bool, bool, float, str]:
    """Return a candidate's place in a table: the chosen one first, then the best, then by name."""
    return (verdict["name"] != chosen, bool(verdict["refusal"]), -verdict["score"], verdict["name"])


def _part(story: Document, copy: Copy) -> Document:
    """Return what a service's story says of one instance."""
    number = copy.instance["number"]
    thought = [verdict for verdict in story["verdicts"] if verdict["number"] == number]
    events = [event for event in story["events"] if event["slot"] == number]
    concerned = {copy.instance["cluster"], *(event["subject"] for event in events)}
    return {
        "workers": [verdict for each in thought for verdict in each["verdicts"]],
        "remedies": [each["remedy"] for each in thought if each.get("remedy")],
        "events": events,
        "silent": [cluster for cluster in story["silent"] if cluster in concerned],
    }


def _sentences(instance: Document, word: str) -> list[str]:
    """Return where the instance is and why, in the order in which it was decided."""
    placement = instance["placement_reason"].removeprefix(f"{instance['cluster']}: ")
    reason = instance["reason"]
    if word == UNPLACEABLE and not instance["cluster"]:
        said = [f"in no cluster: {placement}"]
    elif instance["cluster"]:
        stays = f"stays in {instance['cluster']}: "
        joint = ", and stays there: " if placement.startswith(stays) else ": "
        why = placement.removeprefix(stays)
        said = [f"in cluster {instance['cluster']}{joint + why if why else ''}"]
        if instance["worker"]:
            said.append(f"on worker {instance['worker']}{_history(instance)}")
        elif word == UNPLACEABLE:
            said.append("on no worker: the cluster has no place for it")
    else:
        said = [f"in no cluster yet{f': {placement}' if placement else ''}"]
    if not instance["wanted"]:
        said.append("somebody removed it; it goes as soon as its worker has stopped it")
    return [*said, *([reason] if reason else [])]


def _history(instance: Document) -> str:
    parts = []
    if instance["attempt"] > 1:
        parts.append(f"attempt {instance['attempt']} of this cluster")
    if instance["restart"]:
        code = instance["exit_code"]
        ended = "how it ended is not known" if code is None else f"it ended with exit code {code} last"
        parts.append(f"restarted {times(instance['restart'])}; {ended}")
    return f" ({'; '.join(parts)})" if parts else ""


def _columns(title: str, chosen: str) -> Sequence[Column[Document]]:
    return (
        Column(title, lambda verdict: verdict["name"]),
        Column("SCORE", lambda verdict: "" if verdict["refusal"] else f"{verdict['score']:.3f}"),
        Column(
            "VERDICT",
            lambda verdict: verdict["refusal"] or ("chosen" if verdict["name"] == chosen else _FITS),
        ),
    )


def _document(copy: Copy) -> Document:
    keys = (
        "number", "wanted", "status", "phase", "ready", "cluster", "cluster_id", "worker", "worker_id",
        "placement", "attempt", "restart", "exit_code", "placement_reason", "reason", "verdicts",
    )  # fmt: skip
    return {"name": copy.name, "service": copy.service["name"], **{key: copy.instance[key] for key in keys}}
