"""Settings come from file, environment and flags, and every mistake is told at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest

from oakestra.cluster.config import ClusterConfig
from oakestra.control import settings
from oakestra.control.installation import Installation
from oakestra.model.errors import Invalid
from oakestra.root.config import RootConfig
from oakestra.worker.config import WorkerConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """Settings of nobody."""

    port: int = 1
    name: str = "n"
    places: tuple[str, ...] = ()
    open: bool = False
    needed: str = field()


def load(
    tmp_path: Path, text: str = "", environment: dict[str, str] | None = None, **flags: object
) -> Sample:
    file = tmp_path / "x.toml"
    file.write_text(text)
    return settings.load(Sample, file=file, environment=environment or {}, flags=flags, tier="x")


def test_a_later_source_wins(tmp_path: Path) -> None:
    text = 'port = 2\nname = "file"\nneeded = "file"\nplaces = ["a"]'
    found = load(tmp_path, text, {"OAKESTRA_X_NAME": "env", "OAKESTRA_X_PORT": "3"}, port=4)
    assert found == Sample(port=4, name="env", needed="file", places=("a",))


def test_a_variable_may_hold_a_list_and_a_truth(tmp_path: Path) -> None:
    variables = {"OAKESTRA_X_PLACES": "/a, /b", "OAKESTRA_X_OPEN": "true", "OAKESTRA_X_NEEDED": "y"}
    assert load(tmp_path, environment=variables) == Sample(places=("/a", "/b"), open=True, needed="y")


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    with pytest.raises(Invalid) as failure:
        load(tmp_path, 'prot = 1\nport = "many"')
    said = str(failure.value)
    assert "there is no setting 'prot'" in said
    assert "port: Expected `int`" in said
    assert "needed is missing" in said


def test_a_file_that_is_no_toml_is_named(tmp_path: Path) -> None:
    with pytest.raises(Invalid, match=r"x\.toml cannot be read: "):
        load(tmp_path, "port")


def test_secrets_are_not_shown() -> None:
    shown = settings.render(RootConfig(admin_password="hunter2"), secret=frozenset({"admin_password"}))
    assert "hunter2" not in shown
    assert 'admin_password = "(hidden)"' in shown
    assert "api_port = 10000" in shown


@pytest.mark.parametrize("kind", [RootConfig, ClusterConfig, WorkerConfig])
def test_what_is_shown_can_be_read_again(
    kind: type[RootConfig | ClusterConfig | WorkerConfig], tmp_path: Path
) -> None:
    file = tmp_path / "shown.toml"
    file.write_text(settings.render(kind()))
    assert settings.load(kind, file=file, environment={}, flags={}, tier="x") == kind()


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "Upper", "x" * 40])
def test_an_installation_has_a_name_that_is_a_safe_path(name: str) -> None:
    with pytest.raises(Invalid, match="cannot name an installation"):
        Installation(name)
