"""How long containers take to start and to go, and what each costs above its own process, with runc under conmon.

Needs root, runc, conmon, busybox-static. The image is unpacked already; leaves out the network and everything above
the runtime. Prints one JSON line per figure.
"""

from __future__ import annotations

import asyncio
import json
import platform
import re
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

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


def tell(figure: str, unit: str, value: float, runs: int) -> None:
    print(
        json.dumps(
            {
                "figure": figure,
                "unit": unit,
                "value": round(value, 3),
                "runs": runs,
                "machine": platform.platform(),
            }
        )
    )


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


def proportional_kib(pid: int) -> int:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(int(number) for number in re.findall(r"^Pss:\s+(\d+)", rollup, re.MULTILINE))


async def measure(root: Path) -> None:
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
        tell("create and start one container", "s", statistics.median(starts), RUNS)
        tell("stop and delete one container", "s", statistics.median(ends), RUNS)
        everything = range(MANY)
        tell(
            f"create and start {MANY}",
            "s",
            await timed(lambda: asyncio.gather(*(up(runtime, n) for n in everything))),
            1,
        )
        observing = [await timed(runtime.observe) for _ in range(RUNS)]
        tell(f"observe {MANY}", "s", statistics.median(observing), RUNS)
        monitors = [int((state / f"instances/{n}/conmon.pid").read_text()) for n in everything]
        tell("conmon per container, PSS", "KiB", statistics.median(map(proportional_kib, monitors)), MANY)
        tell(
            f"stop and delete {MANY}",
            "s",
            await timed(lambda: asyncio.gather(*(down(runtime, n) for n in everything))),
            1,
        )
    finally:
        await runtime.purge()
        runtime.close()


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="oak-bench-") as directory:
        asyncio.run(measure(Path(directory)))


if __name__ == "__main__":
    main()
