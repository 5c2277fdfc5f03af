"""`oak app`: create applications from SLA documents, list, show and delete them."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from oakestra.cli import DONE, options
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.cells import painted_readiness, wanted
from oakestra.cli.show.columns import copies, instance_columns, service_columns
from oakestra.cli.show.output import Shown, Style
from oakestra.cli.show.table import Column, facts
from oakestra.model.errors import Invalid, NotFound


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak app`."""
    actions = parser.add_subparsers(metavar="ACTION")
    create = actions.add_parser("create", help="create the applications of an SLA document")
    create.add_argument("file", metavar="FILE", help="the document, JSON; - reads stdin")
    create.add_argument("--deploy", action="store_true", help="start one instance of every service")
    options.waits(create, "every instance is ready; implies --deploy")
    options.prints(create)
    options.asks_root(create)
    create.set_defaults(run=run_create)
    ls = actions.add_parser("ls", aliases=["list"], help="list applications")
    options.prints(ls, watch=True)
    options.asks_root(ls)
    ls.set_defaults(run=run_ls)
    show = actions.add_parser("show", help="show an application, its services and instances")
    show.add_argument("app", metavar="APP", help="name, name.namespace or id")
    options.prints(show, watch=True)
    options.asks_root(show)
    show.set_defaults(run=run_show)
    rm = actions.add_parser("rm", aliases=["delete"], help="delete applications with everything in them")
    rm.add_argument("app", metavar="APP", nargs="+", help="name, name.namespace or id")
    options.waits(rm, "all instances are gone, and only then delete")
    options.asks_root(rm)
    rm.set_defaults(run=run_rm)


# --- create ------------------------------------------------------------------------------------------------------


def run_create(args: argparse.Namespace) -> int:
    """Create the applications of an SLA document; deploy and wait if asked to."""
    from oakestra.wire.unknown import unknown_keys

    document = read_sla(args.file)
    root = session.connect(args)
    created = _created(root.post("/api/application/", document), document)
    for sentence in unknown_keys(document):
        print(f"note: {sentence}", file=sys.stderr)
    waits = args.wait and args.output in options.FOR_PEOPLE
    if waits:
        print("\n".join(_headline(app) for app in created), flush=True)
    code = _deployed(args, root, created) if args.deploy or args.wait else DONE
    output.present(args, lambda: _fresh(root, created, deployed=args.deploy or args.wait, told=waits))
    return code


def _deployed(args: argparse.Namespace, root: Root, created: Sequence[Document]) -> int:
    """Start an instance of every service, wait for them if asked to, and return the exit code."""
    from oakestra.cli.client.wanted import deploy
    from oakestra.cli.show import progress

    services = [service for app in created for service in _services(root, app)]
    targets = [target for service in services for target in deploy(root, service, among=services)]
    return progress.code(progress.settle(root, targets, timeout_s=args.timeout)) if args.wait else DONE


def read_sla(path: str) -> Any:
    """Return an SLA document. Raises `Invalid` or `NotFound` saying what is wrong with the file."""
    try:
        text = sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise NotFound(f"there is no file {path}; give the path of an SLA document") from error
    except (OSError, UnicodeDecodeError) as error:
        raise Invalid(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    try:
        return json.loads(text)
    except ValueError as error:
        raise Invalid(f"{path} is not JSON: {error}") from error


def _created(answer: str, sla: Mapping[str, Any]) -> list[Document]:
    """Return those of the asker's applications that the SLA describes: root answers with all that are his."""
    named = {(app["application_name"], app["application_namespace"]) for app in sla["applications"]}
    return [
        {
            "id": app["applicationID"],
            "name": app["application_name"],
            "namespace": app["application_namespace"],
        }
        for app in json.loads(answer)
        if (app["application_name"], app["application_namespace"]) in named
    ]


def _services(root: Root, app: Document) -> list[Document]:
    found: list[Document] = root.get("/api/v1/services/", application=app["id"])
    return found


def _fresh(root: Root, created: Sequence[Document], *, deployed: bool, told: bool) -> Shown:
    """Return what was created; `told`: that it was, is said already."""
    documents = [{**app, "services": _services(root, app)} for app in created]
    return Shown(
        document=documents,
        text=lambda style: "\n\n".join(
            filter(None, (_made(app, style, deployed=deployed, told=told) for app in documents))
        ),
    )


def _headline(app: Document) -> str:
    return f"{app['name']}.{app['namespace']} created"


def _made(app: Document, style: Style, *, deployed: bool, told: bool) -> str:
    table = style.table(service_columns(app["services"]), app["services"])
    if not table:
        return "" if told else f"{_headline(app)}, without services"
    first = names.short_names(app["services"])[app["services"][0]["id"]]
    return (
        ("" if told else f"{_headline(app)}\n")
        + table
        + ("" if deployed else f"\nstart an instance: oak service deploy {first}")
    )


# --- list and show -----------------------------------------------------------------------------------------------


def run_ls(args: argparse.Namespace) -> int:
    """List applications."""
    root = session.connect(args)
    return output.present(args, lambda: applications(root))


def applications(root: Root) -> Shown:
    """Return the applications one may see."""
    found = root.get("/api/v1/applications/")
    services = {service["id"]: service for service in root.get("/api/v1/services/")}
    columns: tuple[Column[Document], ...] = (
        Column("APPLICATION", lambda app: app["name"]),
        Column("NAMESPACE", lambda app: app["namespace"]),
        Column("SERVICES", lambda app: str(len(app["services"]))),
        Column("READY", lambda app: _readiness(app, services), paint=painted_readiness),
        Column("OWNER", lambda app: app["owner"]),
        Column("ID", lambda app: app["id"], wide=True),
        Column("DESCRIPTION", lambda app: app["description"]),
    )
    return Shown(
        document=found,
        text=lambda style: style.table(columns, found),
        nothing="there are no applications yet; create one: oak app create FILE --deploy",
    )


def run_show(args: argparse.Namespace) -> int:
    """Show an application."""
    root = session.connect(args)
    return output.present(args, lambda: application(root, args.app))


def application(root: Root, name: str) -> Shown:
    """Return an application with its services and instances."""
    app = names.application(root.get("/api/v1/applications/"), name)
    services = _services(root, app)

    def text(style: Style) -> str:
        told = facts(
            [
                ("application", f"{app['name']}.{app['namespace']}"),
                ("id", app["id"]),
                ("owner", app["owner"]),
                ("about", app["description"]),
            ]
        )
        tables = (
            style.table(service_columns(services), services),
            style.table(instance_columns(root.now_wall_s), copies(services)),
        )
        return "\n\n".join(part for part in (told, *tables) if part)

    return Shown(document={**app, "services": services}, text=text)


def _readiness(app: Document, services: Mapping[str, Document]) -> str:
    instances = [instance for id in app["services"] if id in services for instance in wanted(services[id])]
    return f"{sum(bool(instance['ready']) for instance in instances)}/{len(instances)}"


# --- delete ------------------------------------------------------------------------------------------------------


def run_rm(args: argparse.Namespace) -> int:
    """Delete applications; with `--wait`, only once nothing of them runs any more."""
    root = session.connect(args)
    known = root.get("/api/v1/applications/")
    chosen = [names.application(known, name) for name in args.app]
    if args.wait:
        from oakestra.cli.client.wanted import emptied

        services = [service for app in chosen for service in _services(root, app)]
        if code := emptied(root, services, among=services, timeout_s=args.timeout):
            return code
    for app in chosen:
        root.delete(f"/api/application/{app['id']}")
        print(f"{app['name']}.{app['namespace']} deleted")
    return DONE
