"""The command line as a value: every command with its options and arguments, read from its parser. Pure."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Option:
    """A flag; with a `value` it takes one."""

    names: tuple[str, ...]
    value: str
    """What stands for the value in help; empty: takes none."""
    choices: tuple[str, ...]
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Argument:
    """A word by position."""

    name: str
    choices: tuple[str, ...]
    optional: bool
    many: bool
    about: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grammar:
    """A command: words that may follow it."""

    words: tuple[str, ...]
    """From `oak` on."""
    aliases: tuple[str, ...]
    """Of the last word."""
    about: str
    options: tuple[Option, ...]
    arguments: tuple[Argument, ...]
    actions: tuple[Grammar, ...]

    def walk(self) -> Iterator[Grammar]:
        """Yield this command and all below it, in the order in which help lists them."""
        yield self
        for action in self.actions:
            yield from action.walk()


def grammar(parser: argparse.ArgumentParser, *, aliases: tuple[str, ...] = (), about: str = "") -> Grammar:
    """Return what a parser understands. `--help` is left out, as every command has it."""
    options: list[Option] = []
    arguments: list[Argument] = []
    actions: list[Grammar] = []
    for action in parser._actions:  # noqa: SLF001 - argparse tells nobody what it knows
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            actions += _below(action)
        elif not action.option_strings:
            arguments.append(_argument(action))
        elif action.dest != "help":
            options.append(_option(action))
    return Grammar(
        words=tuple(parser.prog.split()),
        aliases=aliases,
        about=about or parser.description or "",
        options=tuple(options),
        arguments=tuple(arguments),
        actions=tuple(actions),
    )


def _below(action: argparse._SubParsersAction[argparse.ArgumentParser]) -> Iterator[Grammar]:
    summaries = {choice.dest: choice.help or "" for choice in action._choices_actions}  # noqa: SLF001
    names: dict[int, list[str]] = {}
    for name, parser in action.choices.items():
        names.setdefault(id(parser), []).append(name)
    for first, *aliases in names.values():
        parser = action.choices[first]
        yield grammar(parser, aliases=tuple(aliases), about=summaries.get(first, ""))


def _option(action: argparse.Action) -> Option:
    meant = "|".join(_choices(action)) or action.dest.upper()
    shown = action.metavar if isinstance(action.metavar, str) else meant
    return Option(
        names=tuple(action.option_strings),
        value="" if action.nargs == 0 else shown,
        choices=_choices(action),
        about=action.help or "",
    )


def _argument(action: argparse.Action) -> Argument:
    return Argument(
        name=action.metavar if isinstance(action.metavar, str) else action.dest.upper(),
        choices=_choices(action),
        optional=action.nargs in ("?", "*"),
        many=action.nargs in ("+", "*"),
        about=action.help or "",
    )


def _choices(action: argparse.Action) -> tuple[str, ...]:
    return tuple(map(str, action.choices or ()))
