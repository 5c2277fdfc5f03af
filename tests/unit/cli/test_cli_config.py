"""What the command line remembers, and that nobody else can read it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oakestra.cli import config
from oakestra.cli.config import Login, Memory
from oakestra.model.errors import Invalid

ANN = Login(user="ann", token="t", refresh_token="r")
BOB = Login(user="bob", token="t2", refresh_token="r2")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "oakestra" / "cli.json"


def test_logins_are_kept_by_root_and_one_is_current(file: Path) -> None:
    assert config.recall(file) == Memory()
    config.remember(file, "http://a", ANN, current=True)
    config.remember(file, "http://b", BOB, current=False)
    assert config.recall(file) == Memory(current="http://a", logins={"http://a": ANN, "http://b": BOB})
    config.forget(file, "http://b")
    config.forget(file, "http://nowhere")
    assert config.recall(file) == Memory(current="http://a", logins={"http://a": ANN})
    config.forget(file, "http://a")
    assert config.recall(file) == Memory()


def test_only_its_owner_can_read_it(file: Path) -> None:
    config.remember(file, "http://a", ANN, current=True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    file.chmod(0o644)
    config.remember(file, "http://a", BOB, current=True)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["cli.json"], "nothing is left beside it"


@pytest.mark.parametrize(
    "content", ["{", "[]", '{"logins": {}}', '{"current": "", "logins": {"a": {"x": 1}}}', "\xff"]
)
def test_a_damaged_file_is_told_with_what_to_do(file: Path, content: str) -> None:
    file.parent.mkdir(parents=True)
    file.write_bytes(content.encode("latin-1"))
    with pytest.raises(Invalid, match=f"{file}.* is damaged; delete it and log in again"):
        config.recall(file)


def test_where_nothing_can_be_kept_the_way_out_is_told(tmp_path: Path) -> None:
    (tmp_path / "config").write_text("not a directory")
    with pytest.raises(Invalid, match=r"cannot be (kept|read)"):
        config.remember(tmp_path / "config" / "cli.json", "http://a", ANN, current=True)


def test_secrets_do_not_show_in_tracebacks() -> None:
    assert "t2" not in repr(BOB)
    assert "r2" not in repr(BOB)


def test_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("OAKESTRA_ROOT", "edge1")
    assert config.environment().file == tmp_path / "oakestra" / "cli.json"
    assert config.environment().root == "edge1"
    monkeypatch.setenv("XDG_CONFIG_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert config.environment().file == tmp_path / ".config" / "oakestra" / "cli.json"


def test_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert config.colours_wanted()
    monkeypatch.setenv("NO_COLOR", "1")
    assert not config.colours_wanted()
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("TERM", "dumb")
    assert not config.colours_wanted()


def test_the_file_is_plain_json(file: Path) -> None:
    config.remember(file, "http://a", ANN, current=True)
    assert json.loads(file.read_text())["logins"]["http://a"]["user"] == "ann"
