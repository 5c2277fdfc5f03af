"""`oak lab`: a fleet on this machine, to try things out on: make it, look at it, break it, take it away."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from oakestra.cli import DONE, FAILED, options
from oakestra.cli.show import output
from oakestra.lab import kernel, record
from oakestra.lab.plan import DEFAULT_NAME, OUTSIDE, Lab, check_name, host, named_in
from oakestra.model.errors import Forbidden, Invalid, NotFound

TURN_WITHIN_S = 10.0
Run = Callable[[argparse.Namespace], int]


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak lab`."""
    actions = parser.add_subparsers(metavar="ACTION")
    about = "start a fleet: root, clusters and workers, each a machine of its own"
    up = _action(actions, "up", about, run_up, which=f"what to call it ({DEFAULT_NAME})")
    up.set_defaults(name=DEFAULT_NAME)
    up.add_argument("--clusters", type=int, metavar="C", help="how many clusters (1)")
    up.add_argument("--workers", type=int, metavar="W", help="how many workers in each cluster (2)")
    _action(actions, "down", "take a lab away; leaves nothing", run_down)
    status = _action(actions, "status", "tell how each host is", run_status)
    options.prints(status, watch=True)
    ls = actions.add_parser("ls", aliases=["list"], help="list the labs on this machine")
    options.prints(ls)
    ls.set_defaults(run=run_ls)
    _action(actions, "env", "print what makes `oak` in this shell ask the lab's root", run_env)
    _build_hosts(actions)


def _build_hosts(actions: Any) -> None:
    run = _action(
        actions, "exec", "run a command on a host: in its network, not in its file system", run_exec
    )
    run.add_argument("host", metavar="HOST")
    run.add_argument("command", metavar="CMD", nargs=argparse.REMAINDER)
    cut = _action(actions, "cut", "cut a host off, or two hosts from one another", run_cut)
    heal = _action(actions, "heal", "undo `cut`; without a host, everywhere", run_heal)
    cut.add_argument("host", metavar="HOST")
    cut.add_argument("--one-way", action="store_true", help="lose only what the first host sends")
    cut.add_argument(
        "--loss", type=_ratio, default=1.0, metavar="RATIO", help="lose some packets: 0.3 is three in ten"
    )
    heal.add_argument("host", metavar="HOST", nargs="?", default="")
    for action in (cut, heal):
        about = f"another host, or {OUTSIDE}: the machine that the lab runs on"
        action.add_argument("other", metavar="HOST", nargs="?", default="", help=about)
    kill = _action(actions, "kill", "kill a process of a host; the supervisor starts it again", run_kill)
    kill.add_argument("host", metavar="HOST")
    kill.add_argument(
        "what", metavar="PROCESS", nargs="?", default="",
        choices=("", "root", "cluster", "worker", "agent", "broker", "supervisor"),
        help="agent (a worker's), cluster, broker, root or supervisor; the host's tier unless told otherwise",
    )  # fmt: skip
    reboot = _action(actions, "reboot", "take a host's power away, and give it back", run_reboot)
    reboot.add_argument("host", metavar="HOST")
    logs = _action(actions, "logs", "print the end of a host's logs", run_logs)
    logs.add_argument("host", metavar="HOST")
    logs.add_argument("-f", "--follow", action="store_true", help="go on with what is added")
    logs.add_argument("-n", "--lines", type=int, default=40, metavar="COUNT", help="how many lines (40)")


def _action(
    actions: Any,
    name: str,
    about: str,
    run: Run,
    *,
    which: str = "which lab; needless while there is only one",
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = actions.add_parser(name, help=about, description=about)
    parser.add_argument("--name", metavar="LAB", help=which)
    parser.set_defaults(run=run)
    return parser


def _ratio(text: str) -> float:
    try:
        ratio = float(text)
    except ValueError:
        ratio = -1.0
    if not 0.0 <= ratio <= 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is no ratio; write it like 0.3")
    return ratio


# --- the whole lab ---------------------------------------------------------------------------------------------


def run_up(args: argparse.Namespace) -> int:
    """Start a lab and return when every tier of it is well."""
    from oakestra.cli.lab import start

    _must_be_root()
    start.up(args.name, clusters=args.clusters, workers=args.workers)
    return DONE


def run_down(args: argparse.Namespace) -> int:
    """Take a lab away, as far as there is any of it."""
    from oakestra.cli.lab import start
    from oakestra.lab import power

    _must_be_root()
    name = _name(args)
    there = name in _names()
    with record.turn(name, wait_s=TURN_WITHIN_S):
        start.log_out(name)
        power.remove(name)
    print(
        f"the lab {name} is gone" if there else f"there was no lab {name}, so there was nothing to take away"
    )
    return DONE


def run_status(args: argparse.Namespace) -> int:
    """Tell how each host is; exit with 1 if one of them is not well."""
    from oakestra.cli.lab import status

    _must_be_root()
    found: list[status.HostStatus] = []

    def look() -> output.Shown:
        found[:] = status.look(_lab(args))
        return status.shown(found)

    output.present(args, look)
    return FAILED if any(seen.trouble for seen in found) else DONE


def run_ls(args: argparse.Namespace) -> int:
    """List the labs."""
    from oakestra.cli.lab import status

    _must_be_root()
    return output.present(args, partial(status.labs, _names()))


def run_env(args: argparse.Namespace) -> int:
    """Print the shell's words that choose the lab's root."""
    from oakestra.cli.lab import start

    _must_be_root()
    print(f"export OAKESTRA_ROOT={start.root_url(_lab(args))}")
    return DONE


# --- hosts -----------------------------------------------------------------------------------------------------


def run_exec(args: argparse.Namespace) -> int:
    """Become the command, on the host."""
    _must_be_root()
    lab = _lab(args)
    of = host(lab, args.host)
    words = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not words:
        raise Invalid(f"what is to run on {of.name}? e.g. oak lab exec {of.name} ip address")
    kernel.become(of.namespace, words, installation=of.installation)


def run_cut(args: argparse.Namespace) -> int:
    """Have the switch lose what a host sends and is sent."""
    from oakestra.lab import faults

    with _changing(args) as lab:
        _check_ends(lab, args.host, args.other)
        broken = faults.cut(lab.faults, args.host, args.other, one_way=args.one_way, loss_ratio=args.loss)
        kernel.break_links(record.with_faults(lab, broken))
    print(_told(broken, args.host))
    return DONE


def run_heal(args: argparse.Namespace) -> int:
    """Have the switch lose nothing more of a host's, of two hosts' or of anybody's."""
    from oakestra.lab import faults

    with _changing(args) as lab:
        if args.host:
            _check_ends(lab, args.host, args.other)
            healed = faults.heal(lab.faults, args.host, args.other)
        else:
            healed = faults.Faults()
        kernel.break_links(record.with_faults(lab, healed))
    print(_told(healed, args.host) if args.host else "the lab's network loses nothing any more")
    return DONE


def run_kill(args: argparse.Namespace) -> int:
    """Kill a process of a host. What the supervisor does not start again by itself, start."""
    from oakestra.cli.keeping.supervised import have_supervisor
    from oakestra.lab import power

    with _changing(args) as lab:
        of = host(lab, args.host)
        killed = power.kill(lab, of, args.what)
        if args.what == power.SUPERVISOR:
            have_supervisor(record.home(lab.name))
    what = args.what or of.tier
    whose = {power.SUPERVISOR: "the lab's supervisor", of.name: of.name}.get(what, f"the {what} of {of.name}")
    print(f"killed {whose} (pid {killed.pid}); it is started again")
    return DONE


def run_reboot(args: argparse.Namespace) -> int:
    """Take a host's power away and give it back."""
    from oakestra.lab import power

    with _changing(args) as lab:
        of = host(lab, args.host)
        power.reboot(lab, of)
    print(f"{of.name} lost its power and has it again; it starts now, as a machine does")
    return DONE


def run_logs(args: argparse.Namespace) -> int:
    """Become `tail` of a host's logs."""
    from oakestra.control.installation import Installation

    _must_be_root()
    of = host(_lab(args), args.host)
    files = [str(path) for path in sorted(Installation(of.installation).logs.glob("*.log"))]
    if not files:
        raise NotFound(f"{of.name} has written no log yet; see how it is: oak lab status")
    os.execvp("tail", ("tail", "-n", str(args.lines), *(["-F"] if args.follow else []), "--", *files))  # noqa: S606


# --- which one -------------------------------------------------------------------------------------------------


@contextmanager
def _changing(args: argparse.Namespace) -> Iterator[Lab]:
    """Give the lab that is meant, and let nobody else change it meanwhile."""
    from oakestra.lab import power

    _must_be_root()
    name = _name(args)
    with record.turn(name, wait_s=TURN_WITHIN_S):
        lab = _lab(args)
        power.let_go_on(lab)
        yield lab


def _lab(args: argparse.Namespace) -> Lab:
    name = _name(args)
    lab = record.read(name)
    if lab is None:
        raise NotFound(f"there is no lab {name}; start one: sudo oak lab up --name {name}")
    return lab


def _name(args: argparse.Namespace) -> str:
    """Return the name of the lab that is meant: the one named, or the only one."""
    if args.name:
        check_name(args.name)
        return str(args.name)
    names = sorted(_names())
    if len(names) == 1:
        return names[0]
    if names:
        raise Invalid(f"there are several labs: {', '.join(names)}; say which: --name {names[0]}")
    raise NotFound("there is no lab on this machine; start one: sudo oak lab up")


def _names() -> frozenset[str]:
    return named_in(kernel.namespaces(), kernel.links(), record.installations())


def _check_ends(lab: Lab, first: str, second: str) -> None:
    for name in (first, second):
        if name not in ("", OUTSIDE):
            host(lab, name)
    if first == second:
        raise Invalid(f"{first} cannot be cut from itself; name another host")


def _told(broken: Any, of: str) -> str:
    from oakestra.lab import faults

    return f"{of}: {faults.described(broken, of) or 'its network loses nothing any more'}"


def _must_be_root() -> None:
    if os.geteuid() != 0:
        raise Forbidden(
            "a lab needs root rights, to make network namespaces and containers; try again with sudo"
        )
