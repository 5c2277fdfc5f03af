"""Placements per second of the real scheduler on one core, for growing numbers of workers.

Leaves out: transactions, rendering, sending.
"""

from __future__ import annotations

import statistics
import time

from figures import Figures

from oakestra.model.machine import Capacity
from oakestra.model.service import Resources
from oakestra.scheduling.placement import choose_worker
from oakestra.scheduling.request import Request, WorkerCandidate

RUNS = 5
REQUEST = Request(resources=Resources(memory_mib=64, vcpus=1))


def candidates(count: int) -> list[WorkerCandidate]:
    total = Resources(memory_mib=4096, vcpus=32)
    capacity = Capacity(resources=total, architecture="amd64", virtualizations=("docker",))
    return [
        WorkerCandidate(
            id=f"{n:024x}",
            name=f"w{n}",
            capacity=capacity,
            free=Resources(memory_mib=4096 - n % 4000, vcpus=32 - n % 30),
            total=total,
        )
        for n in range(count)
    ]


def main() -> None:
    figures = Figures()
    for count in (45, 1_000, 10_000):
        crowd = candidates(count)
        rounds = 200 if count <= 1_000 else 50
        rates = []
        for run in range(RUNS):
            begun_s = time.perf_counter()
            for n in range(rounds):
                choose_worker(REQUEST, crowd, start=n * 7919 + run)
            rates.append(rounds / (time.perf_counter() - begun_s))
        figures.tell(f"placements, {count} workers", "1/s", statistics.median(rates), runs=RUNS)
    figures.table()


if __name__ == "__main__":
    main()
