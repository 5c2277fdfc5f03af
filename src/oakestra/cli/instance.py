"""`oak instance`: list instances. `oak exec`: run a command in one."""

from __future__ import annotations

import argparse
import sys

from oakestra.cli import Parser, options
from oakestra.cli.client import Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.columns import copies, instance_columns
from oakestra.cli.show.output import Shown
from oakestra.model.errors import Invalid, Unavailable

EXEC_TIMEOUT_S = 3600.0


def build(parser: Parser) -> None:
    """Describe the command that was typed."""
    if parser.get_default("command") == "exec":
        _build_exec(parser)
        return
    actions = parser.add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", aliases=["list"], help="list instances, those leaving included")
    ls.add_argument("service", metavar="SERVICE", nargs="?", help="only instances of this one")
    options.prints(ls, watch=True)
    options.asks_root(ls)
    ls.set_defaults(run=run_ls)


def _build_exec(parser: Parser) -> None:
    parser.add_argument(
        "copy",
        metavar="INSTANCE",
        help="a service, or with a number SERVICE.NUMBER; else the first that runs",
    )
    parser.add_argument(
        "words",
        metavar="COMMAND",
        nargs="*",
        help="behind --, the program and its arguments; no shell reads them",
    )
    parser.add_argument(
        "--timeout", type=options.seconds, default=EXEC_TIMEOUT_S, metavar="TIME",
        help="kill it after so long, like 90s or 5m; 1h if not said",
    )  # fmt: skip
    options.asks_root(parser)
    parser.verbatim = "words"
    parser.epilog = (
        "The command runs as the instance's user and reads nothing; what it leaves running ends with it. "
        "Its exit code is that of `oak exec`; 124: it took too long; 1 may also mean that it could not be run. "
        "Example: oak exec shop.web.2 -- sh -c 'ls -l /tmp'"
    )
    parser.set_defaults(run=run_exec)


def run_exec(args: argparse.Namespace) -> int:
    """Run a command in an instance, pass on what it writes, and return its exit code."""
    from oakestra.wire.execution import CommandEnd, FrameKind, FrameReader

    if not args.words:
        raise Invalid("nothing to run; put it behind --: oak exec INSTANCE -- PROGRAM ARGUMENT...")
    root = session.connect(args)
    found, number = names.copy(root.get("/api/v1/services/"), args.copy)
    asked = {"command": args.words, "instance": number, "timeout_s": args.timeout}
    streams = {FrameKind.STDOUT: sys.stdout.buffer, FrameKind.STDERR: sys.stderr.buffer}
    reader = FrameReader()
    for piece in root.stream(f"/api/v1/services/{found['id']}/exec", endless=True, body=asked):
        for arrived in reader.feed(piece):
            if isinstance(arrived, CommandEnd):
                return _exit_code(arrived.exit_code, arrived.reason)
            streams[arrived.kind].write(arrived.data)
            streams[arrived.kind].flush()
    raise Unavailable(
        "the answer was cut off, so how the command ended is not known; root went away: try again"
    )


def _exit_code(code: int | None, reason: str) -> int:
    if code is None:
        raise Unavailable(f"how the command ended is not known: {reason}")
    if reason:
        print(f"oak: the command {reason}", file=sys.stderr)
    return code


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
