"""A disk is lost, or an older copy of it put back: what runs goes on, and whoever forgot it finds it again."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from lab_fixture import Document, Fleet, client, direct, server, short, sleeper, until
from load import requests
from oakestra.cli.client.session import log_in
from oakestra.model.errors import OakestraError

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]


def database(fleet: Fleet, host: str, tier: str) -> Path:
    """Return the file that a tier of the lab keeps its records in."""
    return Path(f"/var/lib/oakestra/lab-{fleet.name}/{host}/{tier}/{tier}.db")


def without_log(path: Path) -> None:
    """Remove what belongs to a database that is gone."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def lose_roots_records(fleet: Fleet) -> Path:
    """Kill root without its records; return where it keeps new ones."""
    file = database(fleet, "root", "root")
    file.unlink()
    without_log(file)
    fleet.lab("kill", "root")
    return file


def has_heard_of_all(file: Path) -> bool:
    """Tell whether root has stopped waiting for clusters to tell its new records what they hold."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        (rebuilt,) = connection.execute("SELECT count(*) FROM settings WHERE key = 'rebuilt'").fetchone()
    return bool(rebuilt)


def identity(service: Document) -> tuple[object, ...]:
    """Return what a service is known by."""
    return service["id"], service["name"], service["spec"]["addresses"]


def places(fleet: Fleet, name: str) -> list[tuple[object, ...]]:
    """Return where every instance is, and whether it was started anew."""
    return sorted(
        (one["service"], one["number"], one["worker"], one["address"], one["restart"], one["ready"])
        for one in fleet.instances(name)
    )


def test_root_without_its_records_takes_over_what_clusters_hold(fleet: Fleet) -> None:
    address = "10.30.92.1"
    sla = (sleeper("zero"), server(address), sleeper("none"), client(address))
    with fleet.application("kept", *sla, counts={"server": 4, "client": 1}):
        fleet.until_greeted("kept")
        before, services = places(fleet, "kept"), fleet.services("kept")
        lose_roots_records(fleet)
        until(lambda: fleet.ask(lambda: places(fleet, "kept")) == before)
        fleet.until_greeted("kept")
        found = fleet.services("kept")
        assert [short(one) for one in found] == ["zero", "server", "none", "client"]
        assert [identity(one) for one in found] == [identity(one) for one in services]
        (wanted,) = [one for one in services if one["name"].startswith("kept.t.server")]
        fleet.ask(lambda: fleet.root.post(f"/api/v1/services/{wanted['id']}/scale", {"instances": 5}))
        ready = fleet.until_ready("kept", 6)
        assert max(one["number"] for one in ready) == 4


def test_no_request_fails_while_root_loses_its_records(fleet: Fleet) -> None:
    address = "10.30.92.5"
    sla = (
        server(address, constraints=direct("c1")),
        client(address, constraints=direct("c2", "w4")),
    )
    with fleet.application("far", *sla, counts={"server": 3, "client": 1}):
        fleet.until_greeted("far")
        before = places(fleet, "far")
        fleet.oak.run("cluster", "cordon", "c2")
        with requests(fleet, "w4", f"http://{address}/") as seen:
            file = lose_roots_records(fleet)
            until(lambda: fleet.ask(lambda: places(fleet, "far")) == before)
            until(lambda: has_heard_of_all(file))
            fleet.until_greeted("far")
        fleet.oak.run("login", fleet.root.url, "--password", fleet.root_password)
        clusters = fleet.oak.json("cluster", "ls")
        assert {one["name"]: one["availability"] for one in clusters} == {"c1": "active", "c2": "cordoned"}
        fleet.oak.run("cluster", "uncordon", "c2")
    assert seen.asked > 100
    assert not seen.failed


@pytest.mark.parametrize(("host", "tier"), [("root", "root"), ("c1", "cluster")])
def test_an_older_copy_learns_what_came_after_it(fleet: Fleet, tmp_path: Path, host: str, tier: str) -> None:
    address, name = ("10.30.92.2", "before") if host == "root" else ("10.30.92.3", "earlier")
    with fleet.application(name, server(address), client(address), counts={"server": 2, "client": 1}):
        file, copy = database(fleet, host, tier), tmp_path / "copy.db"
        with sqlite3.connect(file) as connection:
            connection.execute("VACUUM INTO ?", (str(copy),))
        (wanted,) = [one for one in fleet.services(name) if ".server." in one["name"]]
        fleet.root.post(f"/api/v1/services/{wanted['id']}/scale", {"instances": 5})
        fleet.until_ready(name, 6)
        fleet.until_greeted(name)
        before = places(fleet, name)
        beside = file.with_name("copy.db")
        shutil.copyfile(copy, beside)
        beside.rename(file)  # who still has the other one open writes to that
        without_log(file)
        fleet.lab("kill", host)
        until(lambda: fleet.ask(lambda: places(fleet, name)) == before)
        fleet.until_greeted(name)


def test_a_backup_brings_back_what_no_cluster_knows(fleet: Fleet, tmp_path: Path) -> None:
    """Goal: a root that lost its disk has its users again. Method: backup, loss, and restore while all runs on."""
    address, copy, place = "10.30.92.4", str(tmp_path / "copy.db"), f"--installation=lab-{fleet.name}/root"
    wanted = {"name": "ann", "password": "ann's secret", "roles": ["Application_Provider"]}
    fleet.root.post("/api/auth/register", wanted)
    with fleet.application("saved", server(address), client(address), counts={"server": 2, "client": 1}):
        fleet.until_greeted("saved")
        before = places(fleet, "saved")
        fleet.oak.run("root", "backup", copy, place)
        assert fleet.oak.run("root", "backup", copy, place, check=False).returncode == 1
        file = database(fleet, "root", "root")
        file.unlink()
        without_log(file)
        fleet.lab("kill", "root")
        until(lambda: fleet.ask(lambda: places(fleet, "saved")) == before)
        with pytest.raises(OakestraError, match="wrong user name"):
            log_in(fleet.oak.variables["OAKESTRA_ROOT"], "ann", "ann's secret")
        assert (
            "have it start now, as it was started before"
            in fleet.oak.run("root", "restore", copy, place).stdout
        )
        fleet.lab("kill", "root")
        fleet.ask(lambda: log_in(fleet.oak.variables["OAKESTRA_ROOT"], "ann", "ann's secret"))
        until(lambda: fleet.ask(lambda: places(fleet, "saved")) == before)
        fleet.until_greeted("saved")
    fleet.ask(lambda: fleet.root.delete("/api/user/ann"))
