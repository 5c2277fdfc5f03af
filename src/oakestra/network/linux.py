"""The network of a Linux machine: every instance in a namespace of its own, packets moved by the kernel alone.

All of it happens in the network namespace that the agent was started in, on one thread, one thing at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.ids import WorkerId
from oakestra.network import Applied, Endpoint, Overlay, ground
from oakestra.network.names import Names
from oakestra.network.netlink import NetlinkError
from oakestra.network.plane import Plane, attached

T = TypeVar("T")


class LinuxNetwork:
    """Implements `Network`. What it makes carries a name derived from the worker's id and outlives the agent."""

    def __init__(
        self,
        worker: WorkerId,
        *,
        runtime_dir: Path,
        resolv_conf: Path = Path("/etc/resolv.conf"),
        tunnel_port: int = 50103,
        uptime_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._names = Names.of(worker)
        self._folder = runtime_dir / "netns"
        self._resolv_conf = resolv_conf
        self._tunnel_port = tunnel_port
        self._uptime_s = uptime_s
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="network")
        self._plane: Plane | None = None

    async def prepare(self, overlay: Overlay) -> None:
        await self._do("prepare the machine's network", lambda plane: plane.prepare(overlay))

    async def attach(self, endpoint: Endpoint) -> str:
        return await self._do("make the instance's network", lambda plane: plane.attach(endpoint))

    async def detach(self, number: int) -> None:
        await self._do("take the instance's network away", lambda plane: plane.detach(number))

    async def attached(self) -> Sequence[int]:
        return attached(self._names, self._folder)

    async def apply(self, overlay: Overlay) -> Applied:
        return await self._do("change the overlay's rules", lambda plane: plane.apply(overlay))

    def name_servers(self) -> tuple[str, ...]:
        return ground.name_servers(self._resolv_conf)

    async def remove(self) -> None:
        await self._do("remove the machine's part of the overlay", lambda plane: plane.remove())

    def close(self) -> None:
        """End what belongs to the agent; what it made goes on. No call may be under way."""
        self._thread.shutdown()
        if self._plane is not None:
            self._plane.close()

    async def _do(self, what: str, work: Callable[[Plane], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._work, what, work)

    def _work(self, what: str, work: Callable[[Plane], T]) -> T:
        try:
            if self._plane is None:
                self._plane = Plane(
                    self._names,
                    folder=self._folder,
                    tunnel_port=self._tunnel_port,
                    uptime_s=self._uptime_s,
                )
            return work(self._plane)
        except PermissionError as error:
            raise Rejected(f"could not {what}: the worker needs root rights for it") from error
        except NetlinkError as error:
            raise Unavailable(f"could not {what}: the kernel says: {error.strerror}") from error
        except OSError as error:
            raise Unavailable(f"could not {what}: {error}") from error
