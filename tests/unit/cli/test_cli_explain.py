"""What `oak explain` says, and in which order."""

from __future__ import annotations

from typing import Any

import pytest

from oakestra.cli.explain import told
from oakestra.cli.show.columns import Copy
from oakestra.cli.show.output import Style

NOW_S = 1_000_000.0


def explained(*, placed_s: float = 0.0, **keys: Any) -> str:
    instance = {
        "number": 0, "wanted": True, "status": "RUNNING", "phase": "RUNNING", "ready": True, "cluster": "east",
        "worker": "w1", "attempt": 1, "restart": 0, "exit_code": None, "placement_reason": "", "reason": "",
        "changed_wall_s": 0.0, "verdicts": [], **keys,
    }  # fmt: skip
    events = [
        {
            "kind": "placed",
            "tier": tier,
            "wall_s": NOW_S - placed_s,
            "reason": "",
            "subject": "",
            "service": "s",
        }
        for tier in ("root", "east")
    ]
    part = {"workers": [], "remedies": [], "events": events, "silent": []}
    return told(Copy(name="shop.web.0", service={}, instance=instance), part, Style(), now_wall_s=NOW_S)


@pytest.mark.parametrize(
    ("restart", "code", "said"),
    [
        (1, None, "on worker w1 (restarted once; how it ended is not known)"),
        (2, 0, "on worker w1 (restarted twice; it ended with exit code 0 last)"),
        (7, 137, "on worker w1 (restarted 7 times; it ended with exit code 137 last)"),
    ],
)
def test_restarts_are_told_in_words(restart: int, code: int | None, said: str) -> None:
    assert said in explained(restart=restart, exit_code=code)


@pytest.mark.parametrize(
    ("reason", "said"),
    [
        ("east: the only cluster that fits", "in cluster east: the only cluster that fits"),
        ("stays in east: 1 cluster: lost", "in cluster east, and stays there: 1 cluster: lost"),
        ("", "in cluster east\n"),
    ],
)
def test_where_it_is_and_why_is_one_sentence(reason: str, said: str) -> None:
    assert said in explained(placement_reason=reason)


VERDICTS = [
    {"name": "b", "refusal": "", "score": 0.5},
    {"name": "west", "refusal": "lost", "score": 0.0},
    {"name": "best", "refusal": "", "score": 0.9},
    {"name": "a", "refusal": "", "score": 0.5},
    {"name": "east", "refusal": "", "score": 0.4},
]


def test_candidates_are_told_the_chosen_one_first_then_the_best() -> None:
    lines = explained(verdicts=VERDICTS).splitlines()
    at = next(index for index, line in enumerate(lines) if line.startswith("  CLUSTER"))
    assert [line.split()[0] for line in lines[at + 1 : at + 6]] == ["east", "best", "a", "b", "west"]


def test_old_verdicts_are_said_to_be_old() -> None:
    assert "as it was placed, 5m ago:\n  CLUSTER" in explained(verdicts=VERDICTS, placed_s=300.0)
    assert "as it was placed" not in explained(verdicts=VERDICTS, placed_s=30.0)
    assert "as it was placed" not in explained(verdicts=VERDICTS, placed_s=300.0, cluster="")
