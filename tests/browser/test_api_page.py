"""The API's page works in a browser: from our own files, under its own content security policy."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from served_root import served_root

pytestmark = pytest.mark.browser

LOAD_MS = 20_000
"""Of the page's own time, which runs ahead while nothing is under way."""


@pytest.fixture
def browse(tmp_path: Path, need_program: Callable[[str, str], str]) -> Callable[[str], str]:
    """A function that opens a page and returns what its scripts made of it."""
    chromium = need_program("chromium", "chromium")

    def browse(url: str) -> str:
        sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []
        command = [
            chromium, "--headless", "--disable-gpu", *sandbox, f"--user-data-dir={tmp_path / 'profile'}",
            f"--virtual-time-budget={LOAD_MS}", "--dump-dom", url,
        ]  # fmt: skip
        shown = subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)
        return shown.stdout

    return browse


def test_the_page_shows_every_operation(tmp_path: Path, browse: Callable[[str], str]) -> None:
    with served_root(tmp_path) as root:
        page = browse(f"{root.url}/api/docs")
        described = [(endpoint.method, endpoint.path) for endpoint in root.api.endpoints]
    assert "<title>Oakestra root orchestrator</title>" in page
    blocks = re.findall(r'opblock-summary-method">(\w+)<.*?data-path="([^"]+)"', page, re.DOTALL)
    assert sorted(blocks) == sorted(described)
    assert "Authorize" in page
