"""Every store keeps the promises of `Store`."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oakestra.model.errors import Unavailable
from oakestra.store import Delete, Put, Renew, Store, StoreFailed
from oakestra.store.fake import Disk, FakeStore
from oakestra.store.records import Records
from oakestra.store.sqlite import SCHEMAS, SqliteStore

Open = Callable[[], Store]


@pytest.fixture(params=["fake", "sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Open]:
    """Opens the same store again and again, as restarts of a process would."""
    disk = Disk({"users": {}, "slots": {}}, epoch=5)
    opened: list[Store] = []

    def open_store() -> Store:
        store: Store
        if request.param == "fake":
            store = FakeStore(("users", "slots"), disk=disk, flush_s=0.001)
        else:
            store = SqliteStore(tmp_path / "root.db", "root", fresh_epoch=5 + len(opened))
        opened.append(store)
        return store

    yield open_store
    for store in opened:
        store.close()


def test_what_was_committed_is_there_after_a_restart(opener: Open) -> None:
    asyncio.run(opener().commit([Put("users", "a", b"1"), Put("slots", "s", b"2"), Put("users", "b", b"3")]))
    asyncio.run(opener().commit([Delete("users", "b"), Delete("users", "never"), Put("users", "a", b"9")]))

    found = opener().load()
    assert found["users"] == {"a": b"9"}
    assert found["slots"] == {"s": b"2"}


def test_the_epoch_belongs_to_the_disk_not_to_the_process(opener: Open) -> None:
    assert opener().epoch == opener().epoch == 5


def test_a_new_epoch_begins_with_a_commit_and_stays(opener: Open) -> None:
    store = opener()
    asyncio.run(store.commit([Put("users", "a", b"1"), Renew(9)]))
    assert store.epoch == opener().epoch == 9
    assert opener().load()["users"] == {"a": b"1"}


def test_commits_from_many_writers_are_kept_in_order(opener: Open) -> None:
    store = opener()

    async def write() -> None:
        await asyncio.gather(*(store.commit([Put("users", "last", str(n).encode())]) for n in range(200)))

    asyncio.run(write())
    assert opener().load()["users"]["last"] == b"199"


def test_a_full_disk_refuses_and_recovers_without_half_a_commit(tmp_path: Path) -> None:
    disk = Disk({"users": {}}, epoch=1)
    records = Records(FakeStore(("users",), disk=disk))
    users = records.table("users", str)
    records.load()

    async def story() -> None:
        users.put("a", "kept")
        await records.commit()
        disk.full = True
        users.put("b", "lost")
        with pytest.raises(Unavailable, match="nothing was changed"):
            await records.commit()
        assert dict(users) == {"a": "kept"}
        disk.full = False
        users.put("c", "kept too")
        await records.commit()

    asyncio.run(story())
    assert set(disk.tables["users"]) == {"a", "c"}


def test_sqlite_refuses_after_a_failed_commit_until_it_is_read_again(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "root.db", "root", fresh_epoch=1)

    async def story() -> None:
        with pytest.raises(StoreFailed):
            await store.commit([Put("users", "half", b"1"), Put("no_such_table", "x", b"")])
        with pytest.raises(StoreFailed, match="earlier"):
            await store.commit([Put("users", "decided on it", b"1")])
        assert store.load()["users"] == {}
        await store.commit([Put("users", "fine", b"1")])

    asyncio.run(story())
    store.close()


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "root.db"
    SqliteStore(path, "root", fresh_epoch=1).close()
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {len(SCHEMAS['root']) + 1}")
    connection.close()
    with pytest.raises(StoreFailed, match="newer version"):
        SqliteStore(path, "root", fresh_epoch=1)


def test_an_older_schema_is_brought_up_to_date_after_a_copy_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, schema = tmp_path / "cluster.db", SCHEMAS["cluster"]
    monkeypatch.setitem(SCHEMAS, "cluster", schema[:1])
    older = SqliteStore(path, "cluster", fresh_epoch=1)
    asyncio.run(older.commit([Put("slots", "a", b"1")]))
    older.close()
    monkeypatch.setitem(SCHEMAS, "cluster", schema)
    newer = SqliteStore(path, "cluster", fresh_epoch=2)
    assert newer.epoch == 1
    assert newer.load()["slots"] == {"a": b"1"}
    assert newer.load()["origins"] == {}
    newer.close()
    assert path.with_name(f"cluster.db.before-v{len(schema)}").exists()


def test_what_was_decided_before_a_failure_was_noticed_is_not_kept(opener: Open) -> None:
    """Goal: no commit builds on one that failed. Method: one fails while another, decided on it, is queued behind."""
    records = Records(opener())
    users, slots = records.table("users", str), records.table("slots", str)
    records.load()

    async def story() -> None:
        users.put("bad", "x")
        records._pending.append(Put("no_such_table", "x", b""))
        first = asyncio.ensure_future(records.commit())
        await asyncio.sleep(0)
        slots.put("built on it", "x")
        second = asyncio.ensure_future(records.commit())
        outcomes = await asyncio.gather(first, second, return_exceptions=True)
        assert [type(outcome) for outcome in outcomes] == [Unavailable, Unavailable]
        assert not users
        assert not slots
        users.put("fine", "x")
        await records.commit()

    asyncio.run(story())
    found = opener().load()
    assert set(found["users"]) == {"fine"}
    assert not found["slots"]
