"""From POST to RUNNING at root, and back, for 1, 10 and 50 instances; memory and CPU of each tier.

Needs an installation on this machine (`sudo ./getstarted.sh`), with the example's image loaded. Leaves out: pulling,
TLS, links between machines. Run as root with the project's own Python, byte-compiled.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from figures import Figures, memory_mib
from root_client import Root, sleeper, until

from oakestra.control import supervisor
from oakestra.control.installation import Installation
from oakestra.transport.broker import recorded_broker

IDLE_S = 20.0


def deploy(root: Root, service: str, count: int) -> tuple[float, float]:
    """Return how long `count` instances took to run, and to be gone."""

    def running() -> bool:
        return sum(instance["phase"] == "RUNNING" for instance in root.instances(service)) == count

    begun_s = time.monotonic()
    root.deploy(service, count)
    until(running, f"{count} instances running")
    running_s = time.monotonic() - begun_s
    begun_s = time.monotonic()
    root.call("DELETE", f"/api/service/{service}/instance/-1")
    until(lambda: not root.instances(service), f"{count} instances gone")
    return running_s, time.monotonic() - begun_s


def tiers(home: Installation) -> dict[str, int]:
    """Return the processes of an installation by name."""
    pids = {name: seen.pid for name, seen in supervisor.read_running(home.runtime).items()}
    broker = recorded_broker(home.runtime / "cluster" / "broker")
    keeper = supervisor.supervisor_of(home.runtime)
    if broker is not None:
        pids["broker"] = broker.pid
    if keeper is not None:
        pids["supervisor"] = keeper.pid
    return pids


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def footprint(figures: Figures, home: Installation) -> None:
    pids = tiers(home)
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    time.sleep(IDLE_S)
    for name, pid in sorted(pids.items()):
        pss, rss = memory_mib(pid)
        figures.tell(f"{name}, PSS", "MiB", pss, runs=1)
        figures.tell(f"{name}, RSS", "MiB", rss, runs=1)
    orchestrators = sum(memory_mib(pids[name])[0] for name in ("root", "cluster", "broker") if name in pids)
    figures.tell("root + cluster + broker idle, PSS", "MiB", orchestrators, runs=1, target="80")
    busy = sum(cpu_s(pid) - before[name] for name, pid in pids.items())
    figures.tell("idle CPU of all tiers, of one core", "%", 100 * busy / IDLE_S, runs=1, target="0.5")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--installation", default="default")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--password", help="of Admin; read from the installation unless given")
    args = parser.parse_args()
    home = Installation(args.installation)
    password = args.password or (home.state / "root" / "admin.password").read_text().strip()
    figures = Figures()
    footprint(figures, home)
    root = Root("127.0.0.1", 10000, password)
    created = root.create(sleeper(f"b{int(time.monotonic() * 1000) % 10**9}"))
    service = created["microservices"][0]
    try:
        for count, target, runs in ((1, "0.20", args.runs), (10, "0.8", 3), (50, "3", 3)):
            times = [deploy(root, service, count) for _ in range(runs)]
            figures.spread(f"{count} instances: POST to RUNNING", "s", [up for up, _ in times], target=target)
            gone = {1: "0.3", 50: "2"}.get(count, "")
            figures.spread(
                f"{count} instances: DELETE to gone", "s", [down for _, down in times], target=gone
            )
    finally:
        root.call("DELETE", f"/api/application/{created['applicationID']}")
    figures.table()


if __name__ == "__main__":
    main()
