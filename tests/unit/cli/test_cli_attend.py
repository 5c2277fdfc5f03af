"""`oak exec -i` and `-it`: what is typed or piped in reaches the command, and the terminal is always as before."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from oak_command import Oak
from oak_terminal import OAK, WITHIN_S, Terminal, terminal, variables
from oakestra.cli.client import Root
from oakestra.cli.client.attend import Attendance, Posts
from oakestra.model.errors import NotFound, Rejected, Unavailable
from oakestra.wire.execution import Entered, FrameKind, InputEnd, TerminalWish, Written, frame
from root_api import Conversation
from served_root import ServedRoot, let_cluster_join, let_run
from sla_samples import application, microservice, sla


@pytest.fixture
def shop(admin: Oak, root: ServedRoot, tmp_path: Path) -> Oak:
    """`oak` of somebody who has a service `web` whose instance 0 runs."""
    (tmp_path / "sla.json").write_text(json.dumps(sla(application(microservice("web")))))
    root.do(let_cluster_join)
    admin.good("app", "create", str(tmp_path / "sla.json"), "--deploy")
    (service,) = root.do(lambda api: list(api.state.services))
    root.do(lambda api: let_run(api, service, 0))
    return admin


def piped(oak: Oak, *words: str, given: bytes | int) -> subprocess.CompletedProcess[bytes]:
    """Run a command in pipes; `given` is its input, or a file descriptor of it."""
    source: dict[str, Any] = {"input": given} if isinstance(given, bytes) else {"stdin": given}
    return subprocess.run(
        (*OAK, *words), env=variables(oak), capture_output=True, check=False, timeout=WITHIN_S, **source
    )


def conversation(root: ServedRoot) -> Conversation:
    """Return the command that reads."""
    return root.do(lambda api: api.workers.conversations[-1])


@contextmanager
def at_terminal(oak: Oak, root: ServedRoot) -> Iterator[Terminal]:
    """Attend a command at a terminal, which has begun to read."""
    with terminal(oak, "exec", "-it", "web", "--", "cat", columns=80) as shown:
        shown.type("x")  # before anything is there to read it
        shown.until(lambda text: text.count("x") == 2)  # the terminal's own, and the command's
        assert shown.raw
        yield shown


def test_megabytes_that_are_piped_in_come_out_as_they_were(shop: Oak, root: ServedRoot) -> None:
    sent = Random(1).randbytes(3_000_001)
    done = piped(shop, "exec", "-i", "web", "--", "cat", given=sent)
    assert (done.returncode, done.stdout, done.stderr) == (0, sent, b"")
    assert isinstance(conversation(root).entered[-1], InputEnd)
    ((_, _, method, arguments),) = root.api.workers.asked
    assert (method, arguments["terminal"], arguments["timeout_s"]) == ("session", None, 3600.0)


def test_no_input_is_its_end(shop: Oak, root: ServedRoot) -> None:
    with Path(os.devnull).open("rb") as nothing:
        done = piped(shop, "exec", "-i", "web", "--", "cat", given=nothing.fileno())
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
    closed = ("sh", "-c", 'exec "$@" <&-', "sh", *OAK, "exec", "-i", "web", "--", "cat")
    done = subprocess.run(closed, env=variables(shop), capture_output=True, check=False, timeout=WITHIN_S)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_what_makes_no_sense_says_why(shop: Oak, root: ServedRoot) -> None:
    assert "-t alone gives a terminal at which nobody can type; write -it" in shop.bad(
        "exec", "-t", "web", "--", "sh"
    )
    done = piped(shop, "exec", "-it", "web", "--", "sh", given=b"")
    assert done.returncode == 1
    assert b"-t needs a terminal, and the input of this command comes from none" in done.stderr
    root.do(lambda api: setattr(api.workers, "error", Rejected("the command 'no' is not in the image")))
    with terminal(shop, "exec", "-it", "web", "--", "no") as shown:
        assert shown.end() == 1
        assert "oak: the command 'no' is not in the image" in shown.text
    assert root.api.workers.conversations == []


def test_keys_sizes_and_ctrl_c_go_to_the_command(shop: Oak, root: ServedRoot) -> None:
    with at_terminal(shop, root) as shown:
        shown.resize(5, 6)
        shown.until(lambda text: "5 6" in text)
        shown.type("\x1a\x1c\x04ü")
        shown.until(lambda text: "\x1a\x1c\x04ü" in text)
        shown.type("\x03")
        assert shown.end() == 130
        assert not shown.raw
    (_, _, method, arguments) = root.api.workers.asked[0]
    assert (method, arguments["timeout_s"]) == ("session", 24 * 3600.0)
    assert arguments["terminal"] == TerminalWish(rows=24, columns=80, name="xterm-256color")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGQUIT])
def test_whatever_ends_it_leaves_the_terminal_as_before(
    shop: Oak, root: ServedRoot, number: signal.Signals
) -> None:
    with at_terminal(shop, root) as shown:
        shown.process.send_signal(number)
        assert shown.end() == 128 + number
        assert not shown.raw
        assert "Traceback" not in shown.text
    root.wait_for(conversation(root).until_ended())


def test_a_session_that_breaks_says_why_and_leaves_the_terminal_as_before(
    shop: Oak, root: ServedRoot
) -> None:
    with at_terminal(shop, root) as shown:
        root.do(
            lambda api: api.workers.conversations[-1].fail(Unavailable("the worker's agent started again"))
        )
        assert shown.end() == 1
        assert not shown.raw
    assert "how the command ended is not known: the worker's agent started again" in shown.text


def test_an_older_root_is_not_taken_for_one_that_passes_on_input() -> None:
    root = Root("http://192.0.2.1:1", None)
    attendance = Attendance(root, iter([frame(Written(FrameKind.STDOUT, b""))]), size=None)
    with pytest.raises(Unavailable, match="older than `oak exec -i`"):
        next(attendance.answers())


# --- posting ---------------------------------------------------------------------------------------------------------


@contextmanager
def answering(*answers: bytes | None) -> Iterator[tuple[str, list[str]]]:
    """Listen, and give each request the next answer; None: close the connection instead. Yield where, and what came."""
    asked: list[str] = []

    def serve() -> None:
        left = list(answers)
        while left:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as reader:
                while left and (head := reader.readline()):
                    lines = iter(lambda: reader.readline().strip().lower(), b"")
                    length = next(
                        int(line[15:]) for line in list(lines) if line.startswith(b"content-length:")
                    )
                    reader.read(length)
                    asked.append(head.decode().split()[1])
                    answer = left.pop(0)
                    if answer is None:
                        break
                    connection.sendall(answer)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}", asked
        thread.join(WITHIN_S)


def good(expected: int) -> bytes:
    body = b'{"next": %d}' % expected
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)


def test_what_was_not_taken_or_not_answered_is_posted_again() -> None:
    busy = b"HTTP/1.1 503 X\r\nContent-Length: 2\r\n\r\n{}"
    gone = b'HTTP/1.1 404 X\r\nContent-Length: 19\r\n\r\n{"message": "gone"}'
    answers = (good(1), None, busy, good(1), good(2), gone)
    with answering(*answers) as (url, asked), closing(Posts(Root(url, None), "s")) as posts:
        posts.post(frame(Entered(b"a")))
        posts.post(frame(Entered(b"b")))
        with pytest.raises(NotFound, match="gone"):
            posts.post(frame(Entered(b"c")))
    path = "/api/v1/sessions/s/input?sequence="
    assert asked == [f"{path}0", *[f"{path}1"] * 4, f"{path}2"]
