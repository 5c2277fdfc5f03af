"""Who put a copy of root's records back while no root runs is told how to start it."""

from __future__ import annotations

import pytest

from oakestra.cli.keeping.backup import starting_now


@pytest.mark.parametrize(
    ("installation", "kept", "said"),
    [
        ("default", True, "have it start now: sudo oak up"),
        ("second", True, "have it start now: sudo oak up --installation second"),
        (
            "second",
            False,
            "have it start now, as it was started before; on a new machine: sudo oak up --installation second",
        ),
    ],
)
def test_how_root_is_started_depends_on_who_keeps_it(installation: str, kept: bool, said: str) -> None:  # noqa: FBT001
    assert starting_now(installation, kept=kept) == said
