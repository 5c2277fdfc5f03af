"""`oak sim` by hand: a line that cannot be understood is answered, and the fleet goes on."""

from __future__ import annotations

import io

import pytest

from oakestra.cli import main


def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *lines: str) -> list[str]:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert main(["sim"]) == 0
    return capsys.readouterr().out.splitlines()


def test_without_a_word_more_a_fleet_is_driven_by_hand(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = typed(monkeypatch, capsys, "fleet 1 2", "deploy web 1", "settle", "quit", "never done")
    assert told[1].startswith("1 x 2 workers, all joined")
    assert told[-1].startswith("all as it should be")


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("deploy web", "! expected 2 words here, found 1: deploy NAME COPIES [KEY=VALUE …]"),
        ("deploy web many", "! expected a whole number, found 'many'"),
        ("fleet 9 9", "! expected 1 to 5 clusters of 1 to 200 workers"),
        ("scale web 2", "! there is no service 'web', only none yet: `deploy NAME COPIES` makes one"),
        ("crash c9", "! there is no machine 'c9', only root, c1, c1w1, c1w2"),
        ("fly", "! there is no command 'fly'; `help` lists them"),
    ],
)
def test_what_is_typed_wrongly_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, answer: str
) -> None:
    assert answer in typed(monkeypatch, capsys, line)
