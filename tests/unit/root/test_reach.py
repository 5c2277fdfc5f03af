"""What is shown and what is asked of a cluster that is lost, and of its workers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from asgi import AsgiClient
from oakestra.model.errors import NotFound, OakestraError, Unavailable
from root_api import CLUSTER, WORKER, RootApi, let_cluster_join, let_run, start_api
from sla_samples import sla

Story = Callable[[RootApi, AsgiClient, str], Awaitable[None]]
SILENT_S = 70.0


def run(tmp_path: Path, story: Story) -> None:
    """Play a story in which an instance runs on the only worker of the only cluster."""

    async def all_of_it() -> None:
        api = await start_api(tmp_path)
        client = await api.admin()
        let_cluster_join(api)
        (app,) = (await client.post("/api/application/", sla())).doubled()
        (service,) = app["microservices"]
        await client.post(f"/api/service/{service}/instance")
        let_run(api, service)
        await story(api, client, service)

    asyncio.run(all_of_it())


def let_worker_be(api: RootApi, **said: Any) -> None:
    """Let the cluster say something else of its worker."""
    report = api.state.views[CLUSTER].report
    assert report is not None
    workers = tuple(replace(worker, **said) for worker in report.workers)
    api.state.views[CLUSTER].report = replace(report, workers=workers)


def test_nobody_knows_how_the_workers_of_a_lost_cluster_are(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        del service
        (worker,) = (await client.get("/api/v1/workers")).json()
        assert (worker["live"], worker["liveness"], worker["free"]["vcpus"]) == (True, "live", 3)
        api.clock.now_s += SILENT_S
        (worker,) = (await client.get("/api/v1/workers")).json()
        assert (worker["live"], worker["liveness"], worker["silent_s"]) == (False, "unknown", SILENT_S)
        assert (worker["free"], worker["usage"]) == (None, None)
        assert worker["total"]["vcpus"] == 4, "what it is, it still is"
        (cluster,) = (await client.get("/api/v1/clusters")).json()
        assert (cluster["live"], cluster["workers_live"], cluster["workers"]) == (False, 0, 1)
        assert cluster["free"]["memory_mib"] == 0
        (document,) = (await client.get("/api/clusters")).json()
        assert (document["active_nodes"], document["memory"], document["cpu_percent"]) == (0, 0, 0.0)

    run(tmp_path, story)


@pytest.mark.parametrize(("said", "shown"), [("lost", "lost"), ("live", "unknown")])
def test_what_a_worker_that_does_not_live_has_free_is_not_shown(
    tmp_path: Path, said: str, shown: str
) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        del service
        let_worker_be(api, live=False, liveness=said)
        (worker,) = (await client.get("/api/v1/workers")).json()
        assert (worker["live"], worker["liveness"], worker["free"]) == (False, shown, None)
        (cluster,) = (await client.get("/api/v1/clusters")).json()
        assert (cluster["live"], cluster["workers_live"], cluster["free"]["vcpus"]) == (True, 0, 0)

    run(tmp_path, story)


def test_what_only_a_lost_cluster_could_answer_is_refused_at_once(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        path = f"/api/v1/services/{service}"
        assert (await client.get(f"{path}/logs")).status == 200
        api.clock.now_s += SILENT_S
        api.workers.asked.clear()
        replies = [await client.get(f"{path}/logs"), await client.post(f"{path}/exec", {"command": ["true"]})]
        assert [reply.status for reply in replies] == [503, 503]
        for reply in replies:
            assert reply.json()["message"].startswith("cluster east is lost, silent for 70 s; ")
        assert (await client.get(f"{path}/story")).json()["silent"] == ["east"]
        assert (await client.get("/api/v1/events")).status == 200
        assert api.workers.asked == [], "nobody was asked, so nobody is waited for"

    run(tmp_path, story)


def test_taking_out_a_worker_of_a_lost_cluster_says_that_nothing_was_recorded(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        del service
        api.clock.now_s += SILENT_S
        path = f"/api/v1/workers/{WORKER}"
        replies = [
            await client.put(f"{path}/availability", {"availability": "draining"}),
            await client.delete(path),
        ]
        assert [reply.status for reply in replies] == [503, 503]
        for reply in replies:
            said = reply.json()["message"]
            assert said.startswith("nothing was recorded about worker w1: ")
            assert "cluster east is lost, silent for 70 s" in said
        assert api.workers.asked == []

    run(tmp_path, story)


def test_a_worker_that_its_cluster_lost_is_not_asked_and_can_be_taken_out(tmp_path: Path) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        let_worker_be(api, live=False, liveness="lost")
        refused = await client.get(f"/api/v1/services/{service}/logs")
        assert (refused.status, api.workers.asked) == (503, [])
        assert refused.json()["message"].startswith("worker w1 is lost: its cluster does not hear it; ")
        api.workers.pieces = (b'{"name": "w1", "removed": true}',)
        assert (await client.delete(f"/api/v1/workers/{WORKER}")).status == 200

    run(tmp_path, story)


@pytest.mark.parametrize(
    "error",
    [Unavailable("not now"), NotFound("this tier does not know how to 'verdicts'"), OakestraError("a bug")],
)
def test_a_cluster_that_answers_with_an_error_takes_no_story_from_anybody(
    tmp_path: Path, error: OakestraError
) -> None:
    async def story(api: RootApi, client: AsgiClient, service: str) -> None:
        api.workers.error = error
        answer = await client.get(f"/api/v1/services/{service}/story")
        assert (answer.status, answer.json()["silent"]) == (200, ["east"])
        assert answer.json()["events"]
        assert (await client.get("/api/v1/events")).status == 200

    run(tmp_path, story)
