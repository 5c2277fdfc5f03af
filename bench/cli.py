"""How long `oak` takes for a listing of a local root, beside the Python that it starts.

Needs a root that `oak` of who runs this can ask: an installation on this machine, or `oak login`. Leaves out: the first
command after a login, large fleets, terminals. CPU time is told as well, since other programs make the wall clock late.
"""

from __future__ import annotations

import argparse
import resource
import subprocess
import sys
import time
from pathlib import Path

from figures import Figures

OAK = Path(sys.executable).parent / "oak"
TARGET = "≤ 80 ms"
PROBES = (
    ("python alone", (sys.executable, "-c", "pass"), ""),
    (
        "python with argparse, json, http.client",
        (sys.executable, "-c", "import argparse, json, http.client"),
        "",
    ),
    ("oak --version", (str(OAK), "--version"), ""),
    ("oak service ls", (str(OAK), "service", "ls"), TARGET),
    ("oak instance ls -o json", (str(OAK), "instance", "ls", "-o", "json"), TARGET),
    ("oak app ls", (str(OAK), "app", "ls"), TARGET),
    ("oak worker ls", (str(OAK), "worker", "ls"), TARGET),
)


def main() -> None:
    """Measure every command in turn, again and again, so that all see the same noise."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--runs", type=int, default=30)
    runs = arguments.parse_args().runs
    wall: dict[str, list[float]] = {name: [] for name, _, _ in PROBES}
    cpu: dict[str, list[float]] = {name: [] for name, _, _ in PROBES}
    for _ in range(runs):
        for name, words, _ in PROBES:
            before, began_s = _children_s(), time.perf_counter()
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            wall[name].append((time.perf_counter() - began_s) * 1e3)
            cpu[name].append((_children_s() - before) * 1e3)
    figures = Figures()
    for name, _, target in PROBES:
        figures.spread(name, "ms", wall[name], target=target)
        figures.spread(f"{name}, CPU", "ms", cpu[name])
    figures.table()


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()
