"""What is told of an installation that is not there."""

from __future__ import annotations

import json
from functools import partial

import pytest

from oak_command import Elsewhere, Oak
from oakestra.cli import installation


def test_where_nothing_is_installed_programs_get_a_document(
    oak: Oak, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "Installation", partial(Elsewhere, oak.machine))
    said = oak("status", "-o", "json")
    assert (said.code, json.loads(said.out)) == (1, [])
    assert "`sudo oak up` starts root, cluster and worker here" in said.err
    assert "nothing is installed" in oak.bad("status")
