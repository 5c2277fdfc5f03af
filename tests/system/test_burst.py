"""Far more is asked for at once than fits: nothing is promised twice, nothing is lost, and whoever waits knows why."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from lab_fixture import Document, Fleet, sleeper, until
from lab_seen import desired, rows
from lab_truth import until_true
from oakestra.lab import plan, record
from oakestra.lab.plan import Host

pytestmark = [pytest.mark.root, pytest.mark.timeout(900)]

ASKED = 500
EACH = 6
"""So many of what is asked for fit on a worker."""
AT_ONCE = 8


def test_a_burst_of_requests_is_neither_lost_nor_overcommitted(fleet: Fleet) -> None:
    workers = fleet.live()
    memory_mib = min(worker["total"]["memory_mib"] for worker in workers) // EACH
    room = EACH * len(workers)
    services = (sleeper("early", memory=memory_mib), sleeper("many", memory=memory_mib))
    with watched(fleet) as exceeded, fleet.application("burst", *services, counts={"early": 12, "many": 0}):
        post(fleet, ASKED)
        assert [one["number"] for one in many(fleet)] == list(range(ASKED)), "nothing acknowledged is lost"
        running = until(lambda: exceeded or full(fleet, room))
        assert not exceeded
        assert len(many(fleet)) == ASKED
        until(lambda: not unexplained(fleet))
        assert len(waiting(fleet)) == ASKED - (room - 12)
        fleet.scale("burst.early", 0)
        later = until(lambda: full(fleet, room, early=0))
        assert set(running) < later, "those that ran go on"
        assert len(many(fleet)) == ASKED
        fleet.scale("burst.many", 3)
        until_true(fleet)
    until_true(fleet)
    assert not exceeded


def post(fleet: Fleet, count: int) -> None:
    """Ask so often for one more instance, over the original's route."""
    (service,) = [each["id"] for each in fleet.services("burst") if ".many." in each["name"]]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(lambda _: fleet.root.post(f"/api/service/{service}/instance", {}), range(count)):
            pass


def many(fleet: Fleet) -> list[Document]:
    return [one for one in fleet.instances("burst") if one["service"] == "many"]


def full(fleet: Fleet, room: int, *, early: int = 12) -> set[int]:
    """Return the numbers of those that are ready once as many are as fit, beside the early ones."""
    ready = [one for one in fleet.instances("burst") if one["ready"]]
    numbers = {one["number"] for one in ready if one["service"] == "many"}
    return numbers if len(ready) == room and len(numbers) == room - early else set()


def waiting(fleet: Fleet) -> list[Document]:
    return [one for one in many(fleet) if not one["worker"]]


def unexplained(fleet: Fleet) -> list[Document]:
    """Return those that wait and are not told why."""
    return [one for one in waiting(fleet) if "not enough memory" not in one["placement_reason"]]


# --- what is promised ----------------------------------------------------------------------------------------------


@contextmanager
def watched(fleet: Fleet) -> Iterator[list[str]]:
    """Look again and again whether somebody promised more memory than there is; the list names whoever did."""
    exceeded: list[str] = []
    over = threading.Event()
    lab = record.read(fleet.name)
    assert lab is not None
    hosts = plan.hosts(lab)

    def look() -> int:
        looks = 0
        while not over.is_set():
            exceeded.extend(overcommitted(hosts))
            looks += 1
        return looks

    with ThreadPoolExecutor(1) as pool:
        watching = pool.submit(look)
        try:
            yield exceeded
        finally:
            over.set()
        assert watching.result() > 5, "it looked again and again"


def overcommitted(hosts: Sequence[Host]) -> Iterator[str]:
    """Yield whoever has promised more memory than there is: root of a cluster's, a cluster of a worker's."""
    clusters = {host.name: rows(host) for host in hosts if host.tier == "cluster"}
    has: dict[str, int] = {}
    for name, kept in clusters.items():
        offered = {row["id"]: row["capacity"]["resources"]["memory_mib"] for row in kept["workers"]}
        has[name] = sum(offered.values())
        yield from _over(f"cluster {name}", _held_in_cluster(kept), offered)
    (root,) = [rows(host) for host in hosts if host.tier == "root"]
    names = {row["id"]: row["name"] for row in root["clusters"]}
    yield from _over("root", _held_at_root(root, names), has)
    for host in hosts:
        if host.tier == "worker":
            own = desired(host)
            needed = sum(row["spec"]["resources"]["memory_mib"] for row in own["instances"])
            offers = {
                row["id"]: row["capacity"]["resources"]["memory_mib"]
                for kept in clusters.values()
                for row in kept["workers"]
            }
            yield from _over("worker", Counter({own["worker"]: needed}), offers)


def _over(who: str, held: Counter[str], there: dict[str, int]) -> Iterator[str]:
    for name, mib in held.items():
        if mib > there[name]:
            yield f"{who} promised {mib} MiB of {name}, which has {there[name]}"


def _held_in_cluster(kept: dict[str, tuple[Document, ...]]) -> Counter[str]:
    needs = {row["id"]: row["resources"]["memory_mib"] for row in kept["services"]}
    held: Counter[str] = Counter()
    for row in kept["slots"]:
        for at in (row["worker"], (row["leaving"] or {}).get("worker")):
            if at:
                held[at] += needs[row["placed"][0]]
    for row in kept["withdrawals"]:
        held[row["worker"]] += needs[row["key"][0]]
    return held


def _held_at_root(root: dict[str, tuple[Document, ...]], names: dict[str, str]) -> Counter[str]:
    needs = {row["spec"]["id"]: row["spec"]["resources"]["memory_mib"] for row in root["services"]}
    held: Counter[str] = Counter()
    for row in root["slots"]:
        if row["cluster"]:
            held[names[row["cluster"]]] += needs[row["slot"][0]]
    for row in root["withdrawals"]:
        held[names[row["cluster"]]] += needs[row["placed"][0]]
    return held
