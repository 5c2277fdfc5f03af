"""`oak root backup` and `oak root restore`: copy root's records to a file, and put such a copy back."""

from __future__ import annotations

import argparse
import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from oakestra.cli import DONE
from oakestra.model.errors import Forbidden, Unavailable

if TYPE_CHECKING:
    from oakestra.control.installation import Installation

TABLES = frozenset({"users", "services", "slots", "clusters"})
"""Every version of root's records has these; nobody else's has all of them."""
STARTED_WITHIN_S = 30.0
LOOK_EVERY_S = 0.1
Actions = Any


def build(actions: Actions) -> None:
    """Describe both."""
    _action(actions, "backup", "copy root's records to a new file, while it runs", "FILE", _back_up)
    _action(
        actions, "restore", "put a copy of root's records back, and have root start with it", "FILE", _restore
    )


def _action(actions: Actions, name: str, about: str, file: str, run: Any) -> None:
    parser = actions.add_parser(name, help=about, description=about)
    parser.add_argument("file", metavar=file, type=Path, help="the copy")
    parser.add_argument("--installation", metavar="NAME", help="of which installation on this machine")
    parser.set_defaults(run=run)


def _back_up(args: argparse.Namespace) -> int:
    from oakestra.store import copies

    store = _store(args)
    copies.back_up(store, args.file)
    print(
        f"{args.file} has all that root knows now; keep it as safe as root itself: passwords' hashes are in it"
    )
    return DONE


def _restore(args: argparse.Namespace) -> int:
    from oakestra.cli import installation
    from oakestra.control.installation import DEFAULT, Installation
    from oakestra.store import copies
    from oakestra.store.sqlite import SCHEMAS

    store = _store(args)
    copies.offer(args.file, store, tables=TABLES, version_max=len(SCHEMAS["root"]))
    home = Installation(args.installation or DEFAULT)
    if not _started_again(home):
        how = starting_now(home.name, kept="root" in installation.flags_of(home))
        print(f"root takes the records of {args.file} when it starts next: {how}")
        return DONE
    print(f"root has the records of {args.file}; those it had are in {store}.replaced")
    return DONE


def starting_now(installation: str, *, kept: bool) -> str:
    """Return what to do so that a root that does not run, or that others keep, takes the copy; `kept`: by `oak up`."""
    from oakestra.control.installation import DEFAULT

    command = "sudo oak up" if installation == DEFAULT else f"sudo oak up --installation {installation}"
    if kept:
        return f"have it start now: {command}"
    return f"have it start now, as it was started before; on a new machine: {command}"


def _store(args: argparse.Namespace) -> Path:
    from oakestra.cli import tiers

    if os.geteuid() != 0:
        raise Forbidden("root's records are readable by root only; try again with sudo")
    store: Path = tiers.read_configuration("root", _flags(args)).records
    return store


def _flags(args: argparse.Namespace) -> dict[str, Any]:
    return {"installation": args.installation} if args.installation else {}


def _started_again(home: Installation) -> bool:
    """Have root start again and return when it is well, if it is kept running here."""
    from oakestra.cli import installation
    from oakestra.cli.keeping import keeper_of, readiness
    from oakestra.control import processes

    keeper = keeper_of(home)
    before = keeper.running().get("root")
    if before is None:
        return False
    processes.kill(before, signal.SIGTERM)
    until_s = time.monotonic() + STARTED_WITHIN_S
    while keeper.running().get("root") in (None, before):
        if time.monotonic() > until_s:
            raise Unavailable(f"root did not start again; its log is {keeper.log('root')}")
        time.sleep(LOOK_EVERY_S)
    flags = installation.flags_of(home).get("root")
    if flags is not None:  # a root that others than `oak up` keep is asked for by them
        installation.until_well(readiness.check("root", flags), keeper)
    return True
