"""`oak`: the command line. Each first word is a module of this package, imported only when it is typed."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module

from oakestra.model.errors import OakestraError

DONE, FAILED, UNPLACEABLE = 0, 1, 2
"""Exit codes: done; an error; something cannot be placed."""
INTERRUPTED = 130


@dataclass(frozen=True, slots=True)
class Command:
    """A first word: what it is for, and the module whose `build(parser)` sets `run=function(args) -> int`."""

    summary: str
    module: str


COMMANDS = {
    "up": Command("start root, cluster and worker on this machine", "oakestra.cli.installation"),
    "down": Command("stop what `oak up` started; --purge leaves nothing", "oakestra.cli.installation"),
    "status": Command("tell what runs on this machine and whether it is well", "oakestra.cli.installation"),
    "root": Command("run a root", "oakestra.cli.tiers"),
    "cluster": Command("list clusters; run one", "oakestra.cli.cluster"),
    "worker": Command("list workers and images; run one", "oakestra.cli.worker"),
    "login": Command("log in to a root and remember it", "oakestra.cli.login"),
    "app": Command("create, list, show and delete applications", "oakestra.cli.app"),
    "service": Command("deploy, scale, inspect and delete services; read logs", "oakestra.cli.service"),
    "supervise": Command("keep an installation's tiers running (started by `oak up`)", "oakestra.cli.installation"),
}  # fmt: skip
HIDDEN = frozenset({"supervise"})


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 error, 2 cannot be placed."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    run: Callable[[argparse.Namespace], int] = args.run
    try:
        return run(args)
    except OakestraError as error:
        print(f"oak: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        sys.stderr.close()
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser that knows every first word, and the rest of the one that was typed."""
    parser = argparse.ArgumentParser(
        prog="oak", description="Run applications at the edge: root, cluster, worker."
    )
    nouns = parser.add_subparsers(metavar="COMMAND", required=True)
    typed = next((word for word in words if not word.startswith("-")), "")
    for name, command in COMMANDS.items():
        if name in HIDDEN and name != typed:
            continue
        sub = nouns.add_parser(name, help=command.summary, description=command.summary)
        if name == typed:
            sub.set_defaults(command=name)
            import_module(command.module).build(sub)
    return parser
