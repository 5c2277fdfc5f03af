"""`oak instance`: list instances. `oak exec`: run a command in one."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Generator, Iterator
from contextlib import closing
from typing import TYPE_CHECKING

from oakestra.cli import Parser, options
from oakestra.cli.client import Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.columns import copies, instance_columns
from oakestra.cli.show.output import Shown
from oakestra.model.errors import Invalid, Unavailable

if TYPE_CHECKING:
    from oakestra.wire.execution import Answered

EXEC_TIMEOUT_S = 3600.0
TERMINAL_TIMEOUT_S = 24 * EXEC_TIMEOUT_S


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
        "-i", "--interactive", action="store_true", help="pass on what is typed or piped in, to its end"
    )
    parser.add_argument(
        "-t", "--tty", action="store_true", help="give it a terminal like the one this is typed at; needs -i"
    )
    parser.add_argument(
        "--timeout", type=options.seconds, metavar="TIME",
        help="kill it after so long, like 90s or 5m; if not said 1h, at a terminal 24h",
    )  # fmt: skip
    options.asks_root(parser)
    parser.verbatim = "words"
    parser.epilog = (
        "The command runs as the instance's user and reads nothing but with -i; what it leaves running ends with it. "
        "At a terminal every key goes to it, Ctrl-C, too. "
        "Its exit code is that of `oak exec`; 124: it took too long; 1 may also mean that it could not be run. "
        "Examples: oak exec shop.web.2 -- sh -c 'ls -l /tmp'; oak exec -it shop.web -- sh; "
        "oak exec -i shop.web -- sh -c 'cat > /tmp/copy' < file"
    )
    parser.set_defaults(run=run_exec)


def run_exec(args: argparse.Namespace) -> int:
    """Run a command in an instance, pass on what it writes, and return its exit code."""
    from oakestra.wire.execution import CommandEnd, FrameKind, Written

    if not args.words:
        raise Invalid("nothing to run; put it behind --: oak exec INSTANCE -- PROGRAM ARGUMENT...")
    if args.tty and not args.interactive:
        raise Invalid("-t alone gives a terminal at which nobody can type; write -it")
    streams = {FrameKind.STDOUT: sys.stdout.buffer, FrameKind.STDERR: sys.stderr.buffer}
    end = None
    with closing(_attended(args) if args.interactive else _unattended(args)) as answers:
        for arrived in answers:
            if isinstance(arrived, CommandEnd):
                end = arrived
                break
            if isinstance(arrived, Written):
                streams[arrived.kind].write(arrived.data)
                streams[arrived.kind].flush()
    if end is None:
        raise Unavailable(
            "the answer was cut off, so how the command ended is not known; root went away: try again"
        )
    return _exit_code(end.exit_code, end.reason)


def _unattended(args: argparse.Namespace) -> Generator[Answered, None, None]:
    """Yield what a command writes that reads nothing, and how it ended."""
    from oakestra.wire.execution import FrameReader

    reader = FrameReader()
    for piece in _asked(session.connect(args), args, timeout_s=EXEC_TIMEOUT_S):
        yield from reader.feed(piece)


def _attended(args: argparse.Namespace) -> Generator[Answered, None, None]:
    """Yield as `_unattended`, of a command that reads what comes from here."""
    from oakestra.cli.client import terminal
    from oakestra.cli.client.attend import Attendance

    given = terminal.here() if args.tty else None
    asked: dict[str, object] = {"stdin": True}
    if given is not None:
        size = given.size
        asked["terminal"] = {"rows": size.rows, "columns": size.columns, "name": given.name}
    root = session.connect(args)
    pieces = _asked(root, args, timeout_s=EXEC_TIMEOUT_S if given is None else TERMINAL_TIMEOUT_S, **asked)
    yield from Attendance(root, pieces, size=given.size if given else None).answers()


def _asked(root: Root, args: argparse.Namespace, *, timeout_s: float, **asked: object) -> Iterator[bytes]:
    found, number = names.copy(root.get("/api/v1/services/"), args.copy)
    wanted = {
        "command": args.words,
        "instance": number,
        "timeout_s": timeout_s if args.timeout is None else args.timeout,
        **asked,
    }
    return root.stream(f"/api/v1/services/{found['id']}/exec", endless=True, body=wanted)


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
