"""What becomes of a test whose tools are not there."""

from __future__ import annotations

import os

import pytest


def cannot_run(reason: str) -> None:
    """Skip the test that runs, or fail it under CI, where everything is meant to be there."""
    if os.environ.get("CI") == "true":  # noqa: TID251 - how the tests run is not a tier's configuration
        pytest.fail(f"cannot run here: {reason}", pytrace=False)
    pytest.skip(reason)
