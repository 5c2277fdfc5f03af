"""Log lines: a constant phrase, then `key=value` for everything that varies."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class KeyValueFormatter(logging.Formatter):
    """Renders `extra={…}` as `key=value` after the message."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)-7s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library names it
        extras = {key: value for key, value in vars(record).items() if key not in _STANDARD}
        pairs = " ".join(f"{key}={_quoted(value)}" for key, value in extras.items())
        line = super().formatMessage(record)
        return f"{line}  {pairs}" if pairs else line


def _quoted(value: object) -> str:
    text = str(value)
    return repr(text) if not text or any(character.isspace() for character in text) else text


def configure(*, level: str = "INFO") -> None:
    """Send log lines to standard error, where the supervisor or systemd keeps them."""
    stream = logging.StreamHandler(sys.stderr)
    stream.setFormatter(KeyValueFormatter())
    root = logging.getLogger()
    root.handlers[:] = [stream]
    root.setLevel(level.upper())


def counted(things: Sequence[object]) -> dict[str, int]:
    """Return how many of each kind there are, for a log line."""
    kinds = [type(thing).__name__.lower() for thing in things]
    return {kind: kinds.count(kind) for kind in sorted(set(kinds))}


def keep_small(path: Path, *, bytes_max: int) -> None:
    """Begin the file anew once it is larger; one earlier file is kept beside it. Its writers must append."""
    try:
        too_large = path.stat().st_size > bytes_max
    except FileNotFoundError:
        return
    if too_large:
        shutil.copyfile(path, path.with_name(f"{path.name}.1"))
        os.truncate(path, 0)
