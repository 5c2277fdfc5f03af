"""`oak instance`: list instances."""

from __future__ import annotations

import argparse

from oakestra.cli import options
from oakestra.cli.client import Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.columns import copies, instance_columns
from oakestra.cli.show.output import Shown


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak instance`."""
    actions = parser.add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", aliases=["list"], help="list instances, those leaving included")
    ls.add_argument("service", metavar="SERVICE", nargs="?", help="only instances of this one")
    options.prints(ls, watch=True)
    options.asks_root(ls)
    ls.set_defaults(run=run_ls)


def run_ls(args: argparse.Namespace) -> int:
    """List instances."""
    root = session.connect(args)
    return output.present(args, lambda: instances(root, args.service))


def instances(root: Root, service: str | None) -> Shown:
    """Return the instances of a service, or of all one may see."""
    everything = root.get("/api/v1/services/")
    chosen = everything if service is None else [names.service(everything, service)]
    found = copies(chosen, among=everything)
    return Shown(
        document=[
            {
                "name": copy.name,
                "service": copy.service["name"],
                "service_id": copy.service["id"],
                **copy.instance,
            }
            for copy in found
        ],
        text=lambda style: style.table(instance_columns(root.now_wall_s), found),
        nothing="nothing is deployed; `oak service deploy SERVICE` starts an instance",
    )
