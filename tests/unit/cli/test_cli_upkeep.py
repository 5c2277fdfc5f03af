"""What `--wait` of an update counts as being there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from oak_command import Oak
from oakestra.cli import upkeep
from oakestra.cli.show.cells import hindrance, image
from oakestra.cli.upkeep import _all_at, _progress
from root_api import RootApi
from served_root import ServedRoot, let_cluster_join, let_run
from sla_samples import sla


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


def test_progress_tells_what_holds_a_successor_up_behind_an_instance_that_is_ready() -> None:
    seen = service((1, True)) | {
        "rollout": {"state": "rolling", "reason": "instance 0: PULLING no such image"}
    }
    assert _progress(seen) == "revision 2: 0 of 1 updated (rolling); instance 0: PULLING no such image"


@pytest.mark.parametrize(
    ("state", "shown", "reason"),
    [
        ("rolling", "example:nope (0/2 updated)", "instance 0: PULLING no such image"),
        ("failed", "example:nope (0/2 updated)", ""),
        ("rolled_back", "example:nope", ""),
        ("done", "example:nope", ""),
    ],
)
def test_an_image_that_does_not_run_yet_is_marked(state: str, shown: str, reason: str) -> None:
    seen = service((1, True), (1, True))
    seen["spec"]["image"] = "example:nope"
    seen["rollout"] = {"state": state, "reason": "instance 0: PULLING no such image"}
    assert (image(seen), hindrance(seen)) == (shown, reason)


def test_a_drain_that_comes_to_no_end_names_what_stays(
    admin: Oak, root: ServedRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(upkeep, "LOOK_EVERY_S", 0.01)
    (tmp_path / "sla.json").write_text(json.dumps(sla()))
    root.do(let_cluster_join)
    admin.good("app", "create", str(tmp_path / "sla.json"), "--deploy")
    (service,) = root.do(lambda api: list(api.state.services))
    root.do(lambda api: let_run(api, service))
    said = admin("cluster", "drain", "east", "--wait", "--timeout", "0")
    assert (said.code, said.out) == (1, "east is draining\neast: 1 instance left\n")
    assert said.err == (
        "oak: east still has 1 instance after 0 s: shop.web.0; it goes on being drained. "
        "See why: oak explain shop.web.0\n"
    )
    assert "cluster east has 1 instance; move" in admin.bad("cluster", "rm", "east")


def test_an_empty_cluster_that_is_drained_is_said_to_be_empty(admin: Oak, root: ServedRoot) -> None:
    root.do(let_cluster_join)
    assert admin.good("cluster", "drain", "east", "--wait") == "east is draining\neast is empty\n"


def test_what_a_lost_cluster_may_still_run_is_told_when_it_is_forgotten(admin: Oak, root: ServedRoot) -> None:
    def be_lost(api: RootApi) -> None:
        let_cluster_join(api)
        api.state.views.clear()

    root.do(be_lost)
    assert admin.good("cluster", "rm", "east") == (
        "east is forgotten; it is out of reach, so what may still run there goes on until it is switched off, "
        "or returns and is told to stop\n"
    )
    root.do(let_cluster_join)
    assert admin.good("cluster", "rm", "east") == "east is forgotten\n"
