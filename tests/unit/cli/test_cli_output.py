"""What is printed, in which format, and how often."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable

import pytest

from oakestra.cli.show import output
from oakestra.cli.show.output import Shown
from oakestra.model.errors import Invalid, Unavailable


def shown(text: str) -> Shown:
    return Shown(
        document={"text": text}, text=lambda style: f"{text} {style.wide}" if text else "", nothing="none"
    )


def asked(format: str, *, watch: bool = False) -> argparse.Namespace:
    return argparse.Namespace(output=format, watch=watch)


def story(*looks: str | Exception) -> Callable[[], Shown]:
    """Look at one thing after the other, then be interrupted."""
    told = iter(looks)

    def look() -> Shown:
        try:
            found = next(told)
        except StopIteration:
            raise KeyboardInterrupt from None
        if isinstance(found, Exception):
            raise found
        return shown(found)

    return look


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("table", "a False\n"),
        ("wide", "a True\n"),
        ("json", '{\n  "text": "a"\n}\n'),
        ("yaml", "text: a\n"),
    ],
)
def test_formats(format: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert output.present(asked(format), lambda: shown("a")) == 0
    assert capsys.readouterr() == (text, "")


def test_nothing_is_said_to_people_and_printed_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    output.present(asked("table"), lambda: shown(""))
    assert capsys.readouterr() == ("", "none\n")
    output.present(asked("json"), lambda: shown(""))
    out, err = capsys.readouterr()
    assert (json.loads(out), err) == ({"text": ""}, "")


@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("table", "a False\n\nb False\n\na False\n"),
        ("json", '{"text": "a"}\n{"text": "b"}\n{"text": "a"}\n'),
        ("yaml", "text: a\n---\ntext: b\n---\ntext: a\n"),
    ],
)
def test_watching_prints_what_changed_and_survives_roots_absence(
    format: str, text: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "WATCH_S", 0.0)
    away = Unavailable("root is away")
    looks = story("a", "a", away, away, "a", "b", "b", "a")
    with pytest.raises(KeyboardInterrupt):
        output.present(asked(format, watch=True), looks)
    assert capsys.readouterr() == (text, "oak: root is away\n")


def test_without_pyyaml_there_is_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(Invalid, match=r"needs PyYAML, which is not installed: .*, or use -o json"):
        output.rendered("yaml", {})
