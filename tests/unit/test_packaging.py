"""What packages say of the tiers is true: their commands, ports and settings exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from oakestra.cli import parser
from oakestra.cluster import config as cluster_config
from oakestra.root import config as root_config

PACKAGING = Path(__file__).parents[2] / "packaging"
PORTS = {
    "root": {root_config.RootConfig().api_port, root_config.RootConfig().grpc_port},
    "cluster": {cluster_config.ClusterConfig().api_port, cluster_config.ClusterConfig().mqtt_port},
}


def stage(tier: str) -> str:
    """Return the lines of the Dockerfile that make the image of a tier."""
    text = (PACKAGING / "Dockerfile").read_text()
    return re.split(r"^FROM ", text.partition(f" AS {tier}\n")[2], flags=re.MULTILINE)[0]


def service(tier: str) -> dict[str, Any]:
    return dict(yaml.safe_load((PACKAGING / "compose.yaml").read_text())["services"][tier])


@pytest.mark.parametrize("tier", PORTS)
def test_an_image_starts_its_tier_with_words_that_oak_knows(tier: str) -> None:
    (words,) = re.findall(r"^CMD (.*)$", stage(tier), re.MULTILINE)
    oak, *rest = json.loads(words)
    args = parser(rest).parse_args(rest)
    assert (oak, args.tier, args.listen) == ("oak", tier, "0.0.0.0")


@pytest.mark.parametrize("tier", PORTS)
def test_an_image_exposes_and_asks_the_ports_of_its_tier(tier: str) -> None:
    (exposed,) = re.findall(r"^EXPOSE (.*)$", stage(tier), re.MULTILINE)
    assert {int(port) for port in exposed.split()} == PORTS[tier]
    (asked,) = re.findall(r"127\.0\.0\.1:(\d+)/status", stage(tier))
    assert int(asked) in PORTS[tier]
    published = {int(port.rpartition(":")[2]) for port in service(tier)["ports"]}
    assert published <= PORTS[tier]


@pytest.mark.parametrize("tier", PORTS)
def test_compose_builds_what_the_dockerfile_has_and_sets_what_there_is(
    tier: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert service(tier)["build"] == {"context": "..", "dockerfile": "packaging/Dockerfile", "target": tier}
    assert stage(tier)
    assert service(tier)["cap_drop"] == ["ALL"]
    for name in service(tier)["environment"]:
        monkeypatch.setenv(name, "told:50052")
    read = {"root": root_config.read, "cluster": cluster_config.read}[tier]
    told = [value for value in vars_of(read({})) if value == "told:50052"]
    assert len(told) == len(service(tier)["environment"]), "each variable sets one setting"


def vars_of(settings: object) -> list[object]:
    return [getattr(settings, name) for name in type(settings).__dataclass_fields__]  # type: ignore[attr-defined]


def test_images_are_made_of_what_is_copied() -> None:
    ignore = (PACKAGING / "Dockerfile.dockerignore").read_text().split()
    copied = {word for line in re.findall(r"^COPY (?!--)(.*) \S+$", (PACKAGING / "Dockerfile").read_text(), re.MULTILINE) for word in line.split()}  # fmt: skip
    assert {f"!{name}" for name in copied} <= set(ignore)
