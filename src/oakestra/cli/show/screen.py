"""Keep a text on the terminal and change it in place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from oakestra.model.errors import Invalid


@contextmanager
def screen(stream: TextIO) -> Iterator[Callable[[str], None]]:
    """Give a function that replaces the text shown; the last one stays."""
    try:
        from rich.console import Console  # large, and only for who watches
        from rich.live import Live
        from rich.text import Text
    except ImportError as error:
        raise Invalid(
            "watching on a terminal needs rich, which is not installed: pip install rich"
        ) from error

    console = Console(file=stream, highlight=False)
    before = ""
    with Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:

        def display(text: str) -> None:
            nonlocal before
            if text != before:
                live.update(Text.from_ansi(text, no_wrap=True, overflow="ellipsis"), refresh=True)
                before = text

        yield display
