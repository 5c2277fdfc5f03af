"""`oak cluster`: list and show clusters; run one on this machine."""

from __future__ import annotations

import argparse

from oakestra.cli import options, tiers, upkeep
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.cells import mebibytes, yes
from oakestra.cli.show.columns import CLUSTER_COLUMNS, WORKER_COLUMNS, heard
from oakestra.cli.show.output import Shown, Style
from oakestra.cli.show.table import facts
from oakestra.model.errors import Forbidden

NONE_YET = "no cluster has joined this root; start one: oak cluster join ROOT"


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak cluster`."""
    actions = parser.add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", aliases=["list"], help="list clusters")
    options.prints(ls, watch=True)
    options.asks_root(ls)
    ls.set_defaults(run=run_ls)
    show = actions.add_parser("show", help="show a cluster and its workers")
    show.add_argument("cluster", metavar="CLUSTER", help="name or id")
    options.prints(show, watch=True)
    options.asks_root(show)
    show.set_defaults(run=run_show)
    upkeep.build_machines(actions, "cluster")
    tiers.build_cluster(actions)


def run_ls(args: argparse.Namespace) -> int:
    """List clusters."""
    root = session.connect(args)
    return output.present(args, lambda: clusters(root))


def run_show(args: argparse.Namespace) -> int:
    """Show a cluster."""
    root = session.connect(args)
    return output.present(args, lambda: cluster(root, args.cluster))


def clusters(root: Root) -> Shown:
    """Return all clusters."""
    found = root.get("/api/v1/clusters/")
    return Shown(document=found, text=lambda style: style.table(CLUSTER_COLUMNS, found), nothing=NONE_YET)


def cluster(root: Root, name: str) -> Shown:
    """Return a cluster; its workers too, if one may see them."""
    found = names.cluster(root.get("/api/v1/clusters/"), name)
    try:
        workers = [worker for worker in root.get("/api/v1/workers/") if worker["cluster_id"] == found["id"]]
    except Forbidden:
        return Shown(document=found, text=lambda _style: _facts(found))
    return Shown(
        document={**found, "worker_list": workers}, text=lambda style: _with_workers(found, workers, style)
    )


def _with_workers(found: Document, workers: list[Document], style: Style) -> str:
    table = style.table(WORKER_COLUMNS, workers) or "no worker has joined it; oak worker join CLUSTER"
    return f"{_facts(found)}\n\n{table}"


def _facts(found: Document) -> str:
    total, free = found["total"], found["free"]
    return facts(
        [
            ("cluster", found["name"]),
            ("id", found["id"]),
            ("live", yes(found["live"])),
            ("heard", heard(found)),
            ("host", found["host"]),
            ("workers join at", f"{found['host']}:{found['api_port']}" if found["host"] else ""),
            ("location", found["location"]),
            ("workers", f"{found['workers_live']} live of {found['workers']}"),
            ("instances", str(found["instances"])),
            ("vcpus", f"{free['vcpus']} free on {total['vcpus']} cores"),
            ("memory", f"{mebibytes(free['memory_mib'])} free of {mebibytes(total['memory_mib'])}"),
            ("storage", f"{mebibytes(free['storage_mib'])} free of {mebibytes(total['storage_mib'])}"),
            ("gpus", f"{free['vgpus']} free of {total['vgpus']}" if total["vgpus"] else ""),
        ]
    )
