"""systemd keeps an installation's tiers: played by one that has units only in memory and no process behind them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path

import pytest

from oakestra.cli.keeping.systemd import Done, Systemd
from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program
from oakestra.model.errors import Unavailable


@dataclass(frozen=True)
class Started:
    """A program as it was when it was started."""

    pid: int
    unit: str
    environment: str


@dataclass
class FakeSystemd:
    """Does what systemctl(1) says of the few words that are spoken to it; like it, knows units as of the last reload."""

    directory: Path
    loaded: dict[str, str] = field(default_factory=dict)
    enabled: set[str] = field(default_factory=set)
    running: dict[str, Started] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    cut_after: int | None = None
    """The command line that asks is killed after so many questions."""
    _pids: count[int] = field(default_factory=lambda: count(100))

    def __call__(self, command: Sequence[str]) -> Done:
        if self.cut_after is not None and len(self.asked) >= self.cut_after:
            raise KeyboardInterrupt
        self.asked.append(shlex.join(command))
        program, *words = command
        if program == "journalctl":
            return Done(code=0, output=f"line of {words[words.index('-u') + 1]}\n")
        assert program == "systemctl", command
        if words == ["--version"]:
            return Done(code=0, output="systemd 252 (252.38-1~deb12u1)\n+PAM +AUDIT\n")
        verb, *rest = words
        names = [word for word in rest if not word.startswith("-")]
        if verb == "daemon-reload":
            self.loaded = {path.name: path.read_text() for path in self.directory.glob("*.service")}
            return Done(code=0)
        unknown = [name for name in names if not self._knows(name)]
        if unknown:
            return Done(code=5, errors=f"Unit {unknown[0]} could not be found.\n")
        return self._do(verb, names, now="--now" in rest)

    def _knows(self, name: str) -> bool:
        if name not in self.loaded and (self.directory / name).exists():
            self.loaded[name] = (self.directory / name).read_text()  # as systemd does with what it never saw
        return name in self.loaded

    def _do(self, verb: str, names: Sequence[str], *, now: bool) -> Done:
        match verb:
            case "enable":
                self.enabled |= set(names)
            case "disable":
                self.enabled -= set(names)
                if now:
                    self._stop(names)
            case "start":
                for name in names:
                    if name not in self.running:
                        self.running[name] = self._started(name)
            case "stop":
                self._stop(names)
            case "show":
                blocks = [
                    f"MainPID={self.running[name].pid if name in self.running else 0}\nId={name}"
                    for name in names
                ]
                return Done(code=0, output="\n\n".join(blocks) + "\n")
            case _:
                pytest.fail(f"what is systemctl {verb}?")
        return Done(code=0)

    def _stop(self, names: Sequence[str]) -> None:
        for name in names:
            self.running.pop(name, None)

    def _started(self, name: str) -> Started:
        unit = self.loaded[name]
        file = re.search("^EnvironmentFile=(.*)$", unit, re.MULTILINE)
        assert file is not None
        return Started(pid=next(self._pids), unit=unit, environment=Path(file[1]).read_text())


@dataclass
class Machine:
    """A machine that systemd runs, and the keeper of one installation on it."""

    base: Path
    systemd: FakeSystemd
    keeper: Systemd

    @property
    def files(self) -> set[str]:
        return {path.name for path in self.base.rglob("*") if path.is_file()}

    def pids(self) -> dict[str, int]:
        return dict(self.keeper.running())


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    units, secrets = tmp_path / "units", tmp_path / "secrets"
    units.mkdir()
    secrets.mkdir()
    systemd = FakeSystemd(units)
    keeper = Systemd(Installation("site"), run=systemd, units_dir=units, secrets_dir=secrets)
    return Machine(tmp_path, systemd, keeper)


def program(tier: str, **changes: object) -> Program:
    whole = Program(name=tier, command=("/bin/oak", tier, "start"), log="/dev/null", revision="1")
    return replace(whole, **changes)  # type: ignore[arg-type]


ALL = (program("root"), program("cluster"), program("worker"))


def test_everything_runs_now_and_after_the_next_boot(machine: Machine) -> None:
    machine.keeper.start(ALL)
    assert set(machine.pids()) == {"root", "cluster", "worker"}
    assert machine.systemd.enabled == set(machine.systemd.running)
    assert machine.keeper.seen().trouble == ""


def test_starting_again_touches_nothing_that_runs(machine: Machine) -> None:
    machine.keeper.start(ALL)
    before = machine.pids()
    machine.keeper.start(ALL)
    assert machine.pids() == before
    assert not [asked for asked in machine.systemd.asked if "restart" in asked or " stop " in asked]


@pytest.mark.parametrize(
    "changed",
    [
        program("cluster", revision="2"),
        program("cluster", command=("/bin/oak", "cluster", "start", "--name=x")),
        program("cluster", environment=(("OAKESTRA_CLUSTER_NAME", "x"),)),
    ],
    ids=["code", "command", "environment"],
)
def test_only_what_changed_is_restarted_and_has_the_change(machine: Machine, changed: Program) -> None:
    machine.keeper.start(ALL)
    before = machine.pids()
    machine.keeper.start((ALL[0], changed, ALL[2]))
    after = machine.pids()
    assert {tier for tier in after if after[tier] != before[tier]} == {"cluster"}
    fresh = machine.systemd.running["oakestra-site-cluster.service"]
    units, secrets = machine.base / "units", machine.base / "secrets"
    assert fresh.unit == (units / "oakestra-site-cluster.service").read_text()
    assert fresh.environment == (secrets / "cluster.environment").read_text()


def test_what_is_not_wanted_any_more_is_gone(machine: Machine) -> None:
    machine.keeper.start(ALL)
    machine.keeper.start(ALL[2:])
    assert set(machine.pids()) == {"worker"}
    assert machine.files == {"oakestra-site-worker.service", "worker.environment"}
    assert machine.systemd.enabled == {"oakestra-site-worker.service"}


def test_stopping_leaves_nothing_and_may_be_repeated(machine: Machine) -> None:
    machine.keeper.start(ALL)
    assert machine.keeper.stop() == ()
    assert machine.keeper.stop() == ()
    assert (machine.files, machine.pids(), machine.systemd.running) == (set(), {}, {})
    assert (machine.systemd.enabled, machine.systemd.loaded) == (set(), {})
    assert "oak up" in machine.keeper.seen().trouble


def test_another_installation_s_units_are_not_ours(machine: Machine) -> None:
    machine.keeper.start(ALL)
    other = Systemd(
        Installation("other"), run=machine.systemd, units_dir=machine.base / "units", secrets_dir=machine.base
    )
    assert other.running() == {}
    other.stop()
    assert len(machine.pids()) == 3


def test_secrets_are_for_root_only_and_not_in_the_unit(machine: Machine) -> None:
    machine.keeper.start((program("root", environment=(("OAKESTRA_ADMIN_PASSWORD", "geheim"),)),))
    secret = machine.base / "secrets" / "root.environment"
    assert secret.stat().st_mode & 0o777 == 0o600
    assert "geheim" in secret.read_text()
    assert "geheim" not in machine.systemd.running["oakestra-site-root.service"].unit


CHANGES: dict[str, Callable[[], tuple[Program, ...]]] = {
    "changed": lambda: (program("root", revision="2"), ALL[1], program("worker", revision="2")),
    "fewer": lambda: ALL[:1],
    "secret": lambda: (*ALL[:2], program("worker", environment=(("OAKESTRA_X", "1"),))),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cut_after", range(8))
def test_a_start_that_was_cut_off_is_finished_by_the_next(
    machine: Machine, cut_after: int, change: str
) -> None:
    """Whoever types `oak up` may press Ctrl-C anywhere."""
    machine.keeper.start(ALL)
    wanted = CHANGES[change]()
    machine.systemd.asked.clear()
    machine.systemd.cut_after = cut_after
    try:
        machine.keeper.start(wanted)
    except KeyboardInterrupt:
        machine.systemd.cut_after = None
        machine.keeper.start(wanted)
    machine.systemd.cut_after = None
    assert set(machine.pids()) == {program.name for program in wanted}
    for name, seen in machine.systemd.running.items():
        tier = name.removesuffix(".service").rpartition("-")[2]
        assert seen.unit == (machine.base / "units" / name).read_text(), "it runs what the file says"
        assert seen.environment == (machine.base / "secrets" / f"{tier}.environment").read_text()


def test_what_systemd_refuses_is_told_in_its_words(machine: Machine) -> None:
    def refuse(command: Sequence[str]) -> Done:
        return Done(code=1, errors="Access denied\n") if "start" in command else machine.systemd(command)

    keeper = Systemd(
        Installation("site"), run=refuse, units_dir=machine.base / "units", secrets_dir=machine.base
    )
    with pytest.raises(Unavailable, match=r"systemctl start .*: Access denied"):
        keeper.start(ALL)


def test_a_directory_that_cannot_be_written_is_named(machine: Machine) -> None:
    nowhere = machine.base / "nowhere"
    keeper = Systemd(
        Installation("site"), run=machine.systemd, units_dir=nowhere, secrets_dir=machine.base / "secrets"
    )
    with pytest.raises(Unavailable, match=f"{nowhere}/oakestra-site-root.service cannot be written"):
        keeper.start(ALL)


def test_logs_are_found_in_the_journal(machine: Machine) -> None:
    assert machine.keeper.log("root") == "journalctl -u oakestra-site-root.service"
    assert machine.keeper.last_words("root") == ["line of oakestra-site-root.service"]
