"""Run `oak` in this process, as somebody with a home and a machine of his own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from oakestra.cli import main


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Elsewhere:
    """An installation whose directories are not the machine's; stands in for `control.installation.Installation`."""

    base: Path
    name: str

    @property
    def state(self) -> Path:
        return self.base / "state" / self.name

    @property
    def runtime(self) -> Path:
        return self.base / "run" / self.name

    def configuration(self, tier: str) -> Path:
        return self.base / "etc" / self.name / f"{tier}.toml"


@dataclass
class Oak:
    """Runs commands."""

    capture: pytest.CaptureFixture[str]
    home: Path
    machine: Path

    def __call__(self, *words: str) -> Said:
        code = main(words)
        out, err = self.capture.readouterr()
        return Said(code, out, err)

    def good(self, *words: str) -> str:
        """Run a command that must work, and return what it printed."""
        said = self(*words)
        assert said.code == 0, said
        return said.out

    def bad(self, *words: str, code: int = 1) -> str:
        """Run a command that must fail without printing anything, and return what it said instead."""
        said = self(*words)
        assert (said.code, said.out) == (code, ""), said
        return said.err

    @property
    def file(self) -> Path:
        """Where it remembers logins."""
        return self.home / "oakestra" / "cli.json"

    def installation(self, name: str = "default") -> Elsewhere:
        """An installation on its machine."""
        return Elsewhere(self.machine, name)
