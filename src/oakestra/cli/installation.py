"""An installation on this machine: `oak up`, `oak down`, `oak status`, and what `oak cluster|worker join` do."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import shutil
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from oakestra.cli import DONE, FAILED, tiers
from oakestra.cli.keeping import Keeper, Seen, keeper_of, readiness
from oakestra.cli.keeping.programs import TIERS, code_digest, programs
from oakestra.cli.keeping.readiness import Check
from oakestra.control.installation import DEFAULT, Installation
from oakestra.model.errors import Forbidden, Invalid, Unavailable

READY_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05
OAK_LINK = Path("/usr/local/bin/oak")


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the command that was typed; the word itself is in the defaults."""
    command = parser.get_default("command")
    parser.add_argument(
        "--installation",
        default=DEFAULT,
        metavar="NAME",
        help="which of several installations on this machine",
    )
    if command == "up":
        parser.add_argument("--listen", help="address that root and cluster listen on; loopback unless told")
        parser.add_argument("--name", help="what users call this machine's cluster and worker")
        parser.add_argument(
            "--tiers", help="which of root,cluster,worker; unless told otherwise those of before, or all"
        )
    if command == "down":
        parser.add_argument(
            "--purge", action="store_true", help="remove state and logs as well: leave nothing"
        )
    if command == "status":
        parser.add_argument(
            "-o", "--output", choices=("table", "json"), default="table", help="table (the default) or json"
        )
    parser.set_defaults(run={"up": up, "down": down, "status": status}[command])


# --- up --------------------------------------------------------------------------------------------------------


def up(args: argparse.Namespace) -> int:
    """Start the tiers and return when each of them is well."""
    home = Installation(args.installation)
    known = flags_of(home)
    named = args.tiers.split(",") if args.tiers else list(known) or TIERS
    unknown = sorted(set(named) - set(TIERS))
    if unknown:
        raise Invalid(f"--tiers: {unknown[0]!r} is no tier; expected some of {','.join(TIERS)}")
    asked = {"name": args.name, "listen": args.listen, "installation": args.installation}
    flags = {
        tier: {**known.get(tier, {}), **{field: asked[field] for field in _common(tier) if asked[field]}}
        for tier in TIERS
        if tier in named
    }
    _start(home, flags)
    return DONE


def _common(tier: str) -> tuple[str, ...]:
    """Return the settings of a tier that `oak up` can give."""
    return {
        "root": ("installation", "listen"),
        "cluster": ("installation", "listen", "name"),
        "worker": ("installation", "name"),
    }[tier]


def join(args: argparse.Namespace, tier: str) -> int:
    """Start one more tier on this machine and return when it has joined."""
    flags = tiers.given(args, tier)
    home = Installation(flags.setdefault("installation", DEFAULT))
    above = {"cluster": "root", "worker": "cluster"}[tier]
    flags[above] = getattr(args, above)
    _start(home, {**flags_of(home), tier: flags}, only=tier)
    return DONE


def _start(home: Installation, flags: Mapping[str, dict[str, Any]], *, only: str = "") -> None:
    if os.geteuid() != 0:
        raise Forbidden("starting tiers as services needs root rights; try again with sudo")
    for tier, values in flags.items():
        tiers.read_configuration(tier, values)  # a mistake is told before anything is touched
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home.state / "tiers.json").write_text(json.dumps(flags, indent=2) + "\n")
    keeper = keeper_of(home)
    keeper.start(
        programs(
            home,
            flags,
            python=sys.executable,
            environment=readiness.environment(),
            revision=code_digest(),
        )
    )
    for tier in TIERS:
        if tier in flags and only in ("", tier):
            until_well(readiness.check(tier, flags[tier]), keeper)


def flags_of(home: Installation) -> dict[str, dict[str, Any]]:
    """Return the settings that each tier of an installation was started with; nothing if there is none."""
    try:
        return dict(json.loads((home.state / "tiers.json").read_text()))
    except (OSError, ValueError):
        return {}


def until_well(check: Check, keeper: Keeper) -> None:
    """Return when a tier is well, and say so. Raises `Unavailable` with the end of its log if it does not become so."""
    begun_s = time.monotonic()
    said = ""
    while (trouble := check.trouble()) and time.monotonic() - begun_s < READY_WITHIN_S:
        if time.monotonic() - begun_s > 1.0 and trouble != said:
            said = trouble
            print(f"  … {check.tier}: {trouble}", flush=True)
        time.sleep(LOOK_EVERY_S)
    if trouble:
        end = "\n".join(f"    {line}" for line in keeper.last_words(check.tier))
        raise Unavailable(
            f"{check.tier} is not well after {READY_WITHIN_S:.0f} s: {trouble}\n"
            f"  its log, {keeper.log(check.tier)}, ends with:\n{end}"
        )
    print(f"  ✓ {check.what} ({time.monotonic() - begun_s:.1f} s)", flush=True)


# --- down ------------------------------------------------------------------------------------------------------


def down(args: argparse.Namespace) -> int:
    """Stop everything: tiers, broker, containers, network. State stays unless it is purged."""
    if os.geteuid() != 0:
        raise Forbidden("stopping an installation needs root rights; try again with sudo")
    home = Installation(args.installation)
    flags = flags_of(home)
    for name in keeper_of(home).stop():
        print(f"  ✓ {name} had no supervisor and was stopped")
    for tier, trouble in _tear_down(flags):
        print(f"  {'✗' if trouble else '✓'} {tier}{': ' + trouble if trouble else ' is gone'}", flush=True)
    shutil.rmtree(home.runtime, ignore_errors=True)
    if args.purge:
        for directory in (home.state, home.logs):
            shutil.rmtree(directory, ignore_errors=True)
        if home.name == DEFAULT and OAK_LINK.is_symlink() and _is_ours(OAK_LINK):
            OAK_LINK.unlink()
        _remove_empty(home)
        print("everything is removed")
    else:
        print("stopped; `oak up` starts it again with what it knew, `oak down --purge` forgets everything")
    return DONE


def _tear_down(flags: Mapping[str, dict[str, Any]]) -> Iterator[tuple[str, str]]:
    from oakestra.model.errors import OakestraError

    for tier in reversed(TIERS):
        if tier not in flags:
            continue
        trouble = ""
        try:
            if tier == "worker":
                from oakestra.worker import service as worker

                asyncio.run(worker.tear_down(tiers.read_configuration(tier, flags[tier])))
            elif tier == "cluster":
                from oakestra.cluster import service as cluster

                asyncio.run(cluster.tear_down(tiers.read_configuration(tier, flags[tier])))
        except* OakestraError as group:
            trouble = "; ".join(str(error) for error in group.exceptions)
        yield tier, trouble


def _is_ours(link: Path) -> bool:
    return link.resolve().parent == Path(sys.executable).parent.resolve()


def _remove_empty(home: Installation) -> None:
    for directory in (home.state, home.runtime, home.logs):
        for parent in directory.parents:
            if parent.name in ("lib", "run", "log"):
                break
            try:
                parent.rmdir()
            except OSError:
                break


# --- status ----------------------------------------------------------------------------------------------------


def status(args: argparse.Namespace) -> int:
    """Tell how each tier is; exit with 1 if one of them is not well."""
    home = Installation(args.installation)
    flags = flags_of(home)
    if not flags:
        if args.output == "json":
            print("[]")
        print(
            f"oak: nothing is installed as {home.name!r}; `sudo oak up` starts root, cluster and worker here",
            file=sys.stderr,
        )
        return FAILED
    keeper = keeper_of(home)
    running = keeper.running()
    rows = [
        keeper.seen(),
        *(
            Seen(name=tier, pid=running.get(tier), trouble=readiness.check(tier, flags[tier]).trouble())
            for tier in TIERS
            if tier in flags
        ),
    ]
    _print_status(keeper, rows, args.output)
    return FAILED if any(row.trouble for row in rows) else DONE


def _print_status(keeper: Keeper, rows: Sequence[Seen], output: str) -> None:
    if output == "json":
        print(json.dumps([asdict(row) for row in rows]))
        return
    for row in rows:
        print(f"{row.name:<11} {row.pid or '-':<8} {row.trouble or 'well'}")
    for row in rows[1:]:
        if row.trouble:
            print(f"what {row.name} says: {keeper.log(row.name)}")
