"""Take workers and clusters out and back in, change services and go back: what operators do while all goes on."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from oakestra.cli import DONE, FAILED, options
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show.cells import condition, counted, updated, wanted, why
from oakestra.cli.show.columns import copies
from oakestra.model.errors import Invalid, Unavailable

LOOK_EVERY_S = 0.25
_NAMED_MAX = 8
_REASONS_MAX = 3
AVAILABILITY = {"cordon": "cordoned", "drain": "draining", "uncordon": "active"}
_ABOUT = {
    "cordon": "let it keep what it has, and take nothing new",
    "drain": "move away what it has, one instance after the other, start before stop",
    "uncordon": "let it take instances again",
    "rm": "forget it, once it is lost or has nothing",
}

_OUT_OF_REACH = (
    "; it is out of reach, so what may still run there goes on until it is switched off, "
    "or returns and is told to stop"
)


# --- workers and clusters ----------------------------------------------------------------------------------------


def build_machines(actions: Any, noun: str) -> None:
    """Describe what can be done with a worker or a cluster."""
    for word, about in _ABOUT.items():
        action = actions.add_parser(word, help=f"{noun}: {about}")
        action.add_argument("names", metavar=noun.upper(), nargs="+", help=f"{noun}s by name or id")
        if word == "drain":
            options.waits(action, "nothing is left on it")
        options.asks_root(action)
        action.set_defaults(run=run_machines, noun=noun, word=word)


def run_machines(args: argparse.Namespace) -> int:
    """Take machines out, or back in."""
    root = session.connect(args)
    path = f"/api/v1/{args.noun}s/"
    found = [names.named(root.get(path), text, kind=args.noun) for text in args.names]
    for machine in found:
        if args.word == "rm":
            root.delete(f"{path}{machine['id']}")
            lost = args.noun == "cluster" and not machine["live"]
            print(f"{machine['name']} is forgotten{_OUT_OF_REACH if lost else ''}")
        else:
            wanted = AVAILABILITY[args.word]
            root.put(f"{path}{machine['id']}/availability", {"availability": wanted})
            print(f"{machine['name']} is {wanted}")
    if not getattr(args, "wait", False):
        return DONE
    return 0 if all(_emptied(root, path, machine, args.timeout) for machine in found) else FAILED


def _emptied(root: Root, path: str, machine: Document, timeout_s: float) -> bool:
    def held() -> int:
        for known in root.get(path):
            if known["id"] == machine["id"]:
                return int(known["instances"])
        return 0

    said = [-1]

    def empty() -> bool:
        count = held()
        if count != said[0]:
            said[0] = count
            left = f": {counted(count, 'instance')} left" if count else " is empty"
            print(f"{machine['name']}{left}", flush=True)
        return count == 0

    if _until(empty, timeout_s):
        return True
    staying = _staying(root, path, machine)
    named = (
        f": {', '.join(staying[:_NAMED_MAX])}{' and more' if len(staying) > _NAMED_MAX else ''}"
        if staying
        else ""
    )
    print(
        f"oak: {machine['name']} still has {counted(said[0], 'instance')} after {timeout_s:.0f} s{named}; "
        f"it goes on being drained. See why: {f'oak explain {staying[0]}' if staying else 'oak events'}",
        file=sys.stderr,
    )
    return False


def _staying(root: Root, path: str, machine: Document) -> list[str]:
    """Return the names of the instances that a machine has, as far as one may see them."""
    place = "worker_id" if path.endswith("/workers/") else "cluster_id"
    there = copies(root.get("/api/v1/services/"))
    return [copy.name for copy in there if copy.instance[place] == machine["id"]]


def _until(seen: Callable[[], bool], timeout_s: float) -> bool:
    end_s = time.monotonic() + timeout_s
    while not seen():
        if time.monotonic() > end_s:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


# --- services ----------------------------------------------------------------------------------------------------


def build_services(actions: Any) -> None:
    """Describe `oak service update` and `rollback`."""
    update = actions.add_parser("update", help="change a service: replace its instances a few at a time")
    update.add_argument(
        "service", metavar="SERVICE", help="service, application.service, its full name or id"
    )
    group = update.add_argument_group("what changes")
    group.add_argument("--image", metavar="IMAGE", help="what it runs")
    group.add_argument("--env", metavar="NAME=VALUE", action="append", help="set a variable; may be repeated")
    group.add_argument("--unset", metavar="NAME", action="append", help="remove a variable; may be repeated")
    group.add_argument("--memory", metavar="MIB", type=options.count, help="memory it may use")
    group.add_argument("--vcpus", metavar="COUNT", type=options.count, help="its share of processors")
    group.add_argument(
        "-f", "--file", metavar="FILE", type=Path, help="JSON: an SLA with this service, or any of its keys"
    )
    rollback = actions.add_parser("rollback", help="go back to the revision before the last update")
    rollback.add_argument(
        "service", metavar="SERVICE", help="service, application.service, its full name or id"
    )
    for action, run in ((update, run_update), (rollback, run_rollback)):
        options.waits(action, "all instances are replaced and ready")
        options.asks_root(action)
        action.set_defaults(run=run)


def run_update(args: argparse.Namespace) -> int:
    """Change a service."""
    root = session.connect(args)
    service = names.service(root.get("/api/v1/services/"), args.service)
    change = _change(args, service)
    if not change:
        raise Invalid(
            "nothing to change; say what is to be other than it is: --image, --env, --memory … or -f FILE"
        )
    return _rolled(root, args, root.put(f"/api/v1/services/{service['id']}", change), before=service)


def run_rollback(args: argparse.Namespace) -> int:
    """Go back to the revision before."""
    root = session.connect(args)
    service = names.service(root.get("/api/v1/services/"), args.service)
    return _rolled(root, args, root.post(f"/api/v1/services/{service['id']}/rollback"), before=service)


def _change(args: argparse.Namespace, service: Document) -> dict[str, Any]:
    change: dict[str, Any] = _from_file(args.file, service) if args.file else {}
    if args.image:
        change["code"] = args.image
    for key in ("memory", "vcpus"):
        if getattr(args, key) is not None:
            change[key] = getattr(args, key)
    if args.env or args.unset:
        change["environment"] = _environment(service["spec"]["environment"], args.env or [], args.unset or [])
    return change


def _environment(present: list[str], added: list[str], removed: list[str]) -> list[str]:
    for variable in added:
        if "=" not in variable:
            raise Invalid(f"--env {variable}: expected NAME=VALUE")
    gone = {variable.partition("=")[0] for variable in added} | set(removed)
    return [variable for variable in present if variable.partition("=")[0] not in gone] + added


def _from_file(path: Path, service: Document) -> dict[str, Any]:
    """Return the keys that a file says: of the service's own part, if it is a whole SLA."""
    try:
        document = json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise Invalid(f"{path} cannot be read: {error}") from error
    if not isinstance(document, dict):
        raise Invalid(f"{path}: expected an object: an SLA, or keys of a service")
    if "applications" not in document:
        return document
    application, space, name, namespace = service["name"].split(".")
    for part in document["applications"]:
        if (part.get("application_name"), part.get("application_namespace")) != (application, space):
            continue
        for found in part.get("microservices", ()):
            if (found.get("microservice_name"), found.get("microservice_namespace")) == (name, namespace):
                return {key: value for key, value in found.items() if key != "microserviceID"}
    raise Invalid(f"{path} has no service {service['name']}")


def _rolled(root: Root, args: argparse.Namespace, service: Document, *, before: Document) -> int:
    """Say what was made, and wait for its end if asked to."""
    revision = service["spec"]["revision"]
    if revision == before["spec"]["revision"]:
        print(f"{service['name']} is already so, at revision {revision}")
        return DONE
    print(f"{service['name']} goes to revision {revision}", flush=True)
    if not args.wait:
        return DONE
    said = [""]

    def ended() -> bool:
        seen = root.get(f"/api/v1/services/{service['id']}")
        line = _progress(seen)
        if line != said[0]:
            said[0] = line
            print(line, flush=True)
        rolling = (seen["rollout"] or {}).get("state") == "rolling"
        return not rolling and _all_at(seen)

    if not _until(ended, args.timeout):
        raise Unavailable(f"the update has not ended after {args.timeout:.0f} s, and goes on: {said[0]}")
    rollout = root.get(f"/api/v1/services/{service['id']}")["rollout"] or {}
    asked_back = args.run is run_rollback
    if rollout.get("state") == "done" or asked_back:
        return DONE
    print(f"oak: {rollout.get('reason', 'the update failed')}", file=sys.stderr)
    return FAILED


def _all_at(service: Document) -> bool:
    """Tell whether every instance is ready on the service's own revision; an update that failed stays where it is."""
    if (service["rollout"] or {}).get("state") == "failed":
        return True
    return len(updated(service)) == len(wanted(service))


def _progress(service: Document) -> str:
    revision = service["spec"]["revision"]
    rollout = service["rollout"] or {}
    state = rollout.get("state", "").replace("_", " ")
    line = f"revision {revision}: {len(updated(service))} of {len(wanted(service))} updated{f' ({state})' if state else ''}"
    successor = rollout.get("reason", "") if state == "rolling" else ""
    return "; ".join([line, *_waiting(service), *([successor] if successor else [])])


def _waiting(service: Document) -> list[str]:
    """Return of the first instances that are not ready how they are, and why."""
    name = names.short_names([service])[service["id"]]
    waiting = [one for one in wanted(service) if not one["ready"]]
    told = [f"{name}.{one['number']}: {' '.join((condition(one), why(one))).rstrip()}" for one in waiting]
    more = [f"and {len(told) - _REASONS_MAX} more"] if len(told) > _REASONS_MAX else []
    return told[:_REASONS_MAX] + more
