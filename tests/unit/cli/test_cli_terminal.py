"""`oak` as a process of its own: on a terminal, in pipes, and how much it imports."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from oak_command import Oak
from served_root import ServedRoot, let_cluster_join, let_run
from sla_samples import application, microservice, sla

OAK = (sys.executable, "-c", "import sys; from oakestra.cli import main; sys.exit(main())")
WITHIN_S = 30.0
HEAVY = {"rich", "yaml", "msgspec", "asyncio", "difflib", "shutil", "oakestra.transport", "oakestra.wire"}


@pytest.fixture
def shop(admin: Oak, root: ServedRoot, tmp_path: Path) -> Oak:
    path = tmp_path / "sla.json"
    path.write_text(json.dumps(sla(application(microservice("web")))))
    root.do(let_cluster_join)
    admin.good("app", "create", str(path))
    return admin


def variables(oak: Oak) -> dict[str, str]:
    return {
        "PATH": os.defpath,
        "XDG_CONFIG_HOME": str(oak.home),
        "HOME": str(oak.home),
        "TERM": "xterm-256color",
    }


class Terminal:
    """A terminal, and a command that runs in it."""

    def __init__(self, master: int, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.text = ""
        self._master = master

    def until(self, seen: Callable[[str], object]) -> None:
        """Read until the text shows something."""
        while not seen(self.text):
            assert self._read(), f"it ended before it was seen: {self.text!r}"

    def end(self) -> int:
        """Read to the end and return the exit code."""
        while self._read():
            pass
        return self.process.wait(WITHIN_S)

    def _read(self) -> bool:
        try:
            piece = os.read(self._master, 65536)
        except OSError:  # the kernel's word for a terminal that nobody holds any more
            return False
        self.text += piece.decode()
        return bool(piece)


@contextmanager
def terminal(oak: Oak, *words: str, columns: int = 60) -> Iterator[Terminal]:
    """Run a command in a terminal of so many columns."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    process = subprocess.Popen((*OAK, *words), stdin=slave, stdout=slave, stderr=slave, env=variables(oak))
    os.close(slave)
    try:
        yield Terminal(master, process)
    finally:
        process.kill()
        process.wait()
        os.close(master)


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
