"""`oak service`: list, deploy, scale, inspect and delete services, and read their logs."""

from __future__ import annotations

import argparse
import sys

from oakestra.cli import DONE, options, upkeep
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.cells import counted, wanted
from oakestra.cli.show.columns import copies, instance_columns, service_columns
from oakestra.cli.show.details import service_facts
from oakestra.cli.show.output import Shown, Style

_SERVICE = "service, application.service, its full name or id"
_COPY = "as SERVICE, or one of its instances: SERVICE.NUMBER"


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak service`."""
    actions = parser.add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", aliases=["list"], help="list services")
    ls.add_argument("app", metavar="APP", nargs="?", help="only services of this application")
    options.prints(ls, watch=True)
    ls.set_defaults(run=run_ls)
    inspect = actions.add_parser(
        "inspect", aliases=["show"], help="show all of a service, with every instance and its reason"
    )
    inspect.add_argument("service", metavar="SERVICE", help=_SERVICE)
    options.prints(inspect, watch=True)
    inspect.set_defaults(run=run_inspect)
    start = actions.add_parser("deploy", help="start one more instance of each service")
    start.add_argument("service", metavar="SERVICE", nargs="+", help=_SERVICE)
    options.waits(start, "the new instances are ready")
    start.set_defaults(run=run_deploy)
    stop = actions.add_parser("undeploy", help="remove all instances of services, or single ones")
    stop.add_argument("copy", metavar="INSTANCE", nargs="+", help=_COPY)
    options.waits(stop, "nothing is left of them")
    stop.set_defaults(run=run_undeploy)
    count = actions.add_parser("scale", help="have so many instances of a service")
    count.add_argument("service", metavar="SERVICE", help=_SERVICE)
    count.add_argument("instances", metavar="COUNT", type=options.count, help="how many; the newest go first")
    options.waits(count, "all are ready, and the others gone")
    count.set_defaults(run=run_scale)
    logs = actions.add_parser("logs", help="read what an instance wrote")
    logs.add_argument("copy", metavar="INSTANCE", help=f"{_COPY}; else the first that runs")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what it writes from now on")
    logs.add_argument(
        "-n", "--lines", metavar="COUNT", type=options.count, help="only its last lines, so many"
    )
    logs.set_defaults(run=run_logs)
    rm = actions.add_parser("rm", aliases=["delete"], help="delete services with their instances")
    rm.add_argument("service", metavar="SERVICE", nargs="+", help=_SERVICE)
    options.waits(rm, "all instances are gone, and only then delete")
    rm.set_defaults(run=run_rm)
    upkeep.build_services(actions)
    for action in (start, stop, count):
        options.prints(action)
    for action in (ls, inspect, start, stop, count, logs, rm):
        options.asks_root(action)


# --- list and inspect --------------------------------------------------------------------------------------------


def run_ls(args: argparse.Namespace) -> int:
    """List services."""
    root = session.connect(args)
    return output.present(args, lambda: services(root, args.app))


def services(root: Root, app: str | None) -> Shown:
    """Return the services one may see, or those of an application."""
    query = {}
    if app is not None:
        query["application"] = names.application(root.get("/api/v1/applications/"), app)["id"]
    found = root.get("/api/v1/services/", **query)
    return Shown(
        document=found,
        text=lambda style: style.table(service_columns(found), found),
        nothing="there are no services yet; create some: oak app create FILE --deploy",
    )


def run_inspect(args: argparse.Namespace) -> int:
    """Show a service."""
    root = session.connect(args)
    return output.present(args, lambda: service(root, args.service))


def service(root: Root, name: str) -> Shown:
    """Return a service with every instance."""
    everything = _all(root)
    found = names.service(everything, name)

    def text(style: Style) -> str:
        table = style.table(instance_columns(root.now_wall_s), copies([found], among=everything))
        return "\n\n".join(part for part in (service_facts(found), table) if part)

    return Shown(document=found, text=text)


def _all(root: Root) -> list[Document]:
    found: list[Document] = root.get("/api/v1/services/")
    return found


# --- deploy and undeploy: modules of their own, which a listing need not wait for ---------------------------------


def run_deploy(args: argparse.Namespace) -> int:
    """Start one more instance of each service."""
    from oakestra.cli.client.wanted import conclude, deploy

    root = session.connect(args)
    everything = _all(root)
    chosen = [names.service(everything, name) for name in args.service]
    return conclude(args, root, [target for one in chosen for target in deploy(root, one, among=everything)])


def run_scale(args: argparse.Namespace) -> int:
    """Have so many instances of a service."""
    from oakestra.cli.client.wanted import conclude, scale

    root = session.connect(args)
    everything = _all(root)
    found = names.service(everything, args.service)
    name = names.short_names(everything)[found["id"]]
    nothing = f"{name} has {counted(args.instances, 'instance') if args.instances else 'no instances'}"
    before = {instance["number"] for instance in wanted(found)}
    return conclude(
        args,
        root,
        scale(root, found, args.instances, among=everything),
        nothing=f"{nothing} already" if args.instances and len(before) == args.instances else nothing,
        there=lambda target: target.number in before,
    )


def run_undeploy(args: argparse.Namespace) -> int:
    """Remove instances."""
    from oakestra.cli.client.wanted import conclude, undeploy

    root = session.connect(args)
    everything = _all(root)
    chosen = [names.copy(everything, text) for text in args.copy]
    targets = [
        target for found, number in chosen for target in undeploy(root, found, number, among=everything)
    ]
    return conclude(args, root, targets, nothing="there was no instance to remove")


def run_rm(args: argparse.Namespace) -> int:
    """Delete services; with `--wait`, only once nothing of them runs any more."""
    from oakestra.cli.client.wanted import emptied

    root = session.connect(args)
    everything = _all(root)
    chosen = [names.service(everything, name) for name in args.service]
    if args.wait and (code := emptied(root, chosen, among=everything, timeout_s=args.timeout)):
        return code
    for found in chosen:
        root.delete(f"/api/service/{found['id']}")
        print(f"{names.short_names(everything)[found['id']]} deleted")
    return DONE


def run_logs(args: argparse.Namespace) -> int:
    """Print what an instance wrote, byte for byte."""
    from oakestra.cli.client.logs import read

    root = session.connect(args)
    found, number = names.copy(_all(root), args.copy)
    for piece in read(root, found["id"], number, follow=args.follow, lines=args.lines):
        sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    return DONE
