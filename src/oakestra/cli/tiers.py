"""Run tiers: `oak root start`, `oak cluster start|join`, `oak worker start|join`, and `config` of each."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from oakestra.cli import DONE

Actions = Any
"""What `ArgumentParser.add_subparsers` returns; argparse gives its type no public name."""
Run = Callable[[argparse.Namespace], int]


@dataclass(frozen=True, slots=True)
class Flag:
    """A setting that can be given on the command line."""

    field: str
    about: str
    kind: Callable[[str], Any] | None = str
    """None: a switch."""


INSTALLATION = Flag("installation", "which of several installations on this machine")
LOG_LEVEL = Flag("log_level", "DEBUG, INFO, WARNING or ERROR")
LISTEN = Flag("listen", "address to listen on; loopback unless told otherwise")
ROOT_FLAGS = (
    INSTALLATION,
    LISTEN,
    Flag("api_port", "port of the REST API", int),
    Flag("grpc_port", "port at which clusters join", int),
    Flag("public_clusters", "list clusters to who is not logged in, as the original does", None),
    LOG_LEVEL,
)
CLUSTER_FLAGS = (
    INSTALLATION,
    Flag("name", "what users call this cluster"),
    Flag("location", "where it is: latitude,longitude,radius_m"),
    Flag("root", "where root listens for clusters: host or host:port"),
    LISTEN,
    Flag("api_port", "port at which workers join", int),
    Flag("mqtt_port", "port of the MQTT broker for workers", int),
    Flag("worker_lost_after_s", "a worker silent for so long is lost", float),
    LOG_LEVEL,
)
WORKER_FLAGS = (
    INSTALLATION,
    Flag("name", "what users call this worker"),
    Flag("cluster", "where the cluster lets workers join: host or host:port"),
    Flag("address", "address at which other workers reach this machine"),
    Flag("tunnel_port", "UDP port of the overlay network", int),
    Flag("allow_privileged", "run privileged containers when a service asks for them", None),
    Flag("memory_mib", "memory to offer; all of it unless told otherwise", int),
    Flag("vcpus", "cores to offer; all of them unless told otherwise", int),
    LOG_LEVEL,
)
FLAGS: Mapping[str, tuple[Flag, ...]] = {
    "root": ROOT_FLAGS,
    "cluster": CLUSTER_FLAGS,
    "worker": WORKER_FLAGS,
}


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak root`."""
    from oakestra.cli.keeping import backup

    actions = parser.add_subparsers(metavar="ACTION", required=True)
    _action(actions, "start", "run a root in the foreground", "root", _start)
    _action(actions, "config", "print a root's effective configuration", "root", _show)
    backup.build(actions)


def build_cluster(actions: Actions) -> None:
    """Describe the actions of `oak cluster` that run a cluster on this machine."""
    _action(actions, "start", "run a cluster in the foreground", "cluster", _start)
    _action(actions, "config", "print a cluster's effective configuration", "cluster", _show)
    _joining(actions, "cluster", to="root", about="host or host:port of root")


def build_worker(actions: Actions) -> None:
    """Describe the actions of `oak worker` that run a worker on this machine."""
    _action(actions, "start", "run a worker in the foreground", "worker", _start)
    _action(actions, "config", "print a worker's effective configuration", "worker", _show)
    _joining(actions, "worker", to="cluster", about="host or host:port of the cluster")


def add_flags(parser: argparse.ArgumentParser, tier: str, *, leave_out: frozenset[str] = frozenset()) -> None:
    """Offer a tier's settings as flags; those not given stay None, so that file and environment count."""
    for flag in FLAGS[tier]:
        if flag.field in leave_out:
            continue
        name = "--" + flag.field.replace("_", "-")
        if flag.kind is None:
            parser.add_argument(name, action="store_true", default=None, help=flag.about)
        else:
            parser.add_argument(name, type=flag.kind, metavar=flag.field.upper(), help=flag.about)


def given(args: argparse.Namespace, tier: str) -> dict[str, Any]:
    """Return the settings that were given as flags."""
    values = {flag.field: getattr(args, flag.field, None) for flag in FLAGS[tier]}
    return {field: value for field, value in values.items() if value is not None}


def command_words(tier: str, values: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words after `oak` that start a tier with these settings."""
    words = [tier, "start"]
    for field, value in sorted(values.items()):
        name = "--" + field.replace("_", "-")
        words += [name] if value is True else [f"{name}={value}"]
    return tuple(words)


def _action(actions: Actions, name: str, about: str, tier: str, run: Run) -> None:
    parser = actions.add_parser(name, help=about, description=about)
    add_flags(parser, tier)
    parser.set_defaults(run=run, tier=tier)


def _joining(actions: Actions, tier: str, *, to: str, about: str) -> None:
    summary = f"start a {tier} on this machine in the background, and have it join {to}"
    parser = actions.add_parser("join", help=summary, description=summary)
    parser.add_argument(to, metavar=to.upper(), help=about)
    add_flags(parser, tier, leave_out=frozenset({to}))
    parser.set_defaults(run=_join, tier=tier)


def _join(args: argparse.Namespace) -> int:
    from oakestra.cli import installation

    return installation.join(args, args.tier)


def _start(args: argparse.Namespace) -> int:
    from oakestra.control import failpoints
    from oakestra.control.process import run_until_stopped

    failpoints.heed_environment()
    service = import_module(f"oakestra.{args.tier}.service")
    settings = read_configuration(args.tier, given(args, args.tier))
    run_until_stopped(service.run(settings), log_level=settings.log_level)
    return DONE


def _show(args: argparse.Namespace) -> int:
    from oakestra.control import settings

    configuration = read_configuration(args.tier, given(args, args.tier))
    print(settings.render(configuration, secret=frozenset({"admin_password"})), end="")
    return DONE


def read_configuration(tier: str, flags: Mapping[str, Any]) -> Any:
    """Return the configuration of a tier. Raises `Invalid` naming every mistake."""
    return import_module(f"oakestra.{tier}.config").read(flags)
