"""A root on loopback, and `oak` run in this process by somebody with a home of his own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from oakestra.cli import main
from served_root import ServedRoot, served_root


@dataclass(frozen=True)
class Said:
    """What a command printed, and its exit code."""

    code: int
    out: str
    err: str


@dataclass
class Oak:
    """Runs commands."""

    capture: pytest.CaptureFixture[str]
    home: Path

    def __call__(self, *words: str) -> Said:
        code = main(words)
        out, err = self.capture.readouterr()
        return Said(code, out, err)

    def good(self, *words: str) -> str:
        """Run a command that must work, and return what it printed."""
        said = self(*words)
        assert said.code == 0, said
        return said.out

    @property
    def file(self) -> Path:
        """Where it remembers logins."""
        return self.home / "oakestra" / "cli.json"


@pytest.fixture
def oak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Oak:
    """`oak` of somebody who never logged in anywhere."""
    home = tmp_path / "home"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for name in ("OAKESTRA_ROOT", "OAKESTRA_TOKEN", "OAKESTRA_INSTALLATION"):
        monkeypatch.delenv(name, raising=False)
    return Oak(capsys, home)


@pytest.fixture
def root(tmp_path: Path) -> Iterator[ServedRoot]:
    """A root that nobody is logged in to."""
    with served_root(tmp_path) as served:
        yield served


@pytest.fixture
def admin(oak: Oak, root: ServedRoot) -> Oak:
    """`oak` of Admin, logged in to the root."""
    oak.good("login", root.url, "--password", "secret")
    return oak
