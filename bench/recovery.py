"""How long until things are well again: processes killed, workers cut off, clusters lost, machines booted alone.

Makes a lab of its own (two clusters of three workers) and takes it away. Needs root and the project's own Python.
Leaves out: real networks, slow disks.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from typing import Any

from figures import Figures
from root_client import Root, sleeper, until

from oakestra.control.supervisor import STEADY_S

INSTANCES = 30
LAB = "bench"
CLUSTERS = {"c1": ("w1", "w2", "w3"), "c2": ("w4", "w5", "w6")}


def oak(*words: str, check: bool = True) -> str:
    done = subprocess.run(
        (sys.executable, "-m", "oakestra", *words), capture_output=True, text=True, check=False, timeout=300
    )
    if check and done.returncode:
        raise SystemExit(f"oak {' '.join(words)}: {done.stdout}{done.stderr}")
    return done.stdout


@contextmanager
def lab() -> Iterator[Root]:
    oak("lab", "up", "--clusters", "2", "--workers", "3", "--name", LAB)
    try:
        address = next(host["address"] for host in hosts() if host["host"] == "root")
        password = Path(f"/var/lib/oakestra/lab-{LAB}/root/root/admin.password").read_text().strip()
        yield Root(address, 10000, password)
    finally:
        oak("lab", "down", "--name", LAB)


def hosts() -> list[dict[str, Any]]:
    return list(json.loads(oak("lab", "status", "--name", LAB, "-o", "json", check=False)))


def ready(root: Root, service: str, count: int, *, besides: str = "", cluster: str = "") -> bool:
    """Tell whether so many instances are ready, none of them on a worker or in a cluster that is lost."""
    found = [one for one in root.instances(service) if one["ready"]]
    return len(found) == count and all(
        one["worker"] != besides and one["cluster"] != cluster for one in found
    )


def worker_lost(root: Root, figures: Figures, service: str, runs: int) -> None:
    times = []
    for run in range(runs):
        name = f"w{1 + run % 6}"
        until(lambda: ready(root, service, INSTANCES), "all ready")
        oak("lab", "cut", "--name", LAB, name)
        times.append(until(lambda name=name: ready(root, service, INSTANCES, besides=name), "elsewhere"))  # type: ignore[misc]
        oak("lab", "heal", "--name", LAB, name)
        until(lambda: not any(host["trouble"] for host in hosts()), "well again")
    figures.spread(f"worker lost, {INSTANCES} instances all ready elsewhere", "s", times, target="6")


def crash(root: Root, figures: Figures, service: str, runs: int) -> None:
    """Kill one container's process; watch it come back from outside, by its process."""
    times = []
    states = list(Path(f"/run/oakestra/lab-{LAB}").glob("w*/worker/runc/*/state.json"))
    for state in states[:runs]:
        pid = int(json.loads(state.read_text())["init_process_pid"])
        os.kill(pid, signal.SIGKILL)
        times.append(until(lambda state=state, pid=pid: _pid(state) not in (0, pid), "back", poll_s=0.001))  # type: ignore[misc]
    until(lambda: ready(root, service, INSTANCES), "all ready")
    figures.spread("crashed container back, first time", "s", times, target="0.3")


def _pid(state: Path) -> int:
    try:
        return int(json.loads(state.read_text())["init_process_pid"])
    except (OSError, ValueError):
        return 0


def killed(root: Root, figures: Figures, service: str, tier: str, host: str, runs: int) -> None:
    """Kill an orchestrator that has run for a while, as the supervisor lets one wait that dies again and again; it serves
    again when root answers whoever comes anew, with all that was known."""
    times = []
    for _ in range(runs):
        until(lambda: _age_s(host, tier) > STEADY_S, f"{tier} steady", poll_s=1.0)
        oak("lab", "kill", "--name", LAB, host, tier)
        begun_s = time.monotonic()
        until(lambda: _well(host), f"{tier} well")
        until(lambda: _serves(root, service), "all ready")
        times.append(time.monotonic() - begun_s)
    figures.tell(
        f"{tier} killed, serving again with all state", "s", statistics.median(times), runs=runs, target="2"
    )


def _serves(root: Root, service: str) -> bool:
    """Tell whether root answers whoever comes anew, and all is as it was."""
    try:
        return ready(Root(root.host, root.port, root.password), service, INSTANCES)
    except (OSError, HTTPException, SystemExit):
        return False


def _well(host: str) -> bool:
    return all(not one["trouble"] for one in hosts() if one["host"] == host)


def booted_alone(root: Root, figures: Figures, service: str, runs: int) -> None:
    """Reboot workers that their cluster cannot hear; time from each agent's start to the last container's."""
    until(lambda: ready(root, service, INSTANCES), "all ready")
    times, counts = [], []
    oak("lab", "cut", "--name", LAB, "c1")
    for run in range(runs):
        name = f"w{1 + run % 3}"
        counts.append(len(started(name)))
        oak("lab", "reboot", "--name", LAB, name)
        until(lambda name=name: len(started(name)) == counts[-1], "all started", poll_s=0.002)  # type: ignore[misc]
        times.append(time.clock_gettime(time.CLOCK_BOOTTIME) - _began_s(name, "worker"))
    oak("lab", "heal", "--name", LAB)
    until(lambda: ready(root, service, INSTANCES), "all ready")
    several = f"{min(counts)} to {max(counts)}"
    figures.spread(f"machine booted without its cluster, {several} instances run", "s", times, target="2")


def started(worker: str) -> list[int]:
    """Return the first processes of a worker's containers, those that are only created left out."""
    states = Path(f"/run/oakestra/lab-{LAB}/{worker}/worker/runc").glob("*/state.json")
    pids = [_pid(state) for state in states if not (state.parent / "exec.fifo").exists()]
    return [pid for pid in pids if pid and Path(f"/proc/{pid}").exists()]


def _age_s(host: str, tier: str) -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME) - _began_s(host, tier)


def _began_s(name: str, tier: str) -> float:
    """Return when a tier's process was started, by the machine's clock since boot (proc(5), field 22 of stat)."""
    (pid,) = [host["processes"][tier] for host in hosts() if host["host"] == name]
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")


def cluster_lost(root: Root, figures: Figures, service: str, grace_s: float) -> None:
    until(lambda: ready(root, service, 6), "all ready")
    held = Counter(str(one["cluster"]) for one in root.instances(service))
    lost, count = held.most_common(1)[0]
    machines = (lost, *CLUSTERS[lost])
    for host in machines:
        oak("lab", "cut", "--name", LAB, host)
    took_s = until(lambda: ready(root, service, 6, cluster=lost), "in the other cluster")
    figures.tell(
        f"cluster lost, its {count} instances ready elsewhere, after the grace",
        "s",
        took_s - grace_s,
        runs=1,
        target="15",
    )
    for host in machines:
        oak("lab", "heal", "--name", LAB, host)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=5)
    args = parser.parse_args()
    figures = Figures()
    with tempfile.TemporaryDirectory() as home:
        os.environ["HOME"] = home  # noqa: TID251 - the lab logs the command line in
        with lab() as root:
            service = root.create(sleeper("many"))["microservices"][0]
            root.deploy(service, INSTANCES)
            until(lambda: ready(root, service, INSTANCES), "all ready")
            crash(root, figures, service, args.runs)
            booted_alone(root, figures, service, args.runs)
            killed(root, figures, service, "cluster", "c1", args.runs)
            killed(root, figures, service, "root", "root", args.runs)
            again = Root(root.host, root.port, root.password)
            worker_lost(again, figures, service, args.runs)
            grace_s = 5.0
            moving = again.create(sleeper("moving", disconnect={"lost_after_s": grace_s}))["microservices"][0]
            again.deploy(moving, 6)
            cluster_lost(again, figures, moving, grace_s)
    figures.table()


if __name__ == "__main__":
    main()
