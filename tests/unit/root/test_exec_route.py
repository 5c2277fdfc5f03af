"""Running commands in instances over the API: who may, what is passed on, and how it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from asgi import Reply
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.instance import Phase
from oakestra.wire.execution import MEDIA_TYPE, CommandEnd, FrameKind, FrameReader, Written, frame
from root_api import CLUSTER, WORKER, RootApi, let_cluster_join, let_run, start_api
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
        arguments = {"service": service, "slot": 0, "command": command, "timeout_s": 5.0}
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
