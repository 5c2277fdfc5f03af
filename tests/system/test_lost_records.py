"""A disk is lost, or an older copy of it put back: what runs goes on, and whoever forgot it finds it again."""

from __future__ import annotations

import shutil
import sqlite3
from pathlib import Path

import pytest

from lab_fixture import Fleet, client, server, until

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]


def database(fleet: Fleet, host: str, tier: str) -> Path:
    """Return the file that a tier of the lab keeps its records in."""
    return Path(f"/var/lib/oakestra/lab-{fleet.name}/{host}/{tier}/{tier}.db")


def without_log(path: Path) -> None:
    """Remove what belongs to a database that is gone."""
    for suffix in ("-wal", "-shm"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def places(fleet: Fleet, name: str) -> list[tuple[object, ...]]:
    """Return where every instance is, and whether it was started anew."""
    return sorted(
        (one["service"], one["number"], one["worker"], one["address"], one["restart"], one["ready"])
        for one in fleet.instances(name)
    )


def test_root_without_its_records_takes_over_what_clusters_hold(fleet: Fleet) -> None:
    address = "10.30.92.1"
    with fleet.application("kept", server(address), client(address), counts={"server": 4, "client": 1}):
        fleet.until_greeted("kept")
        before, services = places(fleet, "kept"), fleet.services("kept")
        file = database(fleet, "root", "root")
        file.unlink()
        without_log(file)
        fleet.lab("kill", "root")
        until(lambda: fleet.ask(lambda: places(fleet, "kept")) == before)
        fleet.until_greeted("kept")
        assert {one["id"] for one in fleet.services("kept")} == {one["id"] for one in services}
        (wanted,) = [one for one in services if one["name"].startswith("kept.t.server")]
        fleet.ask(lambda: fleet.root.post(f"/api/v1/services/{wanted['id']}/scale", {"instances": 5}))
        found = fleet.until_ready("kept", 6)
        assert max(one["number"] for one in found) == 4


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
        shutil.copyfile(copy, file)
        without_log(file)
        fleet.lab("kill", host)
        until(lambda: fleet.ask(lambda: places(fleet, name)) == before, 60)
        fleet.until_greeted(name)
