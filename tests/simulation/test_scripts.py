"""Scenarios as text: each script in `scripts/` tells, line by line, what its `golden/` file says.

`make golden` (or `python tests/simulation/test_scripts.py --write`) writes the golden files anew; review the difference
as text: it is a difference in behaviour.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from oakestra.simulation.scripted import play

HERE = Path(__file__).parent
SCRIPTS = sorted((HERE / "scripts").glob("*.txt"))


def told_by(script: Path) -> str:
    """Return what a script tells."""
    lines: list[str] = []
    play(script.read_text().splitlines(), lines.append)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_script_tells_what_it_told_before(script: Path) -> None:
    assert told_by(script) == (HERE / "golden" / script.name).read_text()


def test_every_golden_file_has_its_script() -> None:
    assert {golden.name for golden in (HERE / "golden").glob("*.txt")} == {script.name for script in SCRIPTS}


if __name__ == "__main__" and "--write" in sys.argv:
    for script in SCRIPTS:
        (HERE / "golden" / script.name).write_text(told_by(script))
