"""Know which clusters and workers can be asked, and refuse at once what nobody would answer."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from oakestra.control.clock import Clock
from oakestra.model.errors import Unavailable
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.root.api.sessions import ConverseWithWorker, Entry
from oakestra.root.state import RootState
from oakestra.scheduling.liveness import Liveness, silence_s
from oakestra.wire.native import WorkerSummary

CallWorker = Callable[[ClusterId, WorkerId, str, Mapping[str, Any]], AsyncGenerator[bytes, None]]
"""Asks a worker something and yields the pieces of its answer."""


class Reach:
    """Looks at what was heard of whom; `call` asks over the link."""

    def __init__(
        self,
        state: RootState,
        *,
        clock: Clock,
        lost_after_s: float,
        call: CallWorker,
        converse: ConverseWithWorker,
    ) -> None:
        self._state = state
        self._clock = clock
        self._lost_after_s = lost_after_s
        self._call = call
        self._converse = converse
        self._since_s = clock.uptime_s()

    def is_lost(self, cluster: ClusterId) -> bool:
        """Tell whether a cluster has been silent for so long that what it said counts no more."""
        return self._silence_s(cluster) > self._lost_after_s

    def refusal(self, cluster: ClusterId, worker: WorkerId = WorkerId("")) -> str:  # noqa: B008 - a string
        """Say why a cluster, or a worker of it, cannot be asked anything now; nothing if it may answer."""
        if self.is_lost(cluster):
            record = self._state.clusters.get(cluster)
            name = record.name if record else cluster
            return f"cluster {name} is lost, silent for {self._silence_s(cluster):.0f} s"
        known = next((one for one in workers_of(self._state, cluster) if one.id == worker), None)
        if known is not None and known.liveness == Liveness.LOST.value:
            return f"worker {known.name} is lost: its cluster does not hear it"
        return ""

    async def call(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        """Ask a worker, or with an empty `worker` its cluster; yield the pieces of the answer.

        Raises what they answer, or `Unavailable`: at once when they are lost.
        """
        self._must_be_heard(cluster, worker)
        async with contextlib.aclosing(self._call(cluster, worker, method, arguments)) as pieces:
            async for piece in pieces:
                yield piece

    def converse(
        self, cluster: ClusterId, worker: WorkerId, method: str, arguments: Mapping[str, Any]
    ) -> tuple[AsyncGenerator[bytes, None], Entry]:
        """As `call`; more is entered while it is answered, by the second of what is returned."""
        self._must_be_heard(cluster, worker)
        return self._converse(cluster, worker, method, arguments)

    def _must_be_heard(self, cluster: ClusterId, worker: WorkerId) -> None:
        if refusal := self.refusal(cluster, worker):
            raise Unavailable(
                f"{refusal}; what runs there may go on, but nothing can be asked of it until it is back: "
                "see to that machine and its network, and ask again"
            )

    def _silence_s(self, cluster: ClusterId) -> float:
        view = self._state.views.get(cluster)
        return silence_s(
            view.last_seen_s if view else None, since_s=self._since_s, now_s=self._clock.uptime_s()
        )


def workers_of(state: RootState, cluster: ClusterId) -> tuple[WorkerSummary, ...]:
    """Return a cluster's workers as it reported them last."""
    view = state.views.get(cluster)
    return view.report.workers if view is not None and view.report is not None else ()
