"""A worker's container runtime on a bench: real runc and conmon, one busybox image, and no trace left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from oakestra.control import processes as process_table
from oakestra.control.clock import SystemClock
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.ids import WorkerId
from oakestra.model.service import Resources
from oakestra.runtime import ContainerSpec, ImageInfo, Progress
from oakestra.runtime.machine import architecture
from oakestra.runtime.oci import OciRuntime
from oakestra.runtime.oci.linux.cgroups import Cgroups, hierarchies

TIMEOUT_S = 60.0
IMAGE = "localhost/busybox:1"
PASSWD = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUP = "root:x:0:\napp:x:1001:\nextra:x:2000:app\n"
TOOLS = "sh sleep cat echo ls id yes seq head touch mount mkdir mknod unshare ip date kill true grep tr dd hostname stty tty"


@dataclass(frozen=True, kw_only=True)
class BusyboxImage:
    """What the image store would say of it."""

    layers: tuple[Path, ...]
    digest: str = "sha256:" + "b" * 64
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ("sleep", "1000")
    environment: tuple[str, ...] = ("FROM_IMAGE=1",)
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    architecture: str = architecture()


class OneImage:
    """An image store that has one image, which tests may change."""

    def __init__(self, image: BusyboxImage) -> None:
        self.image: BusyboxImage = image

    async def ensure(self, reference: str, *, progress: Progress | None = None) -> None:
        """It is there."""

    async def load(self, path: str, *, progress: Progress | None = None) -> ImageInfo:
        return (await self.list())[0]

    async def list(self) -> Sequence[ImageInfo]:
        return (ImageInfo(reference=IMAGE, digest=self.image.digest, size_bytes=1, architecture="amd64"),)

    async def remove(self, reference: str) -> None:
        """Nobody asks for it."""

    def resolve(self, reference: str) -> BusyboxImage | None:
        return self.image if reference == IMAGE else None


class Bench:
    """One worker's state, and any number of agents that come and go over it."""

    def __init__(self, root: Path, worker: str, cgroup_parent: str) -> None:
        self.root = root
        self.worker = WorkerId(worker)
        self.cgroup_parent = cgroup_parent
        self.images = OneImage(BusyboxImage(layers=(root / "layer",)))
        self._agents: list[OciRuntime] = []

    def agent(self, **settings: Any) -> OciRuntime:
        """Return a new agent's runtime, as after a restart of the agent."""
        runtime = OciRuntime(
            settings.pop("worker", self.worker),
            self.images,
            state_dir=self.root / "state",
            runtime_dir=self.root / "run",
            cgroup_parent=self.cgroup_parent,
            clock=SystemClock(),
            **settings,
        )
        self._agents.append(runtime)
        return runtime

    def close_agents(self) -> None:
        """Let all agents of the running loop go; their containers stay."""
        while self._agents:
            self._agents.pop().close()

    def bundle(self, number: int) -> Path:
        return self.root / "state" / "instances" / str(number)

    def identity(self, number: int) -> str:
        return f"oak-{self.worker[:6]}-{number}"

    @property
    def cgroups(self) -> Cgroups:
        return Cgroups(self.cgroup_parent, hierarchies(Path("/proc/self/mountinfo").read_text()))

    def mounts(self) -> list[str]:
        """Return the machine's mounts that belong to the bench."""
        return [
            line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(self.root) in line
        ]

    def kill_everything(self) -> None:
        """End all conmons and containers at once, as when the power goes."""
        for pid, _ in self.processes():
            process_table.kill(pid)
        for name in self.bundles():
            for pid in self.cgroups.pids(name):
                process_table.kill(pid)

    def bundles(self) -> list[int]:
        return [int(path.name) for path in (self.root / "state" / "instances").iterdir()]

    def leftovers(self) -> list[str]:
        """Return everything of containers that is still there, logs apart."""
        found = self.mounts()
        for point in self.cgroups.found.mount_points:
            top = point / self.cgroup_parent.lstrip("/")
            found += [str(path) for path in top.glob("[0-9]*")]
        for directory in ("state/instances", "run/runc", "run/exits"):
            found += [str(path) for path in (self.root / directory).glob("*")]
        found += [f"process {pid} {arguments}" for pid, arguments in self.processes()]
        return found

    def processes(self) -> list[tuple[int, tuple[str, ...]]]:
        """Return the processes that have to do with this bench by their command lines."""
        pids = (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())
        lines = ((pid, process_table.arguments(pid)) for pid in pids)
        mark = f"oak-{self.worker[:6]}-"
        return [(pid, line) for pid, line in lines if any(word.startswith(mark) for word in line)]


@contextlib.contextmanager
def bench() -> Any:
    """Give a bench; whatever its containers did, nothing of them is left afterwards."""
    root = Path(tempfile.mkdtemp(prefix="oak-bench-"))
    made = Bench(root, secrets.token_hex(12), f"/oak-bench-{secrets.token_hex(4)}")
    make_layer(root / "layer")
    try:
        yield made
    finally:
        asyncio.run(_clean(made))
        shutil.rmtree(root)


def make_layer(layer: Path) -> None:
    """Make a directory that serves as a busybox image's only layer."""
    for name in ("bin", "etc", "tmp", "proc", "sys", "dev"):
        (layer / name).mkdir(parents=True)
    (layer / "tmp").chmod(0o1777)
    shutil.copy("/bin/busybox", layer / "bin/busybox")
    for tool in TOOLS.split():
        (layer / "bin" / tool).symlink_to("busybox")
    (layer / "etc/passwd").write_text(PASSWD)
    (layer / "etc/group").write_text(GROUP)


async def _clean(made: Bench) -> None:
    agent = made.agent()
    try:
        await agent.prepare()
        await agent.purge()
    finally:
        made.close_agents()


def spec(number: int, *command: str, **settings: Any) -> ContainerSpec:
    """Return a container of the busybox image."""
    wanted = ContainerSpec(
        number=number,
        labels={"name": f"container {number}"},
        image=IMAGE,
        command=command,
        resources=Resources(memory_mib=32, vcpus=1),
    )
    return replace(wanted, **settings)


def write_inside(pid: int, path: str, text: str) -> None:
    """Make a file in a running container, all at once."""
    target = Path(f"/proc/{pid}/root{path}")
    beside = target.with_suffix(".new")
    beside.write_text(text)
    beside.rename(target)


def touch_inside(pid: int, path: str) -> None:
    """Make an empty file in a running container."""
    Path(f"/proc/{pid}/root{path}").touch()


async def until(predicate: Callable[[], Any], *, timeout_s: float = TIMEOUT_S) -> Any:
    """Return the predicate's value once it is true; asynchronous predicates are awaited."""
    deadline_s = time.monotonic() + timeout_s
    while True:
        found = predicate()
        if asyncio.iscoroutine(found):
            found = await found
        if found:
            return found
        assert time.monotonic() < deadline_s, "it did not come true in time"
        await asyncio.sleep(0.01)


async def seen(runtime: OciRuntime, number: int) -> ContainerSeen | None:
    """Return what the runtime sees of one container."""
    return {found.number: found for found in await runtime.observe()}.get(number)


async def ended(runtime: OciRuntime, number: int) -> ContainerSeen:
    """Return the container once it has stopped."""

    async def stopped() -> ContainerSeen | None:
        found = await seen(runtime, number)
        return found if found is not None and found.state is ContainerState.STOPPED else None

    found: ContainerSeen = await until(stopped)
    return found


async def output(runtime: OciRuntime, number: int) -> str:
    """Return all that the instance's log has."""
    return b"".join(await pieces(runtime.logs(number, tail_bytes=None, follow=False))).decode()


async def pieces(log: AsyncIterator[bytes]) -> list[bytes]:
    return [piece async for piece in log]


async def run(runtime: OciRuntime, wanted: ContainerSpec) -> tuple[ContainerSeen, str]:
    """Run a container to its end; return how it ended and what it said."""
    await runtime.create(wanted)
    await runtime.start(wanted.number)
    found = await ended(runtime, wanted.number)
    return found, await output(runtime, wanted.number)


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """What an agent in a process of its own is to do, and after how many lines of the runtime's code it dies."""

    root: str
    worker: str
    cgroup_parent: str
    number: int
    up: bool
    die_at: int = 0
    command: tuple[str, ...] = ()


async def _perform(task: Task) -> None:
    made = Bench(Path(task.root), task.worker, task.cgroup_parent)
    runtime = made.agent()
    await runtime.prepare()
    if task.up:
        await runtime.create(spec(task.number, *task.command))
        await runtime.start(task.number)
    else:
        await runtime.stop(task.number, grace_s=1.0)
        await runtime.delete(task.number)
    made.close_agents()


class LineCounter:
    """Counts the lines executed in the runtime's modules, in all threads, and dies at a given one."""

    def __init__(self, die_at: int) -> None:
        self.count = 0
        self._die_at = die_at

    def __call__(self, frame: Any, event: str, _argument: object) -> Any:
        if "/runtime/oci/" not in frame.f_code.co_filename:
            return None
        if event == "line":
            self.count += 1
            if self.count == self._die_at:
                os.kill(os.getpid(), 9)
        return self


def main() -> None:
    """Be the agent that a task describes; print how many lines it took."""
    import threading  # noqa: PLC0415 - only here

    task = msgspec.json.decode(sys.argv[1], type=Task)
    counter = LineCounter(task.die_at)
    threading.settrace(counter)
    sys.settrace(counter)
    asyncio.run(_perform(task))
    sys.settrace(None)
    print(counter.count)


if __name__ == "__main__":
    main()
