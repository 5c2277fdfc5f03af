"""`oak` as a process of its own: on a terminal, in pipes, and how much it imports."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from oak_command import Oak
from oak_terminal import OAK, WITHIN_S, terminal, variables
from served_root import ServedRoot, let_cluster_join, let_run
from sla_samples import application, microservice, sla

HEAVY = {"rich", "yaml", "msgspec", "asyncio", "difflib", "shutil", "oakestra.transport", "oakestra.wire"}


@pytest.fixture
def shop(admin: Oak, root: ServedRoot, tmp_path: Path) -> Oak:
    path = tmp_path / "sla.json"
    path.write_text(json.dumps(sla(application(microservice("web")))))
    root.do(let_cluster_join)
    admin.good("app", "create", str(path))
    return admin


def plain(text: str) -> str:
    """Return what is left without colours and movements."""
    return re.sub(r"\x1b\[[?0-9;]*[a-zA-Z]", "", text).replace("\r", "")


def test_a_table_on_a_terminal_has_colours_and_fits(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web")
    id = next(iter(root.api.state.services))
    reason = "it is well, and there is a lot that could be said about it"
    root.do(lambda api: let_run(api, id, reason=reason))
    with terminal(shop, "instance", "ls", columns=100) as shown:
        assert shown.end() == 0
    assert "\x1b[32mRUNNING\x1b[0m" in shown.text
    assert plain(shown.text).splitlines()[1].endswith("it is well, and there is a…")
    assert max(len(line) for line in plain(shown.text).splitlines()) <= 100


def test_waiting_on_a_terminal_changes_in_place(shop: Oak, root: ServedRoot) -> None:
    id = next(iter(root.api.state.services))
    with terminal(shop, "service", "deploy", "web", "--wait") as shown:
        shown.until(lambda text: "REQUESTED" in text)
        root.do(lambda api: let_run(api, id))
        assert shown.end() == 0
    assert "\x1b[1A" in shown.text, "the cursor goes up again"
    last = [line for line in plain(shown.text).splitlines() if line][-2:]
    assert last == ["shop.web.0  RUNNING  w1 (east)  -", "shop.web.0 is ready"]


def test_watching_on_a_terminal_ends_with_the_interrupt_key(shop: Oak, root: ServedRoot) -> None:
    with terminal(shop, "service", "ls", "--watch", columns=100) as shown:
        shown.until(lambda text: "NOT_DEPLOYED" in text)
        shop.good("service", "deploy", "web")
        shown.until(lambda text: "REQUESTED" in text)
        shown.process.send_signal(signal.SIGINT)
        assert shown.end() == 130
    assert shown.text.endswith("\x1b[?25h"), "the cursor is shown again"
    assert "Traceback" not in shown.text


def test_watching_in_a_pipe_prints_what_changes(shop: Oak) -> None:
    words = ("service", "ls", "--watch", "-o", "json")
    with subprocess.Popen((*OAK, *words), stdout=subprocess.PIPE, env=variables(shop)) as process:
        assert process.stdout is not None
        (first,) = json.loads(process.stdout.readline())
        assert first["status"] is None
        shop.good("service", "deploy", "web")
        (second,) = json.loads(process.stdout.readline())
        assert second["status"] == "REQUESTED"
        process.send_signal(signal.SIGINT)
        assert process.wait(WITHIN_S) == 130


def test_a_reader_that_has_enough_is_no_error_to_talk_about(shop: Oak) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        (*OAK, "service", "ls"), stdout=writer, stderr=subprocess.PIPE, env=variables(shop),
        timeout=WITHIN_S, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize(
    "words",
    [
        ("service", "ls"),
        ("app", "ls"),
        ("instance", "ls"),
        ("worker", "ls"),
        ("cluster", "ls"),
        ("explain", "web"),
    ],
)
def test_a_listing_imports_nothing_heavy(shop: Oak, words: tuple[str, ...]) -> None:
    """80 ms are all a command has; each of these costs 5 to 100 of them."""
    script = (
        "import sys; from oakestra.cli import main; code = main(sys.argv[1:]); "
        "print(*sys.modules, file=sys.stderr); sys.exit(code)"
    )
    done = subprocess.run(
        (sys.executable, "-c", script, *words), env=variables(shop), capture_output=True, text=True,
        timeout=WITHIN_S, check=True,
    )  # fmt: skip
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "oakestra.cli.client" in loaded
    assert not loaded & HEAVY
