"""What `--wait` of an update counts as being there."""

from __future__ import annotations

from typing import Any

import pytest

from oakestra.cli.upkeep import _all_at, _progress


def service(*instances: tuple[int, bool], revision: int = 2, same_as: tuple[int, ...] = ()) -> dict[str, Any]:
    """Return a service as root shows it; an instance is its revision and whether it is ready."""
    return {
        "id": "s",
        "name": "shop.prod.web.front",
        "spec": {"revision": revision, "same_as": list(same_as)},
        "rollout": {"state": "rolled_back"},
        "instances": [
            {
                "number": number,
                "wanted": True,
                "revision": at,
                "ready": ready,
                "status": "PULLING",
                "phase": "RUNNING" if ready else "PULLING",
                "reason": "" if ready else "could not fetch the image",
            }
            for number, (at, ready) in enumerate(instances)
        ],
    }


@pytest.mark.parametrize(
    ("seen", "there"),
    [
        (service((2, True), (2, True)), True),
        (service((2, True), (2, False)), False),
        (service((2, True), (0, True)), False),
        # going back keeps what never changed: such instances stay at the revision that was the same
        (service((0, True), (0, True), same_as=(0,)), True),
        (service((0, True), (1, True), same_as=(0,)), False),
        (service((0, False), same_as=(0,)), False),
    ],
)
def test_an_instance_is_there_when_it_is_ready_and_as_asked(seen: dict[str, Any], there: bool) -> None:  # noqa: FBT001
    assert _all_at(seen) is there


def test_progress_counts_what_may_stay() -> None:
    assert (
        _progress(service((0, True), (1, True), same_as=(0,))) == "revision 2: 1 of 2 updated (rolled back)"
    )


def test_progress_tells_why_instances_are_not_ready() -> None:
    assert _progress(service((2, False), (2, True))) == (
        "revision 2: 1 of 2 updated (rolled back); shop.web.0: PULLING could not fetch the image"
    )
    line = _progress(service(*[(2, False)] * 5))
    assert line.count("could not fetch") == 3
    assert line.endswith("; and 2 more")
