"""`oak explain`: why an instance is where it is, or nowhere, and what was thought of every candidate."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from oakestra.cli import options
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output, stories
from oakestra.cli.show.cells import UNPLACEABLE, age, condition, painted, service_condition
from oakestra.cli.show.columns import Copy, copies
from oakestra.cli.show.output import Shown, Style
from oakestra.cli.show.table import Column, indented

_FITS = "fits"


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
            f"{paragraph(copy, style, now_wall_s=root.now_wall_s)}{chapter(_part(story, copy), copy, style)}"
            for copy in found
        ),
        nothing=f"{name} has no instances ({service_condition(service)}); start one: oak service deploy {name}",
    )


def paragraph(copy: Copy, style: Style, *, now_wall_s: float) -> str:
    """Return all there is to say about why an instance is where it is."""
    instance = copy.instance
    word = condition(instance)
    since = age(instance["changed_wall_s"], now_wall_s)
    head = f"{copy.name}  {painted(word) if style.coloured else word}{f' for {since}' if since else ''}"
    lines = [head, *(f"  {line}" for line in _sentences(instance, word))]
    verdicts = instance["verdicts"]
    if verdicts:
        lines.append(indented(style.table(_columns("CLUSTER", instance["cluster"]), verdicts)))
    return "\n".join(lines)


def chapter(part: Document, copy: Copy, style: Style) -> str:
    """Return what the cluster thought of each worker, and all that happened."""
    parts = [f"  what would help: {remedy}" for remedy in part["remedies"]]
    if part["workers"]:
        parts.append(indented(style.table(_columns("WORKER", copy.instance["worker"]), part["workers"])))
    if part["events"]:
        parts.append(indented(stories.told(part["events"])))
    if part["silent"]:
        silent = ", ".join(part["silent"])
        parts.append(f"  cluster {silent} could not be asked: what it did is missing here")
    return "".join(f"\n{text}" for text in parts)


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
        said = [f"in cluster {instance['cluster']}{f': {placement}' if placement else ''}"]
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
        parts.append(f"restarted {instance['restart']} times, last exit code {instance['exit_code']}")
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
