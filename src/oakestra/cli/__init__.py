"""`oak`: the command line. Each first word is a module of this package, imported only when it is typed."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from typing import Any, NoReturn

from oakestra import __version__
from oakestra.model.errors import Invalid, OakestraError

DONE, FAILED, UNPLACEABLE = 0, 1, 2
"""Exit codes: done; an error; something cannot be placed."""
INTERRUPTED = 130
HELP_WIDTH, HELP_WIDTH_MAX = 100, 120


@dataclass(frozen=True, slots=True)
class Command:
    """A first word: what it is for, and the module whose `build(parser)` sets `run=function(args) -> int`."""

    summary: str
    module: str
    aliases: tuple[str, ...] = ()
    hidden: bool = False


COMMANDS = {
    "up": Command("start root, cluster and worker on this machine", "oakestra.cli.installation"),
    "down": Command("stop what `oak up` started; --purge leaves nothing", "oakestra.cli.installation"),
    "status": Command("tell what runs on this machine and whether it is well", "oakestra.cli.installation"),
    "root": Command("run a root", "oakestra.cli.tiers"),
    "cluster": Command("list clusters; run one", "oakestra.cli.cluster"),
    "worker": Command("list workers and images; run one", "oakestra.cli.worker", aliases=("node",)),
    "login": Command("log in to a root and remember it", "oakestra.cli.login"),
    "logout": Command("forget a login and revoke its tokens", "oakestra.cli.login"),
    "app": Command("create, list, show and delete applications", "oakestra.cli.app", aliases=("application",)),
    "service": Command("deploy, scale, inspect and delete services; read logs", "oakestra.cli.service"),
    "instance": Command("list instances", "oakestra.cli.instance"),
    "exec": Command("run a command in an instance", "oakestra.cli.instance"),
    "explain": Command("tell why an instance is where it is, or nowhere", "oakestra.cli.explain"),
    "doctor": Command("tell what is missing on this machine, what it means, and what to type", "oakestra.cli.doctor"),
    "lab": Command("run a whole fleet on this machine, and break it", "oakestra.cli.lab"),
    "events": Command("tell what happened lately, and why", "oakestra.cli.events"),
    "sim": Command("play a whole fleet in virtual time, with faults", "oakestra.cli.sim"),
    "completion": Command("print a script that completes commands in your shell", "oakestra.cli.grammar.completion"),
    "version": Command("tell the version of this command and of root", "oakestra.cli.version"),
    "complete": Command(
        "print what may come next (asked by shells)", "oakestra.cli.grammar.completion", hidden=True
    ),
    "supervise": Command(
        "keep an installation's tiers running (started by `oak up`)", "oakestra.cli.keeping.supervise", hidden=True
    ),
}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code: 0 done, 1 error, 2 cannot be placed."""
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        args = parser(words).parse_args(words)
        run: Callable[[argparse.Namespace], int] = args.run
        code = run(args)
        sys.stdout.flush()
    except OakestraError as error:
        print(f"oak: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read has enough; without this the interpreter complains when it closes stdout at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code


def parser(words: Sequence[str] | None = None) -> Parser:
    """Return a parser for what was typed: of its first word alone, or of every first word if that is none of them.

    None: of every command, with all that may follow.
    """
    oak = Parser(prog="oak", description="Run applications at the edge: root, cluster, worker.")
    oak.add_argument(
        "--version", action="version", version=f"oak {__version__}", help="show this command's version"
    )
    nouns = oak.add_subparsers(metavar="COMMAND", title="commands")
    word = next((word for word in words or () if not word.startswith("-")), "")
    typed = {name: command for name, command in COMMANDS.items() if word in (name, *command.aliases)}
    visible = {name: command for name, command in COMMANDS.items() if not command.hidden}
    for name, command in (typed or visible).items():
        noun = nouns.add_parser(
            name, help=command.summary, description=_sentence(command.summary), aliases=command.aliases
        )
        if typed or words is None:
            noun.set_defaults(command=name)
            import_module(command.module).build(noun)
    return oak


class Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line and what would be right. Fails with 1, as 2 has a meaning of its own."""

    def __init__(self, **keys: Any) -> None:
        # without abbreviations, a new option breaks nobody's script
        super().__init__(**{"allow_abbrev": False, "formatter_class": _Help, **keys})

    verbatim = ""
    """What takes the words behind `--` exactly as they are; argparse would lose another `--` among them."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse as argparse does, but for what is `verbatim`."""
        words = list(args or ())
        if not self.verbatim or "--" not in words:
            return super().parse_known_args(args, namespace)
        at = words.index("--")
        found, unknown = super().parse_known_args(words[:at], namespace)
        setattr(found, self.verbatim, words[at + 1 :])
        return found, unknown

    def add_subparsers(self, **keys: Any) -> Any:
        """Expect one more word; without it, show what there is."""
        self.set_defaults(run=self._ask_for_more)
        return super().add_subparsers(**{"title": "actions", "prog": self.prog, **keys, "required": False})

    def error(self, message: str) -> NoReturn:
        """Raise `Invalid` with the message and where to read on."""
        raise Invalid(f"{message}; `{self.prog} --help` explains")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            what = str(action.metavar or action.dest).lower()
            raise Invalid(
                f"{value!r} is no {what} of `{self.prog}`; {_closest(value, action.choices)}`{self.prog} --help` lists them"
            )

    def _ask_for_more(self, args: argparse.Namespace) -> int:
        del args
        self.print_help(sys.stderr)
        return FAILED


class _Help(argparse.HelpFormatter):
    """Asks the terminal for its width itself: the standard way imports compressors, for every option again."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, width=_help_width(), max_help_position=28)


@cache
def _help_width() -> int:
    try:
        columns = (
            os.get_terminal_size(sys.stdout.fileno()).columns or HELP_WIDTH
        )  # some terminals do not know
        return min(columns, HELP_WIDTH_MAX) - 2
    except (OSError, ValueError):  # no terminal
        return HELP_WIDTH


def _closest(word: str, words: Iterable[str]) -> str:
    from difflib import get_close_matches  # only mistakes pay for it

    close = get_close_matches(word, list(words), 1)
    return f"did you mean {close[0]!r}? " if close else ""


def _sentence(summary: str) -> str:
    return f"{summary[0].upper()}{summary[1:]}."
