"""How long containers take to start and to go, and what each costs above its own process, with runc under conmon.

Needs root, runc, conmon, busybox-static. The image is unpacked already; leaves out the network and everything above
the runtime.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

from figures import Figures, memory_mib

from oakestra.control.clock import SystemClock
from oakestra.model.ids import WorkerId
from oakestra.model.service import Resources
from oakestra.runtime import ContainerSpec
from oakestra.runtime.images import ImageStore
from oakestra.runtime.images.build import build_busybox_image
from oakestra.runtime.machine import architecture
from oakestra.runtime.oci import OciRuntime, images_in_use

RUNS = 15
MANY = 50
IMAGE = "localhost/bench:1"


async def timed(work: Callable[[], Awaitable[object]]) -> float:
    begun_s = time.perf_counter()
    await work()
    return time.perf_counter() - begun_s


async def up(runtime: OciRuntime, number: int) -> None:
    resources = Resources(memory_mib=32, vcpus=1)
    await runtime.create(ContainerSpec(number=number, labels={}, image=IMAGE, resources=resources))
    await runtime.start(number)


async def down(runtime: OciRuntime, number: int) -> None:
    await runtime.stop(number, grace_s=5.0)
    await runtime.delete(number)


async def measure(root: Path, figures: Figures) -> None:
    state = root / "state"
    store = ImageStore(
        state,
        image_dirs=[],
        in_use=partial(images_in_use, state),
        clock=SystemClock(),
        architecture=architecture(),
    )
    runtime = OciRuntime(
        WorkerId("be0c" * 6),
        store,
        state_dir=state,
        runtime_dir=root / "run",
        cgroup_parent="/oakestra-bench",
        clock=SystemClock(),
    )
    build_busybox_image(root / "image.tar", IMAGE, command=("/bin/sleep", "1000"))
    await runtime.prepare()
    await runtime.load_image(str(root / "image.tar"))
    try:
        starts, ends = [], []
        for number in range(RUNS):
            starts.append(await timed(partial(up, runtime, number)))
            ends.append(await timed(partial(down, runtime, number)))
        figures.spread("create and start one container", "s", starts)
        figures.spread("stop and delete one container", "s", ends)
        everything = range(MANY)
        together = await timed(lambda: asyncio.gather(*(up(runtime, n) for n in everything)))
        figures.tell(f"create and start {MANY}", "s", together, runs=1)
        observing = [await timed(runtime.observe) for _ in range(RUNS)]
        figures.spread(f"observe {MANY}", "s", observing)
        monitors = [int((state / f"instances/{n}/conmon.pid").read_text()) for n in everything]
        each = statistics.median(memory_mib(pid)[0] for pid in monitors)
        figures.tell("conmon per container, PSS", "MiB", each, runs=MANY, target="0.5")
        together = await timed(lambda: asyncio.gather(*(down(runtime, n) for n in everything)))
        figures.tell(f"stop and delete {MANY}", "s", together, runs=1)
    finally:
        await runtime.purge()
        runtime.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="oak-bench-") as directory:
        figures = Figures()
        asyncio.run(measure(Path(directory), figures))
        figures.table()


if __name__ == "__main__":
    main()
