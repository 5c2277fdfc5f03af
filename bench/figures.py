"""Figures as JSON lines while they come, and as a table at the end."""

from __future__ import annotations

import json
import platform
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Figures:
    """Collects what a script measured; `target` is that of the design's targets, if there is one."""

    rows: list[tuple[str, str, str, str]] = field(default_factory=list)

    def tell(self, figure: str, unit: str, value: float, *, runs: int, target: str = "") -> None:
        line = {"figure": figure, "unit": unit, "value": round(value, 4), "runs": runs}
        print(json.dumps({**line, "machine": platform.platform()}), flush=True)
        self.rows.append((figure, f"{value:.3f} {unit}", target, str(runs)))

    def spread(self, figure: str, unit: str, values: Sequence[float], *, target: str = "") -> None:
        """Tell median and 99th percentile."""
        ordered = sorted(values)
        self.tell(f"{figure}, p50", unit, statistics.median(ordered), runs=len(ordered), target=target)
        late = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
        self.tell(f"{figure}, p99", unit, late, runs=len(ordered))

    def table(self) -> None:
        print()
        width = max((len(row[0]) for row in self.rows), default=10)
        for figure, value, target, runs in [("figure", "value", "target", "runs"), *self.rows]:
            print(f"{figure:<{width}}  {value:>14}  {target:>12}  {runs:>5}")


def memory_mib(pid: int) -> tuple[float, float]:
    """Return proportional and resident memory of a process."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    kib = {name: int(value) for name, value in re.findall(r"^(Pss|Rss):\s+(\d+)", rollup, re.MULTILINE)}
    return kib["Pss"] / 1024, kib["Rss"] / 1024
