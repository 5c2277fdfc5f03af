"""An installation on this machine: `oak up`, `oak down`, `oak status`, and what `oak cluster|worker join` do."""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from oakestra.cli import DONE, FAILED, readiness, tiers
from oakestra.cli.readiness import Check
from oakestra.control import processes, supervisor
from oakestra.control.installation import DEFAULT, Installation
from oakestra.control.supervisor import Program
from oakestra.model.errors import Forbidden, Invalid, Unavailable

TIERS = ("root", "cluster", "worker")
"""In the order in which they start; each needs the one before."""
READY_WITHIN_S = 60.0
STOPPED_WITHIN_S = 60.0
LOOK_EVERY_S = 0.05
FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""glibc gives memory back: without these a root keeps the 19 MiB of every password hash."""
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
        parser.add_argument("-o", "--output", choices=("table", "json"), default="table")
    parser.set_defaults(run={"up": up, "down": down, "status": status}[command])


# --- up --------------------------------------------------------------------------------------------------------


def up(args: argparse.Namespace) -> int:
    """Start the tiers and return when each of them is well."""
    home = Installation(args.installation)
    known = _flags_of(home)
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
    _start(home, {**_flags_of(home), tier: flags}, only=tier)
    return DONE


def _start(home: Installation, flags: Mapping[str, dict[str, Any]], *, only: str = "") -> None:
    if os.geteuid() != 0:
        raise Forbidden("starting tiers as services needs root rights; try again with sudo")
    for tier, values in flags.items():
        tiers.read_configuration(tier, values)  # a mistake is told before anything is touched
    home.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    (home.state / "tiers.json").write_text(json.dumps(flags, indent=2) + "\n")
    programs = [_program(home, tier, flags[tier]) for tier in TIERS if tier in flags]
    supervisor.write_programs(supervisor.programs_file(home), programs)
    have_supervisor(home)
    for tier in TIERS:
        if tier in flags and only in ("", tier):
            until_well(readiness.check(tier, flags[tier]), home)


def _flags_of(home: Installation) -> dict[str, dict[str, Any]]:
    try:
        return dict(json.loads((home.state / "tiers.json").read_text()))
    except (OSError, ValueError):
        return {}


def _program(home: Installation, tier: str, values: Mapping[str, Any]) -> Program:
    given = readiness.environment().items()
    kept = FRUGAL | {name: value for name, value in given if name.startswith("OAKESTRA_")}
    return Program(
        name=tier,
        command=(sys.executable, "-m", "oakestra", *tiers.command_words(tier, values)),
        log=str(home.logs / f"{tier}.log"),
        environment=tuple(sorted(kept.items())),
        revision=code_digest(),
    )


def code_digest() -> str:
    """Return a digest of our own code: what was changed must be restarted to take effect."""
    package = Path(__file__).parents[1]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()


def have_supervisor(home: Installation) -> None:
    """Start the installation's supervisor; have one that runs read again what should run."""
    running = supervisor.supervisor_of(home.runtime)
    if running is not None:
        processes.kill(running.pid, signal.SIGHUP)
        return
    home.logs.mkdir(mode=0o750, parents=True, exist_ok=True)
    with (home.logs / "supervisor.log").open("ab") as log:
        child = subprocess.Popen(
            (sys.executable, "-m", "oakestra", "supervise", f"--installation={home.name}"),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    while supervisor.supervisor_of(home.runtime) is None:
        if child.poll() is not None:
            raise Unavailable(
                f"the supervisor ended at once; its log ends with:\n{_tail(home.logs / 'supervisor.log')}"
            )
        time.sleep(LOOK_EVERY_S)
    child.returncode = 0  # it outlives us


def until_well(check: Check, home: Installation) -> None:
    """Return when a tier is well, and say so. Raises `Unavailable` with the end of its log if it does not become so."""
    begun_s = time.monotonic()
    said = ""
    while (trouble := check.trouble()) and time.monotonic() - begun_s < READY_WITHIN_S:
        if time.monotonic() - begun_s > 1.0 and trouble != said:
            said = trouble
            print(f"  … {check.what}: {trouble}", flush=True)
        time.sleep(LOOK_EVERY_S)
    if trouble:
        log = home.logs / f"{check.tier}.log"
        raise Unavailable(
            f"{check.what} did not come up within {READY_WITHIN_S:.0f} s: {trouble}\n"
            f"  its log, {log}, ends with:\n{_tail(log)}"
        )
    print(f"  ✓ {check.what} ({time.monotonic() - begun_s:.1f} s)", flush=True)


def _tail(path: Path) -> str:
    try:
        lines = path.read_text(errors="replace").splitlines()[-5:]
    except OSError:
        lines = ["(there is none)"]
    return "\n".join(f"    {line}" for line in lines)


# --- down ------------------------------------------------------------------------------------------------------


def down(args: argparse.Namespace) -> int:
    """Stop everything: tiers, broker, containers, network. State stays unless it is purged."""
    if os.geteuid() != 0:
        raise Forbidden("stopping an installation needs root rights; try again with sudo")
    home = Installation(args.installation)
    flags = _flags_of(home)
    _stop_supervisor(home)
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


def _stop_supervisor(home: Installation) -> None:
    running = supervisor.supervisor_of(home.runtime)
    if running is not None:
        processes.kill(running.pid, signal.SIGTERM)
        _until_ended(running.pid, running.start_ticks)
    for name, left in supervisor.read_running(home.runtime).items():  # of a supervisor that was killed
        processes.kill(left.pid, signal.SIGTERM)
        _until_ended(left.pid, left.start_ticks)
        print(f"  ✓ {name} had no supervisor and was stopped")


def _until_ended(pid: int, start_ticks: int) -> None:
    begun_s = time.monotonic()
    while processes.is_running(pid, start_ticks):
        if time.monotonic() - begun_s > STOPPED_WITHIN_S:
            processes.kill(pid)
        time.sleep(LOOK_EVERY_S)


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
    flags = _flags_of(home)
    running = supervisor.read_running(home.runtime)
    keeper = supervisor.supervisor_of(home.runtime)
    rows = [
        (
            "supervisor",
            keeper.pid if keeper else None,
            "" if keeper else "does not run; `sudo oak up` starts it",
        )
    ]
    for tier in (tier for tier in TIERS if tier in flags):
        pid = running[tier].pid if tier in running else None
        rows.append((tier, pid, readiness.check(tier, flags[tier]).trouble()))
    if not flags:
        print(f"nothing is installed as {home.name!r}; `sudo oak up` starts root, cluster and worker here")
        return FAILED
    _print_status(rows, args.output)
    return FAILED if any(trouble for _, _, trouble in rows) else DONE


def _print_status(rows: Sequence[tuple[str, int | None, str]], output: str) -> None:
    if output == "json":
        print(json.dumps([{"name": name, "pid": pid, "trouble": trouble} for name, pid, trouble in rows]))
        return
    for name, pid, trouble in rows:
        print(f"{name:<11} {pid or '-':<8} {trouble or 'well'}")
