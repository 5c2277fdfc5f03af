"""Running commands in instances over the API: who may, what is passed on, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from asgi import AsgiClient, Reply
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.instance import Phase
from oakestra.model.terminal import TerminalSize
from oakestra.root.api import sessions
from oakestra.wire.execution import (
    INPUT_BYTES_MAX,
    MEDIA_TYPE,
    CommandEnd,
    Entered,
    FrameKind,
    FrameReader,
    Input,
    InputEnd,
    SessionBegun,
    TerminalWish,
    Written,
    frame,
)
from root_api import CLUSTER, WORKER, Conversation, RootApi, let_cluster_join, let_run, start_api
from sla_samples import sla

OUTPUT = (Written(FrameKind.STDOUT, b""), Written(FrameKind.STDERR, b"hm\n"), CommandEnd(exit_code=3))


def with_service(tmp_path: Path, story: Callable[[RootApi, str], Awaitable[None]]) -> None:
    """Live a story with a service that has one instance on a worker."""

    async def live() -> None:
        api = await start_api(tmp_path)
        let_cluster_join(api)
        admin = await api.admin()
        (app,) = (await admin.post("/api/application", sla())).doubled()
        (service,) = app["microservices"]
        await admin.post(f"/api/service/{service}/instance")
        let_run(api, service)
        api.workers.pieces = tuple(map(frame, OUTPUT))  # type: ignore[arg-type]
        await story(api, service)

    asyncio.run(live())


async def run(api: RootApi, service: str, body: Any, name: str = "Admin", password: str = "secret") -> Reply:
    client = await api.login(name, password)
    return await client.post(f"/api/v1/services/{service}/exec", body)


def test_the_worker_is_asked_and_its_answer_passed_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(api: RootApi, service: str) -> None:
        with caplog.at_level(logging.INFO):
            reply = await run(api, service, {"command": ["sh", "-c", "echo hm >&2; exit 3"], "timeout_s": 5})
        assert (reply.status, reply.headers["content-type"]) == (200, MEDIA_TYPE)
        assert tuple(FrameReader().feed(reply.body)) == OUTPUT
        command = ("sh", "-c", "echo hm >&2; exit 3")
        named = {"service": service, "slot": 0, "placement": 1, "attempt": 2}
        arguments = {**named, "command": command, "timeout_s": 5.0}
        assert api.workers.asked == [(CLUSTER, WORKER, "exec", arguments)]

    with_service(tmp_path, story)
    (told,) = [record for record in caplog.records if record.message == "command run in an instance"]
    assert vars(told)["by"] == "Admin"
    assert vars(told)["command"] == "sh -c 'echo hm >&2; exit 3'"


def test_who_may_not_deploy_may_not_run_commands(tmp_path: Path) -> None:
    """Nor may anybody in another organization's instances, who is told that there are none."""

    async def story(api: RootApi, service: str) -> None:
        admin = await api.admin()
        for name, role in (("ops", "Infrastructure_Provider"), ("dev", "Application_Provider")):
            user = {"name": name, "password": "pw", "roles": [role], "email": "", "created_at": ""}
            assert (await admin.post("/api/auth/register", user)).status == 200
        reply = await run(api, service, {"command": ["true"]}, "ops", "pw")
        assert reply.status == 403
        reply = await run(api, service, {"command": ["true"]}, "dev", "pw")
        assert reply.status == 404
        assert (
            await api.client.post(f"/api/v1/services/{service}/exec", {"command": ["true"]})
        ).status == 401
        assert api.workers.asked == []

    with_service(tmp_path, story)


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({}, 400, "command"),
        ({"command": []}, 400, "command"),
        ({"command": [""]}, 400, "a program and its arguments"),
        ({"command": ["a\0b"]}, 400, "NUL"),
        ({"command": "true"}, 400, "command"),
        ({"command": ["true"], "timeout_s": 0}, 400, "timeout_s"),
        ({"command": ["true"], "timeout_s": 1e9}, 400, "timeout_s"),
        ({"command": ["true"], "instance": -1}, 400, "instance"),
        ({"command": ["true"], "instance": 7}, 404, "has no instance 7"),
        ({"command": ["true"], "terminal": {}}, 400, "ask for stdin, too"),
        ({"command": ["true"], "stdin": True, "terminal": {"rows": 0}}, 400, "terminal.rows"),
        ({"command": ["true"], "stdin": True, "terminal": {"name": "a=b c"}}, 400, "terminal.name"),
    ],
)
def test_what_cannot_be_run_is_refused(tmp_path: Path, body: Any, status: int, said: str) -> None:
    async def story(api: RootApi, service: str) -> None:
        reply = await run(api, service, body)
        assert (reply.status, said in reply.json()["message"]) == (status, True), reply.body
        assert api.workers.asked == []

    with_service(tmp_path, story)


def test_an_instance_without_a_worker_is_named_with_the_reason(tmp_path: Path) -> None:
    async def story(api: RootApi, service: str) -> None:
        await (await api.admin()).post(f"/api/service/{service}/instance")
        reply = await run(api, service, {"command": ["true"], "instance": 1})
        assert reply.status == 503
        assert "instance 1 is on no worker yet, so no command can run in it" in reply.json()["message"]

    with_service(tmp_path, story)


def test_what_the_worker_refuses_at_once_has_a_status_code(tmp_path: Path) -> None:
    async def story(api: RootApi, service: str) -> None:
        api.workers.pieces, api.workers.error = (), Rejected("the command 'nothing' is not in the image")
        reply = await run(api, service, {"command": ["nothing"]})
        assert reply.status in range(400, 500)
        assert reply.json()["message"] == "the command 'nothing' is not in the image"

    with_service(tmp_path, story)


def test_an_instance_that_does_not_run_is_said_to_be_how_it_is(tmp_path: Path) -> None:
    async def story(api: RootApi, service: str) -> None:
        let_run(api, service, phase=Phase.STOPPED, reason="ended with exit code 1")
        api.workers.pieces, api.workers.error = (), Unavailable("the instance does not run now")
        reply = await run(api, service, {"command": ["true"], "instance": 0})
        assert reply.status == 503
        assert reply.json()["message"] == (
            "the instance does not run now (it is STOPPED: ended with exit code 1); "
            "see what it wrote: oak service logs shop.prod.web.front.0"
        )

    with_service(tmp_path, story)


def test_an_answer_that_is_cut_off_says_so(tmp_path: Path) -> None:
    async def story(api: RootApi, service: str) -> None:
        api.workers.pieces = (frame(Written(FrameKind.STDOUT, b"one\n")),)
        api.workers.error = Unavailable("no answer for 30 s")
        reply = await run(api, service, {"command": ["yes"]})
        assert list(FrameReader().feed(reply.body)) == [
            Written(FrameKind.STDOUT, b"one\n"),
            CommandEnd(exit_code=None, reason="no answer for 30 s"),
        ]

    with_service(tmp_path, story)


# --- sessions ------------------------------------------------------------------------------------------------------

ECHO = {"command": ["cat"], "stdin": True}


@dataclass
class Attended:
    """A session that is open, its asker, and where he posts."""

    api: RootApi
    client: AsgiClient
    url: str
    answer: asyncio.Future[Reply]

    @property
    def conversation(self) -> Conversation:
        return self.api.workers.conversations[-1]

    async def post(self, sequence: int, *entered: Input, client: AsgiClient | None = None) -> Reply:
        return await self.post_raw(sequence, b"".join(map(frame, entered)), client=client)

    async def post_raw(self, sequence: int, raw: bytes, *, client: AsgiClient | None = None) -> Reply:
        return await (client or self.client).call("POST", f"{self.url}?sequence={sequence}", raw=raw)


def with_session(
    tmp_path: Path, story: Callable[[Attended], Awaitable[None]], *, room: int = 1000, **body: Any
) -> None:
    """Live a story with a command that reads and says what it reads."""

    async def live(api: RootApi, service: str) -> None:
        api.workers.room = room
        client = await api.admin()
        answer = asyncio.ensure_future(client.post(f"/api/v1/services/{service}/exec", {**ECHO, **body}))
        try:
            await story(Attended(api, client, await api.session(client), answer))
        finally:
            answer.cancel()
            await asyncio.wait((answer,))
        assert api.workers.conversations[-1].ended

    with_service(tmp_path, live)


def test_what_is_posted_reaches_the_command_and_its_end_ends_it(tmp_path: Path) -> None:
    async def story(at: Attended) -> None:
        size = TerminalSize(rows=5, columns=6)
        assert (await at.post(0, Entered(b"a\0\xff"), size)).json() == {"next": 1}
        assert (await at.post(1, InputEnd())).json() == {"next": 2}
        reply = await at.answer
        assert tuple(FrameReader().feed(reply.body)) == (
            SessionBegun(at.conversation.call),
            Written(FrameKind.STDOUT, b""),
            Written(FrameKind.STDOUT, b"a\0\xff"),
            Written(FrameKind.STDERR, b"5 6\n"),
            CommandEnd(exit_code=0),
        )
        ((_, _, method, arguments),) = at.api.workers.asked
        assert (method, arguments["command"]) == ("session", ("cat",))
        assert arguments["terminal"] == TerminalWish(rows=24, columns=80, name="vt100")
        after = await at.post(2, Entered(b"more"))
        assert (after.status, "its command has ended" in after.json()["message"]) == (404, True)

    with_session(tmp_path, story, terminal={"name": "vt100"})


def test_what_is_posted_again_reaches_the_command_once(tmp_path: Path) -> None:
    async def story(at: Attended) -> None:
        for sequence, text, expected in (
            (0, b"a", 1),
            (0, b"a", 1),
            (1, b"b", 2),
            (0, b"a", 2),
            (1, b"b", 2),
        ):
            assert (await at.post(sequence, Entered(text))).json() == {"next": expected}
        gap = await at.post(3, Entered(b"d"))
        assert (gap.status, "what is between is missing" in gap.json()["message"]) == (409, True)
        assert at.conversation.entered == [Entered(b"a"), Entered(b"b")]

    with_session(tmp_path, story)


def test_a_session_is_its_askers_alone(tmp_path: Path) -> None:
    """Not even Admin enters something into another's."""

    async def story(at: Attended) -> None:
        user = {"name": "dev", "password": "pw", "roles": ["Admin"], "email": "", "created_at": ""}
        assert (await at.client.post("/api/auth/register", user)).status == 200
        dev = await at.api.login("dev", "pw")
        assert (await at.post(0, Entered(b"rm"), client=dev)).status == 404
        assert (await at.post(0, Entered(b"rm"), client=at.api.client)).status == 401
        assert at.conversation.entered == []

    with_session(tmp_path, story)


@pytest.mark.parametrize(
    ("raw", "said"),
    [
        (b"\x05\0\0\0\x05hell", "whole frames"),
        (b"\x05\0", "whole frames"),
        (b"\x01\0\0\0\x00", "no input of a command"),
        (b"\x06\0\0\0\x02{}", "cannot be read"),
        (frame(TerminalSize(rows=0, columns=70000)), "no terminal has 0 rows and 70000 columns"),
        (frame(Entered(bytes(INPUT_BYTES_MAX))), "too many at once"),
    ],
)
def test_what_is_no_input_is_refused(tmp_path: Path, raw: bytes, said: str) -> None:
    async def story(at: Attended) -> None:
        reply = await at.post_raw(0, raw)
        assert (reply.status, said in reply.json()["message"]) == (400, True), reply.body
        assert at.conversation.entered == []
        assert (await at.client.call("POST", at.url, raw=b"")).status == 400, "the number is missing"

    with_session(tmp_path, story)


def test_a_command_that_does_not_read_slows_who_posts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sessions, "TAKEN_WITHIN_S", 0.05)

    async def story(at: Attended) -> None:
        assert (await at.post(0, Entered(b"a"))).json() == {"next": 1}
        assert (await at.post(1, Entered(b"b"))).json() == {"next": 1}, "not taken: to be posted again"
        at.conversation.make_room(1)
        assert (await at.post(1, Entered(b"b"))).json() == {"next": 2}
        assert at.conversation.entered == [Entered(b"a"), Entered(b"b")]

    with_session(tmp_path, story, room=1)


def test_who_goes_away_takes_the_command_along(tmp_path: Path) -> None:
    async def story(at: Attended) -> None:
        at.answer.cancel()
        await asyncio.wait((at.answer,))
        assert at.conversation.ended
        assert (await at.post(0, Entered(b"a"))).status == 404

    with_session(tmp_path, story)


def test_who_says_nothing_for_a_minute_has_gone_away(tmp_path: Path) -> None:
    async def story(at: Attended) -> None:
        at.api.clock.now_s += 59
        await at.post(0)
        at.api.clock.now_s += 59
        await at.post(0, Entered(b"a"))
        at.conversation.say(b"x")
        at.api.clock.now_s += 61
        at.conversation.say(b"y")
        *_, end = FrameReader().feed((await at.answer).body)
        assert isinstance(end, CommandEnd)
        assert end.reason == "nothing came from you for 60 s, so the command was ended"

    with_session(tmp_path, story)


def test_a_session_that_is_refused_has_a_status_code(tmp_path: Path) -> None:
    async def story(api: RootApi, service: str) -> None:
        api.workers.error = Rejected("the command 'nothing' is not in the image")
        assert (await run(api, service, {**ECHO, "command": ["nothing"]})).status == 422

    with_service(tmp_path, story)
