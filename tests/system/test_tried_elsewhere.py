"""A registry that one of two workers reaches: what the other cannot fetch starts where it can be had, and why is told."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import pytest

from image_registry import Pusher, RegistryProcess
from lab_fixture import SETTINGS, Fleet, Oak, a_lab, sleeper, until
from lab_truth import until_true
from oakestra.lab import plan, record
from oakestra.lab.plan import namespace_path
from oakestra.runtime.images.build import build_busybox_image

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def fleet(need_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    """A cluster of two workers of its own: what is fetched there, nobody else has. It is left as it should be."""
    oak = Oak(tmp_path_factory.mktemp("home"), SETTINGS)
    with a_lab(f"h{os.getpid() % 10**7}", oak, clusters=1, workers=2) as made:
        made.oak.run("login", made.root.url, "--password", made.root_password)
        yield made
        until_true(made)


@pytest.fixture(scope="module")
def image(
    fleet: Fleet, need_program: Callable[[str, str], str], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The name of an image in a registry on the loopback of the second worker."""
    program = need_program("docker-registry", "docker-registry")
    home, storage = tmp_path_factory.mktemp("registry"), tmp_path_factory.mktemp("storage")
    archive = home / "tool.tar"
    build_busybox_image(archive, "tool")
    with RegistryProcess(program, storage, home / "pushed") as registry:
        Pusher(registry.host, "town/tool").push(archive, "1")
    lab = record.read(fleet.name)
    assert lab is not None
    second = namespace_path(plan.host(lab, "w2").namespace)
    with RegistryProcess(program, storage, home / "near", netns=second) as registry:
        yield f"{registry.host}/town/tool:1"


def test_what_one_worker_cannot_fetch_starts_on_the_one_that_can(fleet: Fleet, image: str) -> None:
    with fleet.application("pull", sleeper("tool", code=image), counts={"tool": 2}):
        assert {one["worker"] for one in fleet.instances("pull")} == {"w2"}
        until(lambda: "failed 3 times: could not fetch the image" in told(fleet))
        assert "(it failed on w1)" in told(fleet), told(fleet)


def test_what_nobody_can_fetch_stays_and_says_what_would_help(fleet: Fleet, image: str) -> None:
    missing = image.replace("tool:1", "tool:2")
    with fleet.application("pull", sleeper("tool", code=missing), counts={"tool": 0}):
        fleet.scale("pull.tool", 2)
        until(lambda: told(fleet).count("stays on ") >= 2)
        assert "able to run it, where it failed 3 times" in told(fleet)
        assert len({one["worker"] for one in fleet.instances("pull")}) == 2, "they do not go round"


def told(fleet: Fleet) -> str:
    return fleet.oak.run("explain", "pull.tool").stdout
