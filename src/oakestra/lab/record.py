"""What is remembered of labs between commands, and whose turn it is to change one."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec

from oakestra.control.installation import Installation
from oakestra.lab.faults import Faults
from oakestra.lab.plan import Lab, installation
from oakestra.model.errors import Conflict, Invalid

_LOOK_EVERY_S = 0.05


def home(name: str) -> Installation:
    """Return the lab's own directories; each host has its own below them."""
    return Installation(installation(name))


def read(name: str) -> Lab | None:
    """Return the lab as it was last written; None if there is none. Raises `Invalid` if it cannot be understood."""
    path = _path(name)
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lab)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Invalid(
            f"{path}, which says what the lab {name} is made of, cannot be read: {error}; "
            f"remove the lab and make it anew: sudo oak lab down --name {name}"
        ) from error


def write(lab: Lab) -> None:
    """Remember the lab: a reader sees it as it was or as it is."""
    path = _path(lab.name)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.write_bytes(msgspec.json.format(msgspec.json.encode(lab)) + b"\n")
    draft.replace(path)


def with_faults(lab: Lab, faults: Faults) -> Lab:
    """Remember what is wrong with a lab's network now; return the lab as it is then."""
    changed = replace(lab, faults=faults)
    write(changed)
    return changed


def installations() -> tuple[str, ...]:
    """Return the names of everything that has directories on this machine."""
    some = Installation("any")
    found: set[str] = set()
    for directory in (some.state, some.runtime, some.logs):
        with contextlib.suppress(FileNotFoundError):
            found.update(os.listdir(directory.parent))  # noqa: PTH208 - names are all we need
    return tuple(sorted(found))


@contextlib.contextmanager
def turn(name: str = "", *, wait_s: float) -> Iterator[None]:
    """Hold the right to change a lab, or without a name, to claim a network for one; nobody else has it meanwhile.

    It ends with the process that holds it, however that ends, and leaves no file. Raises `Conflict` when another
    command has not let go of it for `wait_s`.
    """
    what = f"the lab {name}" if name else "this machine's labs"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as claim:
        until_s = time.monotonic() + wait_s
        while not _claimed(claim, f"\0oakestra/lab/{name}"):
            if time.monotonic() >= until_s:
                raise Conflict(f"another `oak lab` command is changing {what}; try again when it is done")
            time.sleep(_LOOK_EVERY_S)
        yield


def _claimed(claim: socket.socket, name: str) -> bool:
    try:
        claim.bind(name)
    except OSError:
        return False
    return True


def _path(name: str) -> Path:
    return home(name).state / "lab.json"
