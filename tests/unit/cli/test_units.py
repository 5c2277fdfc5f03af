"""What systemd is told to run. The files in `units/` are what it is told; look at a difference before taking it over."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from oakestra.cli.keeping import units
from oakestra.cli.keeping.programs import TIERS, programs
from oakestra.control.installation import Installation

GOLDEN = Path(__file__).parent / "units"
FLAGS: dict[str, dict[str, Any]] = {
    "root": {"installation": "default", "listen": "0.0.0.0"},
    "cluster": {"installation": "default", "name": "site a"},
    "worker": {"installation": "default", "cluster": "10.0.0.1", "allow_privileged": True},
}


def rendered(installation: str = "default", *, version: int = 252, revision: str = "1f2e") -> dict[str, str]:
    home = Installation(installation)
    wanted = programs(home, FLAGS, python="/opt/oak/bin/python", environment={}, revision=revision)
    return {
        program.name: units.render_unit(
            program, home, environment_file=home.state / f"{program.name}.environment", version=version
        )
        for program in wanted
    }


@pytest.mark.parametrize("tier", TIERS)
def test_a_unit_is_as_it_was(tier: str) -> None:
    assert rendered()[tier] == (GOLDEN / f"oakestra-default-{tier}.service").read_text()


def test_what_outlives_an_agent_is_left_alone_when_the_agent_ends() -> None:
    for text in rendered().values():
        assert "KillMode=process\n" in text
        assert "Restart=always\n" in text
        assert "StartLimitIntervalSec=0\n" in text, "it never gives up"


def test_nothing_that_containers_would_inherit_confines_a_worker() -> None:
    """No mount namespace, no seccomp, no bound on capabilities: they would all be passed on."""
    passed_on = ("Protect", "Private", "Restrict", "SystemCall", "Capability", "NoNew", "ReadOnly", "Lock")
    lines = rendered()["worker"].splitlines()
    assert not [line for line in lines if line.startswith(passed_on)]
    for tier in ("root", "cluster"):
        assert "ProtectSystem=strict" in rendered()[tier]


def test_a_program_may_live_anywhere() -> None:
    """Where people clone to must not be hidden from what they start."""
    for text in rendered().values():
        assert "PrivateTmp=" not in text
        assert "ProtectHome=yes" not in text


def test_a_systemd_that_can_waits_ever_longer() -> None:
    assert "RestartSteps=" not in rendered(version=253)["root"]
    assert "RestartSteps=5\nRestartMaxDelaySec=10\n" in rendered(version=254)["root"]


def test_other_code_is_another_unit() -> None:
    assert rendered(revision="other")["worker"] != rendered()["worker"]


def test_installations_do_not_share_units() -> None:
    names = [
        units.unit_name(name, tier)
        for name in ("default", "lab", "lab-a", "lab/a", "lab-root", "lab/root")
        for tier in TIERS
    ]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("--name=box", "--name=box"),
        ("--name=my box", '"--name=my box"'),
        ("--name=100%", "--name=100%%"),
        ("--name=$HOME", "--name=$$HOME"),
        ("--name=a'b", '"--name=a\'b"'),
        ('--name=a"b', '"--name=a\\"b"'),
        ("--name=a\\b", '"--name=a\\\\b"'),
        ("--name=a\nb", '"--name=a\\nb"'),
        (";", '";"'),
        ("", '""'),
    ],
)
def test_systemd_takes_words_as_they_are(word: str, expected: str) -> None:
    assert units.quoted(word) == expected


def test_an_environment_keeps_what_shells_would_change() -> None:
    said = units.render_environment({"B": 'a"b\\c`d$e', "A": "two words"})
    assert said == 'A="two words"\nB="a\\"b\\\\c\\`d\\$e"\n'


def test_a_tier_is_given_what_is_oakestra_s_of_the_environment() -> None:
    given = {"OAKESTRA_ROOT_LISTEN": "::1", "AWS_SECRET_ACCESS_KEY": "no business of a tier"}
    for program in programs(Installation(), FLAGS, python="p", environment=given, revision=""):
        assert program.whole_environment["OAKESTRA_ROOT_LISTEN"] == "::1"
        assert "AWS_SECRET_ACCESS_KEY" not in program.whole_environment
        assert program.whole_environment["PATH"]
