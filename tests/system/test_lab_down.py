"""Nothing is left of a lab, however far it had come and whatever had died; and nobody beside it is disturbed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from lab_fixture import IMAGE, Oak, until
from oakestra.control import processes

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

REAPER = Path(__file__).parents[1] / "reaper.py"
EXAMPLE = Path(__file__).parents[2] / "examples" / "web.json"
NAME = f"d{os.getpid() % 10**7}"
PARTNER = f"e{os.getpid() % 10**7}"


class Place:
    """A network of the test's own to make labs in, and the ancestor of everything that is started there."""

    def __init__(self, oak: Oak, reaper: subprocess.Popen[str]) -> None:
        self._oak = oak
        self._reaper = reaper

    def oak(self, *words: str, kill_after_s: float | None = None, check: bool = True) -> str:
        """Type a command; SIGKILL it after that time if there is one. Return what it said."""
        answer = self._tell(
            run=self._oak.command(*words), environment=self._oak.variables, kill_after_s=kill_after_s
        )
        assert not check or answer["code"] == 0, f"{words}: {answer}"
        return str(answer["said"])

    def json(self, *words: str) -> Any:
        return json.loads(self.oak(*words, "-o", "json"))

    def run(self, *command: str) -> str:
        return str(self._tell(run=command, environment=self._oak.variables)["said"])

    def left(self) -> list[str]:
        """Return the command lines of what runs on after the commands that started it."""
        return list(self._tell(left=True)["left"])

    def _tell(self, **order: object) -> dict[str, Any]:
        assert self._reaper.stdin is not None
        assert self._reaper.stdout is not None
        self._reaper.stdin.write(json.dumps(order) + "\n")
        self._reaper.stdin.flush()
        return dict(json.loads(self._reaper.stdout.readline()))


@dataclass(frozen=True)
class Traces:
    """What a machine shows of labs."""

    processes: tuple[str, ...]
    links: str
    tables: str
    namespaces: frozenset[str]
    mounts: frozenset[str]
    cgroups: frozenset[str]
    directories: frozenset[str]

    @classmethod
    def of(cls, place: Place, *names: str) -> Traces:
        def ours(text: object) -> bool:
            return any(name in str(text) for name in names)

        parents = [Path(parent) / "oakestra" for parent in ("/var/lib", "/run", "/var/log", "/etc")]
        mounts = Path("/proc/self/mountinfo").read_text().splitlines()
        return cls(
            processes=tuple(place.left()),
            links=place.run("ip", "-br", "link") + place.run("ip", "route"),
            tables=place.run("nft", "list", "ruleset"),
            namespaces=frozenset(str(path) for path in Path("/run/netns").iterdir() if ours(path)),
            mounts=frozenset(filter(ours, mounts)),
            cgroups=frozenset(directory for directory, _, _ in os.walk("/sys/fs/cgroup") if ours(directory)),
            directories=frozenset(
                str(path) for parent in parents if parent.exists() for path in parent.iterdir() if ours(path)
            ),
        )


@pytest.fixture
def place(need_lab: None, tmp_path: Path) -> Iterator[Place]:
    name = f"oaktest-{os.getpid()}"
    subprocess.run(("ip", "netns", "add", name), check=True)
    try:
        subprocess.run(("ip", "-n", name, "link", "set", "lo", "up"), check=True)
        with _reaping(name) as reaper:
            made = Place(Oak(tmp_path), reaper)
            yield made
            for lab in (NAME, PARTNER):
                made.oak("lab", "down", "--name", lab, check=False)
    finally:
        subprocess.run(("ip", "netns", "del", name), check=True)


@contextmanager
def _reaping(netns: str) -> Iterator[subprocess.Popen[str]]:
    command = ("nsenter", f"--net=/run/netns/{netns}", "--", sys.executable, str(REAPER))
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as reaper:
        yield reaper


def test_down_leaves_nothing_of_a_lab_in_use(place: Place) -> None:
    before = Traces.of(place, NAME)
    assert not before.processes
    place.oak("lab", "up", "--name", NAME, "--clusters", "1", "--workers", "2")
    url = place.oak("lab", "env", "--name", NAME).partition("=")[2].strip()
    place.oak("app", "create", str(EXAMPLE), "--deploy", "--wait", "--root", url)
    place.oak("lab", "cut", "--name", NAME, "w1", "w2", "--loss", "0.1")
    during = Traces.of(place, NAME)
    assert sum("conmon" in line for line in during.processes) == 2
    assert during.links != before.links
    assert during.mounts and during.cgroups and during.namespaces and during.directories  # noqa: PT018
    place.oak("lab", "down", "--name", NAME)
    assert Traces.of(place, NAME) == before
    assert "there is no lab" in place.oak("lab", "status", "--name", NAME, check=False)


@pytest.mark.parametrize("kill_after_s", [0.15, 0.2, 0.25, 0.3, 0.4, 0.6, 1.2, 2.4])
def test_down_removes_what_a_killed_up_had_made(place: Place, kill_after_s: float) -> None:
    before = Traces.of(place, NAME)
    place.oak(
        "lab",
        "up",
        "--name",
        NAME,
        "--clusters",
        "1",
        "--workers",
        "2",
        kill_after_s=kill_after_s,
        check=False,
    )
    place.oak("lab", "down", "--name", NAME)
    assert Traces.of(place, NAME) == before


def test_down_needs_neither_records_nor_ancestors(place: Place) -> None:
    """What killed supervisors, agents and conmons and lost files leave behind is found by name."""
    before = Traces.of(place, NAME)
    place.oak("lab", "up", "--name", NAME, "--clusters", "1", "--workers", "1")
    url = place.oak("lab", "env", "--name", NAME).partition("=")[2].strip()
    place.oak("app", "create", str(EXAMPLE), "--deploy", "--wait", "--root", url)
    for argument in (
        f"--installation=lab-{NAME}",
        f"--installation=lab-{NAME}/c1",
        f"--installation=lab-{NAME}/w1",
    ):
        found = processes.find_by_argument(argument)
        assert found, "a child that is just being made has its parent's words"
        for process in found:
            processes.kill(process)
    until(
        lambda: any("mosquitto" in line for line in place.left())
    )  # what was killed takes a moment to be dead
    for line in place.left():
        if line.startswith("/usr/bin/conmon"):
            for conmon in processes.find_by_argument(line.split()[line.split().index("--cuuid") + 1]):
                processes.kill(conmon)
    until(lambda: any("/bin/serve" in line for line in place.left()))
    assert any("mosquitto" in line for line in place.left())
    for directory in (f"/var/lib/oakestra/lab-{NAME}", f"/run/oakestra/lab-{NAME}"):
        for file in Path(directory).glob("*.json"):
            file.unlink()
    listed = place.json("lab", "ls")
    assert [(lab["name"], bool(lab["trouble"])) for lab in listed if lab["name"] == NAME] == [(NAME, True)]
    place.oak("lab", "down", "--name", NAME)
    assert Traces.of(place, NAME) == before


def test_a_killed_up_is_completed_by_the_next_one(place: Place) -> None:
    words = ("lab", "up", "--name", NAME, "--clusters", "1", "--workers", "1")
    place.oak(*words, kill_after_s=0.25, check=False)
    assert IMAGE in place.oak(*words)
    hosts = place.json("lab", "status", "--name", NAME)
    assert [(host["host"], host["trouble"]) for host in hosts] == [("root", ""), ("c1", ""), ("w1", "")]


def test_a_reboot_that_was_killed_is_made_good_by_up(place: Place) -> None:
    """Wherever it stopped: with the supervisor held still, the host without a network, or its new boot unknown."""
    words = ("lab", "up", "--name", NAME, "--clusters", "1", "--workers", "1")
    place.oak(*words)
    for kill_after_s in (0.16, 0.2, 0.24, 0.3):
        place.oak("lab", "reboot", "--name", NAME, "w1", kill_after_s=kill_after_s, check=False)
        place.oak(*words)
        assert not [host for host in place.json("lab", "status", "--name", NAME) if host["trouble"]]


def test_a_machine_that_rebooted_has_its_lab_back(place: Place) -> None:
    """Namespaces, processes and /run are gone; what is on disk is there. Then `up` is all it takes."""
    words = ("lab", "up", "--name", NAME, "--clusters", "1", "--workers", "1")
    place.oak(*words)
    first = place.json("lab", "ls")
    kept = Path(f"/var/lib/oakestra/lab-{NAME}")
    aside = kept.with_name(f"lab-{PARTNER}-aside")
    shutil.copytree(kept, aside, symlinks=True)
    place.oak("lab", "down", "--name", NAME)
    aside.rename(kept)
    assert "1" in place.oak(*words)
    assert place.json("lab", "ls") == first
    assert not [host for host in place.json("lab", "status", "--name", NAME) if host["trouble"]]


def test_two_labs_stand_side_by_side(place: Place) -> None:
    """They have networks of their own, and the end of one is not felt by the other."""
    for name in (NAME, PARTNER):
        place.oak("lab", "up", "--name", name, "--clusters", "1", "--workers", "1")
    listed = {lab["name"]: lab for lab in place.json("lab", "ls")}
    assert listed[NAME]["network"] != listed[PARTNER]["network"]
    refused = place.oak("lab", "status", check=False)
    assert "several labs" in refused
    assert NAME in refused
    before = place.json("lab", "status", "--name", NAME)
    place.oak("lab", "reboot", "--name", PARTNER, "w1")
    place.oak("lab", "down", "--name", PARTNER)
    assert place.json("lab", "status", "--name", NAME) == before
