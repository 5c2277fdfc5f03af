"""`oak exec`: what a command in an instance writes and how it ends, passed on unchanged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from oak_command import Oak
from oakestra.model.errors import Rejected, Unavailable
from oakestra.wire.execution import CommandEnd, FrameKind, Written, frame
from served_root import ServedRoot, let_cluster_join, let_run
from sla_samples import application, microservice, sla

OUT, ERR = FrameKind.STDOUT, FrameKind.STDERR


@pytest.fixture
def shop(admin: Oak, root: ServedRoot, tmp_path: Path) -> Oak:
    """`oak` of somebody who has a service `web` with instances 0 and 1, of which 0 runs."""
    (tmp_path / "sla.json").write_text(json.dumps(sla(application(microservice("web")))))
    root.do(let_cluster_join)
    admin.good("app", "create", str(tmp_path / "sla.json"))
    admin.good("service", "scale", "web", "2")
    (service,) = root.do(lambda api: list(api.state.services))
    root.do(lambda api: let_run(api, service, 0))
    return admin


def answer(root: ServedRoot, *answer: Written | CommandEnd, error: Exception | None = None) -> None:
    """Let the worker answer so."""

    def script(api: object) -> None:
        root.api.workers.pieces = tuple(map(frame, answer))
        root.api.workers.error = error

    root.do(script)


def test_output_and_exit_code_are_the_commands(shop: Oak, root: ServedRoot) -> None:
    answer(root, Written(OUT, b""), Written(OUT, b"one\n"), Written(ERR, b"two\n"), CommandEnd(exit_code=3))
    said = shop("exec", "web", "--", "sh", "-c", "true; exit 3", "--", "-x")
    assert (said.code, said.out, said.err) == (3, "one\n", "two\n")
    ((_, _, method, arguments),) = root.api.workers.asked
    assert (method, arguments["slot"], arguments["timeout_s"]) == ("exec", 0, 3600.0)
    assert tuple(arguments["command"]) == ("sh", "-c", "true; exit 3", "--", "-x")
    assert shop("exec", "web", "date").code == 3, "without options it is plain where the command begins"


def test_one_instance_and_a_time_limit(shop: Oak, root: ServedRoot) -> None:
    answer(
        root, Written(OUT, b""), CommandEnd(exit_code=124, reason="did not end within 90 s and was killed")
    )
    said = shop("exec", "web.0", "--timeout", "90s", "--", "sleep", "1000")
    assert (said.code, said.err) == (124, "oak: the command did not end within 90 s and was killed\n")
    assert root.api.workers.asked[0][3]["timeout_s"] == 90.0
    assert "instance 1 is on no worker yet" in shop.bad("exec", "web.1", "--", "true")


def test_what_is_refused_fails_with_1_and_the_reason(shop: Oak, root: ServedRoot) -> None:
    answer(
        root, error=Rejected("the command 'nothing' is not in the image; correct the command or the image")
    )
    assert "'nothing' is not in the image" in shop.bad("exec", "web", "--", "nothing")
    assert "timeout_s" in shop.bad("exec", "web", "--timeout", "0", "--", "true")
    assert "there is no service 'wob'" in shop.bad("exec", "wob", "--", "true")
    assert "nothing to run; put it behind --" in shop.bad("exec", "web")
    assert "nothing to run; put it behind --" in shop.bad("exec", "web", "--")
    assert "unrecognized arguments: -l" in shop.bad("exec", "web", "ls", "-l")


def test_an_answer_that_is_cut_off_is_no_success(shop: Oak, root: ServedRoot) -> None:
    answer(root, Written(OUT, b"one\n"), error=Unavailable("no answer for 30 s"))
    said = shop("exec", "web", "--", "yes")
    assert (said.code, said.out) == (1, "one\n")
    assert said.err == "oak: how the command ended is not known: no answer for 30 s\n"
    answer(root, Written(OUT, b"one\n"))
    said = shop("exec", "web", "--", "yes")
    assert said.code == 1
    assert "the answer was cut off" in said.err
