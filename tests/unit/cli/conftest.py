"""A root on loopback, and somebody who asks it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from oak_command import Elsewhere, Oak
from oakestra.cli import worker
from oakestra.cli.client import session
from served_root import ServedRoot, served_root


@pytest.fixture
def oak(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Oak:
    """`oak` of somebody who never logged in anywhere, on a machine without an installation."""
    home, machine = tmp_path / "home", tmp_path / "machine"
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    for name in ("OAKESTRA_ROOT", "OAKESTRA_TOKEN", "OAKESTRA_INSTALLATION"):
        monkeypatch.delenv(name, raising=False)
    for module in (session, worker):
        monkeypatch.setattr(module, "Installation", partial(Elsewhere, machine))
    return Oak(capsys, home, machine)


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
