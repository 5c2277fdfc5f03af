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


def event(sequence: int, *, tier: str = "root", wall_s: float = 1.0) -> dict[str, Any]:
    return {"tier": tier, "sequence": sequence, "wall_s": wall_s}


class Restarting(Root):
    """A root whose answers are given, one after the other; None: it is away."""

    def __init__(self, *answers: list[dict[str, Any]] | None, clusters: tuple[int, ...] = (1,)) -> None:
        super().__init__("http://root:10000", None)
        self._answers = iter(answers)
        self._clusters = list(clusters)

    def get(self, path: str, **query: str) -> Any:
        count = self._clusters.pop(0) if len(self._clusters) > 1 else self._clusters[0]
        return [{"live": True}] * count

    def stream(self, path: str, *, endless: bool, **_: Any) -> Iterator[bytes]:
        answer = next(self._answers)
        if answer is None:
            raise Unavailable("nothing listens there")
        for one in answer:
            yield json.dumps(one).encode() + b"\n"


def told(root: Root, count: int) -> list[dict[str, Any]]:
    return [dict(one) for one in islice(followed(root, pause=lambda _: None), count)]


def test_what_happened_while_root_was_away_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    missed, late = event(3), event(1, tier="east")
    root = Restarting(
        [event(1), event(2)], None, None, [event(1), event(2), missed], [event(2), missed, late]
    )
    assert told(root, 4) == [event(1), event(2), missed, late]
    assert capsys.readouterr().err.splitlines() == [
        "oak: root at http://root:10000 went away; going on when it answers again",
        "oak: root answers again",
    ]


def test_clusters_are_waited_for_as_root_leaves_out_those_that_are_not_there() -> None:
    root = Restarting([event(1)], [event(1)], [event(1), event(2)], [event(3)], clusters=(2, 0, 2))
    assert told(root, 3) == [event(1), event(2), event(3)]


def test_a_tier_that_counts_anew_is_heard() -> None:
    root = Restarting([event(1), event(2)], [event(1, wall_s=9.0)])
    assert told(root, 3)[-1] == event(1, wall_s=9.0)


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
