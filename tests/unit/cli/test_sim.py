"""`oak sim` by hand: a line that cannot be understood is answered, and the fleet goes on."""

from __future__ import annotations

import io

import pytest

from oakestra.cli import main
from oakestra.cli.sim import Waiting
from oakestra.simulation import scripted


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
        ("uncut c1w1", "! there is no command 'uncut'; did you mean 'cut'? `help` lists them"),
        (
            "advance 999999999s",
            "! 999999999s is more than a day, and no more than that passes at once; expected 24h or less",
        ),
        ("advance -5s", "! expected a time like 30s, 5m or 2h, found '-5s'"),
        ("settle nan", "! expected a time like 30s, 5m or 2h, found 'nan'"),
        ("cut", "! expected one word or two here, found 0: cut HOST [HOST]"),
        ("cut c1 c1", "! there is nothing between c1 and itself; name two machines, or one alone"),
        ("quit now", "! expected no words here, found 1: quit"),
        ("show me", "! there is no 'me' to show: show [workers]"),
    ],
)
def test_what_is_typed_wrongly_is_answered(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, answer: str
) -> None:
    assert answer in typed(monkeypatch, capsys, line)


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        ("kill c1", "the process on c1 is dead"),
        ("reboot c1w1", "c1w1 lost its power and has it again"),
        ("heal", "everybody reaches everybody again"),
        ("ls", "root does not answer"),
        ("status", "c1w2"),
    ],
)
def test_the_words_of_a_lab_are_understood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], line: str, answer: str
) -> None:
    assert any(told.startswith(answer) for told in typed(monkeypatch, capsys, line))


def test_a_slip_in_a_key_is_told(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = typed(monkeypatch, capsys, "deploy web 1 memroy=5", "update web memroy=5")
    slips = [
        line
        for line in told
        if "a microservice has no key 'memroy'; did you mean 'memory'? there are" in line
    ]
    assert len(slips) == 2


def test_a_service_that_cannot_be_deployed_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = typed(monkeypatch, capsys, "deploy web 5000", "scale web 1", "deploy web 1", "settle")
    assert any("a service has at most 1000" in line for line in told)
    assert "! there is no service 'web', only none yet: `deploy NAME COPIES` makes one" in told
    assert "1 instance of web wanted" in told
    assert told[-1].startswith("all as it should be")


def test_settled_is_not_said_without_those_that_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = typed(monkeypatch, capsys, "deploy web 1 memory=999999", "settle", "check")
    waits = [line for line in told if line.endswith(", but 1 instance waits for a place:")]
    assert [line[:6] for line in waits] == ["all as", "all is"]
    assert told[-1].startswith("  web.0: ")
    assert "memory" in told[-1]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_command_shows_how_far_it_is_and_can_be_ended_alone() -> None:
    stream, now_s = Terminal(), [0.0]
    waiting = Waiting(stream, uptime_s=lambda: now_s[0])
    lines = waiting.over(iter(["advance 2h", "show"]))
    assert next(lines) == "advance 2h"
    assert waiting.go_on(1.0, 7200.0)
    assert stream.getvalue() == "", "short ones show nothing"
    now_s[0] = 1.0
    assert waiting.go_on(600.0, 7200.0)
    assert "600 of 7200 s" in stream.getvalue()
    waiting.interrupt()
    assert not waiting.go_on(601.0, 7200.0)
    assert next(lines) == "show"
    assert waiting.go_on(0.0, 1.0), "the next one was not meant"


def test_who_types_or_asks_twice_is_interrupted() -> None:
    waiting = Waiting(io.StringIO(), uptime_s=lambda: 0.0)
    next(waiting.over(iter(["advance 2h"])))
    waiting.interrupt()
    with pytest.raises(KeyboardInterrupt):
        waiting.interrupt()


def test_an_advance_that_is_ended_says_how_far_it_came() -> None:
    told: list[str] = []
    scripted.play(["advance 2h", "show"], told.append, echo=False, go_on=lambda passed_s, _: passed_s < 3.0)
    assert told == ["stopped after 3.0 s", "nobody asked for anything"]
