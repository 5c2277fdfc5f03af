"""What the API says of an update while its successors are out of sight behind what they are to replace."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from typing import Any

from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase
from root_api import CLUSTER, WORKER, let_cluster_join, let_run, start_api
from sla_samples import sla


def test_what_holds_a_successor_up_is_told_while_an_update_rolls(tmp_path: Path) -> None:
    async def live() -> None:
        api = await start_api(tmp_path)
        let_cluster_join(api)
        admin = await api.admin()
        (app,) = (await admin.post("/api/application", sla())).doubled()
        (service,) = app["microservices"]
        await admin.post(f"/api/service/{service}/instance")
        let_run(api, service)
        await admin.put(f"/api/v1/services/{service}", {"code": "example:nope"})

        async def rollout() -> Any:
            return (await admin.get(f"/api/v1/services/{service}")).json()["rollout"]

        assert (await rollout())["reason"] == ""
        status = InstanceStatus(
            key=InstanceKey(ServiceId(service), 0, 1, 3), phase=Phase.PULLING, worker=WORKER, revision=1,
            reason="could not fetch the image example:nope",
        )  # fmt: skip
        view = api.state.views[CLUSTER]
        assert view.report is not None
        api.state.views[CLUSTER] = replace(view, report=replace(view.report, successors=(status,)))
        assert (await rollout())["reason"] == "instance 0: PULLING could not fetch the image example:nope"

    asyncio.run(live())
