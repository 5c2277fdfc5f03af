"""What happened is told once, whatever root does meanwhile; and where nothing happened, that is said."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from oak_command import Oak
from oakestra.cli.client import Root
from oakestra.cli.events import followed
from oakestra.model.errors import Unavailable
from sla_samples import sla


def event(sequence: int, *, tier: str = "root", epoch: int = 1, wall_s: float = 1.0) -> dict[str, Any]:
    return {"tier": tier, "epoch": epoch, "sequence": sequence, "wall_s": wall_s}


class Restarting(Root):
    """A root that tells each of these until it goes away, and does not answer at the `None`s between."""

    def __init__(self, *answers: list[dict[str, Any]] | None) -> None:
        super().__init__("http://root:10000", None)
        self._answers = list(answers)

    def get(self, path: str, **query: str) -> Any:
        if self._answers[0] is None:
            del self._answers[0]
            raise Unavailable("nothing listens there")
        return []

    def stream(self, path: str, *, endless: bool, **_: Any) -> Iterator[bytes]:
        for one in self._answers.pop(0) or ():
            yield json.dumps(one).encode() + b"\n"


def told(root: Root, count: int) -> list[dict[str, Any]]:
    return [dict(one) for one in islice(followed(root, pause=lambda _: None), count)]


def test_what_happened_while_root_was_away_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    missed, late = event(3), event(1, tier="east")
    root = Restarting([event(1), event(2)], None, None, [event(1), event(2), missed, late])
    assert told(root, 4) == [event(1), event(2), missed, late]
    assert capsys.readouterr().err.splitlines() == [
        "oak: root at http://root:10000 went away; going on when it answers again",
        "oak: root answers again",
    ]


def test_however_many_tiers_are_full_each_event_is_told_once() -> None:
    full = [event(number, tier=f"cluster {tier}") for tier in range(13) for number in range(1, 4001)]
    late = event(4001, tier="cluster 7", wall_s=0.5)
    assert told(Restarting(full, full, [*full, late]), len(full) + 1) == [*full, late]


def test_a_tier_that_counts_anew_is_heard_whatever_its_clock_says() -> None:
    new = event(1, epoch=2)
    assert told(Restarting([event(1), event(2)], [new], [event(1), new, event(2, epoch=2)]), 4) == [
        event(1), event(2), new, event(2, epoch=2),
    ]  # fmt: skip


def test_where_nothing_happened_people_are_told_so(admin: Oak) -> None:
    said = admin("events")
    assert (said.code, said.out, said.err) == (0, "", "nothing happened that is still remembered\n")
    said = admin("events", "-o", "json")
    assert (said.code, said.out, said.err) == (0, "", "")


def test_an_instance_that_never_was_is_unknown(admin: Oak, tmp_path: Path) -> None:
    (tmp_path / "sla.json").write_text(json.dumps(sla()))
    admin.good("app", "create", str(tmp_path / "sla.json"), "--deploy")
    assert admin("events", "web.0").code == 0
    assert "nobody ever heard of an instance web.9; `oak instance ls`" in admin.bad("events", "web.9")
