"""Print what was asked for as a table, JSON or YAML, once or whenever it changes."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from oakestra.cli import DONE, config
from oakestra.cli.options import FOR_PEOPLE
from oakestra.cli.show.screen import screen
from oakestra.cli.show.table import Column, render
from oakestra.model.errors import Invalid, Unavailable

WATCH_S = 1.0
"""How often a watched command looks again."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Style:
    """How text is to look where it is printed."""

    wide: bool = False
    width: int | None = None
    """Characters in a line of the terminal; None: as many as it takes."""
    coloured: bool = False

    def table(self, columns: Sequence[Column[T]], rows: Sequence[T]) -> str:
        """Return a table in this style."""
        return render(columns, rows, wide=self.wide, width=self.width, coloured=self.coloured)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """One answer, for programs and for people."""

    document: Any
    text: Callable[[Style], str]
    nothing: str = ""
    """Said instead of no text."""


def present(args: argparse.Namespace, look: Callable[[], Shown]) -> int:
    """Look once and print it; with `--watch`, look on until interrupted."""
    style = _style(args.output)
    if not getattr(args, "watch", False):
        _print(args.output, look(), style)
    elif args.output in FOR_PEOPLE and sys.stdout.isatty():
        _watch_on_screen(look, style)
    else:
        _watch_in_lines(args.output, look, style)
    return DONE


def rendered(format: str, document: object, *, compact: bool = False) -> str:
    """Return a document as JSON or YAML."""
    if format == "yaml":
        return _yaml(document)
    return json.dumps(document, ensure_ascii=False, indent=None if compact else 2)


def _style(format: str) -> Style:
    if not sys.stdout.isatty():
        return Style(wide=format == "wide")
    width = os.get_terminal_size(sys.stdout.fileno()).columns
    return Style(wide=format == "wide", width=width or None, coloured=config.colours_wanted())


def _print(format: str, shown: Shown, style: Style) -> None:
    if format not in FOR_PEOPLE:
        print(rendered(format, shown.document))
        return
    text = shown.text(style)
    if text:
        print(text)
    elif shown.nothing:
        print(shown.nothing, file=sys.stderr)


def _watch_on_screen(look: Callable[[], Shown], style: Style) -> None:
    with screen(sys.stdout) as display:
        text = ""
        while True:
            try:
                shown = look()
                text = shown.text(style) or shown.nothing
                display(text)
            except Unavailable as error:
                display(f"{text}\n\n{error}")
            time.sleep(WATCH_S)


def _watch_in_lines(format: str, look: Callable[[], Shown], style: Style) -> None:
    """Print whenever something is other than before: JSON one document a line, tables with a blank line between."""
    before, trouble = "", ""
    while True:
        try:
            text, trouble = _line(format, look(), style), ""
        except Unavailable as error:
            text = before
            if str(error) != trouble:
                trouble = str(error)
                print(f"oak: {trouble}", file=sys.stderr)
        if text != before:
            if before and format != "json":
                print("---" if format == "yaml" else "")
            print(text, flush=True)
            before = text
        time.sleep(WATCH_S)


def _line(format: str, shown: Shown, style: Style) -> str:
    return shown.text(style) if format in FOR_PEOPLE else rendered(format, shown.document, compact=True)


def _yaml(document: object) -> str:
    try:
        import yaml  # large, and only for who asks
    except ImportError as error:
        raise Invalid(
            "-o yaml needs PyYAML, which is not installed: pip install pyyaml, or use -o json"
        ) from error
    text: str = yaml.safe_dump(document, sort_keys=False, allow_unicode=True)
    return text.rstrip("\n")
