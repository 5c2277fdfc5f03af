"""Write the reference of the command line: `python -m oakestra.cli.grammar.reference > docs/reference/cli.md`."""

from __future__ import annotations

from oakestra.cli import parser
from oakestra.cli.grammar import Argument, Grammar, Option, grammar

_HEAD = """\
# The command line

This page is generated from the commands themselves: `python -m oakestra.cli.grammar.reference > docs/reference/cli.md`.

Every command knows `--help`. Exit codes: 0 done, 1 an error, 2 something cannot be placed. Names are accepted wherever
ids are, as short as they are unique: a service as `web`, `shop.web`, `shop.prod.web.front` or by its id; one of its
instances with a number behind, `shop.web.2`.

Which root is asked, and as whom: `--root`, else `OAKESTRA_ROOT`, else the root logged in to with `oak login`, else root
of this machine, at which root of this machine needs no login. `OAKESTRA_TOKEN` replaces a login;
`OAKESTRA_INSTALLATION` chooses among several installations on one machine. Logins are kept in
`~/.config/oakestra/cli.json`, which only you can read.
"""


def reference() -> str:
    """Return the reference, in Markdown."""
    whole = grammar(parser())
    commands = [command for command in whole.walk() if not command.actions]
    listed = "\n".join(
        f"- [`{' '.join(command.words)}`](#{_anchor(command)}): {command.about}" for command in commands
    )
    parts = [_HEAD, "## Commands", "", listed, "", *(_section(command) for command in commands)]
    return "\n".join(parts).rstrip("\n") + "\n"


def _section(command: Grammar) -> str:
    lines = [
        f"## {' '.join(command.words)}",
        "",
        f"{_sentence(command.about)}",
        "",
        "```",
        _usage(command),
        "```",
        "",
    ]
    if command.aliases:
        lines += [f"Also called {', '.join(f'`{alias}`' for alias in command.aliases)}.", ""]
    told = [argument for argument in command.arguments if argument.about]
    rows = [*map(_argument_row, told), *map(_option_row, command.options)]
    if rows:
        lines += ["| | |", "| --- | --- |", *rows, ""]
    return "\n".join(lines)


def _usage(command: Grammar) -> str:
    parts = [" ".join(command.words), *map(_argument_usage, command.arguments)]
    if command.options:
        parts.append("[OPTION ...]")
    return " ".join(parts)


def _argument_usage(argument: Argument) -> str:
    text = f"{argument.name} [{argument.name} ...]" if argument.many else argument.name
    return f"[{text}]" if argument.optional else text


def _argument_row(argument: Argument) -> str:
    return f"| `{argument.name}` | {_cell(argument.about)} |"


def _option_row(option: Option) -> str:
    value = f" {_cell(option.value)}" if option.value else ""
    names = ", ".join(f"`{name}{value}`" for name in option.names)
    return f"| {names} | {_cell(option.about)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _anchor(command: Grammar) -> str:
    return "-".join(command.words)


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:].rstrip('.')}."


if __name__ == "__main__":
    print(reference(), end="")
