"""Keep programs running with systemd: one unit for each tier, its output in the journal."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from oakestra.cli.keeping import Seen, units
from oakestra.cli.keeping.programs import TIERS
from oakestra.control import processes
from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program
from oakestra.model.errors import Unavailable

UNITS = Path("/etc/systemd/system")
_BOOTED = Path("/run/systemd/system")
"""Is there if systemd started this machine: sd_booted(3)."""
LAST_WORDS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """What a command that ended said."""

    code: int
    output: str = ""
    errors: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A file as it should be."""

    path: Path
    content: str
    mode: int


Run = Callable[[Sequence[str]], Done]
"""Runs a command to its end."""


def run(command: Sequence[str]) -> Done:
    """Run a command of this machine."""
    try:
        done = subprocess.run(
            command, env={"PATH": processes.PATH}, capture_output=True, text=True, check=False
        )
    except FileNotFoundError as error:
        return Done(code=127, errors=f"there is no program {error.filename}")
    return Done(code=done.returncode, output=done.stdout, errors=done.stderr)


def is_here() -> bool:
    """Tell whether systemd runs this machine, and would start programs in the network that we are in."""
    return _BOOTED.is_dir() and _network_of("1") in ("", _network_of("self"))


def _network_of(pid: str) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/net").readlink())
    except OSError:
        return ""  # not ours to know, so we are not root, and whoever is not root only looks


class Systemd:
    """Implements `Keeper` for a machine that systemd runs."""

    def __init__(
        self, home: Installation, *, run: Run = run, units_dir: Path = UNITS, secrets_dir: Path | None = None
    ) -> None:
        self._home = home
        self._run = run
        self._units_dir = units_dir
        self._secrets_dir = secrets_dir or home.state

    def start(self, programs: Sequence[Program]) -> None:
        """See `Keeper.start`. What changed is stopped before that is noted, so that a start cut off anywhere is
        finished by the next.
        """
        version = self._version()
        there = self._there()
        wanted = {program.name: self._files(program, version) for program in programs}
        changed = [tier for tier, files in wanted.items() if not all(map(_is_so, files))]
        self._withdraw([tier for tier in there if tier not in wanted])
        self._for_each("stop", [tier for tier in there if tier in changed])
        for tier in changed:
            for file in wanted[tier]:
                _write(file)
        self._systemctl("daemon-reload")  # also for files that a start before was cut off after
        self._for_each("enable", wanted, "--quiet")
        self._for_each("start", wanted)

    def stop(self) -> Sequence[str]:
        there = self._there()
        if there:
            self._withdraw(there)
            self._systemctl("daemon-reload")
        return ()

    def running(self) -> Mapping[str, int]:
        there = {self._name(tier): tier for tier in self._there()}
        if not there:
            return {}
        shown = self._systemctl("show", "--property=Id,MainPID", *there)
        found: dict[str, int] = {}
        for block in shown.split("\n\n"):
            said = dict(line.split("=", 1) for line in block.splitlines())
            if said["MainPID"] != "0":
                found[there[said["Id"]]] = int(said["MainPID"])
        return found

    def seen(self) -> Seen:
        known = bool(self._there())
        trouble = "" if known else "knows nothing of this installation; `sudo oak up` tells it"
        return Seen(name="systemd", pid=1, trouble=trouble)

    def log(self, name: str) -> str:
        return f"journalctl -u {self._name(name)}"

    def last_words(self, name: str) -> Sequence[str]:
        command = ("journalctl", "-u", self._name(name), "-n", str(LAST_WORDS), "-o", "cat", "--no-pager")
        return self._run(command).output.splitlines() or ("(there is none)",)

    def _name(self, tier: str) -> str:
        return units.unit_name(self._home.name, tier)

    def _unit(self, tier: str) -> Path:
        return self._units_dir / self._name(tier)

    def _secrets(self, tier: str) -> Path:
        return self._secrets_dir / f"{tier}.environment"

    def _there(self) -> tuple[str, ...]:
        """Return the tiers that have a unit, in the order in which they start."""
        return tuple(tier for tier in TIERS if self._unit(tier).exists())

    def _files(self, program: Program, version: int) -> tuple[File, ...]:
        """Return the files that make systemd run a program."""
        secrets = self._secrets(program.name)
        unit = units.render_unit(program, self._home, environment_file=secrets, version=version)
        environment = units.render_environment(program.whole_environment)
        return (
            File(path=secrets, content=environment, mode=0o600),
            File(path=self._unit(program.name), content=unit, mode=0o644),
        )

    def _withdraw(self, tiers: Sequence[str]) -> None:
        """Stop tiers for good and take their files away."""
        self._for_each("disable", tiers, "--quiet", "--now")
        for tier in tiers:
            self._secrets(tier).unlink(missing_ok=True)
            self._unit(tier).unlink(missing_ok=True)

    def _for_each(self, verb: str, tiers: Iterable[str], *flags: str) -> None:
        names = [self._name(tier) for tier in tiers]
        if names:
            self._systemctl(verb, *flags, *names)

    def _version(self) -> int:
        """Return the version of systemd, as in `systemd 252 (252.38-1)`."""
        digits = self._systemctl("--version").split()[1]
        return int(digits) if digits.isdecimal() else 0

    def _systemctl(self, *words: str) -> str:
        done = self._run(("systemctl", *words))
        if done.code != 0:
            raise Unavailable(
                f"systemd could not do `systemctl {' '.join(words)}`: {done.errors.strip() or 'it does not say why'}"
            )
        return done.output


def _is_so(file: File) -> bool:
    try:
        return file.path.read_text() == file.content
    except FileNotFoundError:
        return False


def _write(file: File) -> None:
    """Replace a file at once. Raises `Unavailable` saying what to do without it."""
    draft = file.path.with_name(f"{file.path.name}.new")
    try:
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, file.mode), "w") as out:
            out.write(file.content)
        draft.replace(file.path)
    except OSError as error:
        raise Unavailable(
            f"{file.path} cannot be written, so systemd cannot be told what to run: {error.strerror}; "
            "the tiers can be run in the foreground: oak root start, oak cluster start, oak worker start"
        ) from error
