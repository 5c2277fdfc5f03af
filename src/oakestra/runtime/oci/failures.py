"""Turn what the kernel and runc say into the two errors of the contract, with sentences a user can act on."""

from __future__ import annotations

import contextlib
import errno
import re
from collections.abc import Iterator
from pathlib import Path

from oakestra.model.errors import OakestraError, Rejected, Unavailable

_FULL = {errno.ENOSPC, errno.EDQUOT}
_UNKNOWN_LENGTH_MAX = 300
_LOG_LINE = re.compile(r'time="[^"]*" level=\w+ msg="(?P<message>.*)"')

_COMMAND = r'exec: \\?"(?P<command>.*?)\\?"'
_SENTENCES: tuple[tuple[re.Pattern[str], type[OakestraError], str], ...] = (
    (
        re.compile(_COMMAND + r".*executable file not found"),
        Rejected,
        "the command {command!r} is not in the image; correct the command or the image",
    ),
    (
        re.compile(_COMMAND + r".*no such file or directory"),
        Rejected,
        "the command {command!r} does not exist in the image; correct the command or the image",
    ),
    (
        re.compile(_COMMAND + r".*(permission denied|is a directory)"),
        Rejected,
        "the command {command!r} is in the image but cannot be executed; it needs to be a file with execute permission",
    ),
    (
        re.compile(r"memory limit too low|unable to set memory limit|OOM-killed"),
        Rejected,
        "the service's memory is too small even to start its container; give it at least 8 MiB",
    ),
    (
        re.compile(r"no space left on device|disk quota exceeded"),
        Unavailable,
        "the disk that holds {directory} is full; free some space there or remove images that are not needed",
    ),
    (
        re.compile(r"too many open files|resource temporarily unavailable|cannot allocate memory"),
        Unavailable,
        "this machine has no processes, files or memory left for another container",
    ),
    (
        re.compile(r"netns path: (lstat|stat) (?P<path>\S+): no such file"),
        Unavailable,
        "the network namespace {path} of the instance is gone; it will be made anew",
    ),
    (
        re.compile(r"not a directory.*(mount|rootfs)|mount.*not a directory"),
        Rejected,
        "the image has a file where the container needs a directory, or the other way round: {text}",
    ),
)


@contextlib.contextmanager
def explained(what: str, path: Path) -> Iterator[None]:
    """Let a failing system call leave as `Unavailable` that names what was done and where."""
    try:
        yield
    except OSError as error:
        place = error.filename or path
        if error.errno in _FULL:
            sentence = f"{what} failed: the disk that holds {path} is full; free some space there or remove images that are not needed"
        else:
            sentence = f"{what} failed: {place}: {(error.strerror or str(error)).lower()}"
        raise Unavailable(sentence) from error


def explain_runc(what: str, text: str, *, directory: Path) -> OakestraError:
    """Return the error that what runc or conmon wrote stands for."""
    text = _LOG_LINE.sub(r"\g<message>", text.strip())
    for pattern, kind, sentence in _SENTENCES:
        found = pattern.search(text)
        if found is not None:
            shown = text[-_UNKNOWN_LENGTH_MAX:]
            return kind(sentence.format(text=shown, directory=directory, **found.groupdict()))
    shown = text[-_UNKNOWN_LENGTH_MAX:] or "runc said nothing"
    return Unavailable(f"{what} failed: {shown}")
