"""Copies of a store: whole, of one moment, and put back without anybody writing to what is replaced."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest

from oakestra.model.errors import Conflict, Invalid, NotFound, Unavailable
from oakestra.store import Change, Delete, Put
from oakestra.store.copies import back_up, offer
from oakestra.store.sqlite import SCHEMAS, SqliteStore

TABLES = frozenset({"users", "slots"})
VERSION = len(SCHEMAS["root"])


class Machine:
    """A root's disk."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "root.db"
        self.copy = directory / "copy.db"
        self.epoch = 5

    def open(self) -> SqliteStore:
        self.epoch += 1
        return SqliteStore(self.path, "root", fresh_epoch=self.epoch)

    def commit(self, *changes: Change) -> None:
        store = self.open()
        asyncio.run(store.commit(changes))
        store.close()

    def users(self) -> dict[str, bytes]:
        store = self.open()
        found = dict(store.load()["users"])
        store.close()
        return found


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_a_copy_has_all_that_was_durable_when_it_was_made(machine: Machine) -> None:
    store = machine.open()
    asyncio.run(store.commit([Put("users", "ann", b"1")]))
    back_up(machine.path, machine.copy)
    asyncio.run(store.commit([Put("users", "bob", b"2"), Delete("users", "ann")]))
    epoch = store.epoch
    store.close()
    assert machine.copy.stat().st_mode & 0o077 == 0, "passwords' hashes are in it"
    offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1"}
    assert machine.open().epoch > epoch, "others may know more of the epoch than the copy does"


def test_the_store_of_a_root_that_does_not_run_can_be_copied(machine: Machine) -> None:
    machine.commit(Put("users", "ann", b"1"))
    back_up(machine.path, machine.copy)
    machine.path.unlink()
    offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1"}


def test_a_copy_of_an_earlier_version_gets_the_tables_that_came_since(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as earlier:
        earlier.setitem(SCHEMAS, "root", SCHEMAS["root"][:1])
        machine.commit(Put("users", "ann", b"1"))
    back_up(machine.path, machine.copy)
    machine.path.unlink()
    offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1"}
    machine.commit(Put("buried", "shop", b"2"))


def test_what_was_replaced_is_kept(machine: Machine) -> None:
    machine.commit(Put("users", "ann", b"1"))
    back_up(machine.path, machine.copy)
    killed = machine.open()  # its log is not folded into the file
    asyncio.run(killed.commit([Put("users", "bob", b"2")]))
    offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1"}
    offer(machine.path.with_name("root.db.replaced"), machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1", "bob": b"2"}
    assert not list(machine.path.parent.glob(".*")), "no draft is left"


def test_a_process_killed_while_it_takes_a_copy_takes_it_the_next_time(machine: Machine) -> None:
    machine.commit(Put("users", "ann", b"1"))
    back_up(machine.path, machine.copy)
    machine.commit(Put("users", "bob", b"2"))
    offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    machine.path.rename(machine.path.with_name("root.db.replaced"))
    machine.path.with_name("root.db-wal").write_bytes(b"of the store that is gone")
    assert machine.users() == {"ann": b"1"}


def test_nothing_is_overwritten_and_what_is_missing_is_named(machine: Machine, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no records at"):
        back_up(machine.path, machine.copy)
    machine.commit()
    back_up(machine.path, machine.copy)
    with pytest.raises(Conflict, match=r"copy\.db exists"):
        back_up(machine.path, machine.copy)
    with pytest.raises(Unavailable, match="cannot be copied"):
        back_up(machine.path, tmp_path / "nowhere" / "copy.db")
    with pytest.raises(NotFound, match="no file"):
        offer(tmp_path / "other.db", machine.path, tables=TABLES, version_max=VERSION)


def test_what_is_no_copy_is_refused_and_the_records_stay(machine: Machine, tmp_path: Path) -> None:
    machine.commit(Put("users", "ann", b"1"))
    strange = tmp_path / "strange.db"
    strange.write_bytes(b"not a database, but long enough to be looked at" * 40)
    with pytest.raises(Invalid, match="cannot be read as a copy"):
        offer(strange, machine.path, tables=TABLES, version_max=VERSION)
    SqliteStore(tmp_path / "cluster.db", "cluster", fresh_epoch=1).close()
    with pytest.raises(Invalid, match="it has no users"):
        offer(tmp_path / "cluster.db", machine.path, tables=TABLES, version_max=VERSION)
    back_up(machine.path, machine.copy)
    with sqlite3.connect(machine.copy) as later:
        later.execute(f"PRAGMA user_version = {VERSION + 1}")
    later.close()
    with pytest.raises(Invalid, match="newer version"):
        offer(machine.copy, machine.path, tables=TABLES, version_max=VERSION)
    assert machine.users() == {"ann": b"1"}
