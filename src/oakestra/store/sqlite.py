"""Records in one SQLite file: WAL, every commit flushed, one writer thread that groups waiting commits.

A schema is a numbered list of SQL files; a file's `PRAGMA user_version` tells which were run. Migrations go forward
only, after a copy of the file was made; a file from a newer version is refused.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from oakestra.control.failpoints import Point, reach
from oakestra.store import Change, Put, Renew, StoreFailed
from oakestra.store.copies import take_offered

SCHEMAS: Mapping[str, tuple[str, ...]] = {
    "root": ("root.sql", "root_buried.sql"),
    "cluster": ("cluster.sql", "cluster_origins.sql"),
}
"""The files of each schema, oldest first. Append, never change, once released."""

COMMITS_GROUPED_MAX = 512
CHECKPOINT_PAGES = 2000
"""WAL pages before they are folded into the file: 8 MB, so that an idle orchestrator writes little."""


@dataclass(slots=True)
class _Commit:
    changes: Sequence[Change]
    loads: int
    """How often the store had been read when this was decided."""
    done: asyncio.Future[None]
    loop: asyncio.AbstractEventLoop


class SqliteStore:
    """Implements `Store` in the file at `path`, which is made if missing.

    A copy that was offered for this file is taken first. `fresh_epoch` is the epoch of a store made or put back now: it must be greater than any an earlier store at this place
    had (wall-clock seconds will do). Raises `StoreFailed` if the file is damaged or of a newer version.
    """

    def __init__(self, path: Path, schema: str, *, fresh_epoch: int) -> None:
        self._path = path
        self._loads = 0
        self._failed_at = -1
        """A commit decided when the store had been read no more often than this is refused."""
        self._queue: queue.SimpleQueue[_Commit | None] = queue.SimpleQueue()
        try:
            is_copy = take_offered(path)
            connection = _open(path)
            _migrate(connection, path, schema)
            self._epoch = _epoch(connection, fresh_epoch, renew=is_copy)
        except sqlite3.Error as error:
            raise StoreFailed(f"{path} cannot be opened: {error}") from error
        self._tables = _tables(connection)
        connection.close()
        self._writer = threading.Thread(target=self._write_forever, name="store-writer", daemon=True)
        self._writer.start()

    @property
    def epoch(self) -> int:
        return self._epoch

    def load(self) -> Mapping[str, Mapping[str, bytes]]:
        try:
            with contextlib.closing(_open(self._path)) as connection:
                found = {
                    table: {
                        str(key): bytes(body)
                        for key, body in connection.execute(f"SELECT key, body FROM {table} ORDER BY key")  # noqa: S608 - names come from our own schema
                    }
                    for table in self._tables
                }
        except sqlite3.Error as error:
            raise StoreFailed(f"{self._path} cannot be read: {error}") from error
        self._loads += 1
        return found

    async def commit(self, changes: Sequence[Change]) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._queue.put(_Commit(changes, self._loads, done, loop))
        await asyncio.shield(done)
        self._epoch = max((self._epoch, *(change.epoch for change in changes if isinstance(change, Renew))))

    def close(self) -> None:
        self._queue.put(None)
        self._writer.join()

    def _write_forever(self) -> None:
        connection = _open(self._path)
        while (first := self._queue.get()) is not None:
            group, ending = self._gather(first)
            refused = [commit for commit in group if commit.loads <= self._failed_at]
            _tell(refused, StoreFailed("an earlier change could not be saved"))
            written = [commit for commit in group if commit not in refused]
            _tell(written, self._write(connection, written) if written else None)
            if ending:
                break
        connection.close()

    def _gather(self, first: _Commit) -> tuple[list[_Commit], bool]:
        group = [first]
        while len(group) < COMMITS_GROUPED_MAX:
            try:
                following = self._queue.get_nowait()
            except queue.Empty:
                break
            if following is None:
                return group, True
            group.append(following)
        return group, False

    def _write(self, connection: sqlite3.Connection, group: Sequence[_Commit]) -> StoreFailed | None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for commit in group:
                _apply(connection, commit.changes)
            reach(Point.STORE_COMMITTING)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._failed_at = max(commit.loads for commit in group)
            with contextlib.suppress(sqlite3.Error):
                connection.execute("ROLLBACK")
            return StoreFailed(f"{self._path} cannot be written: {error}")
        return None


def _tell(group: Sequence[_Commit], failure: StoreFailed | None) -> None:
    for commit in group:
        with contextlib.suppress(RuntimeError):  # its loop was closed: nobody waits any more
            commit.loop.call_soon_threadsafe(_settle, commit.done, failure)


def _settle(done: asyncio.Future[None], failure: StoreFailed | None) -> None:
    if done.done():
        return
    if failure is None:
        done.set_result(None)
    else:
        done.set_exception(failure)


def _open(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA wal_autocheckpoint = {CHECKPOINT_PAGES}")
    connection.execute("PRAGMA busy_timeout = 5000")
    path.chmod(0o600)
    return connection


def _migrate(connection: sqlite3.Connection, path: Path, schema: str) -> None:
    files = SCHEMAS[schema]
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(files):
        raise StoreFailed(
            f"{path} was written by a newer version (schema {version}, this program knows {len(files)}); "
            "install that version again, or start with an empty directory"
        )
    if 0 < version < len(files):
        connection.execute("VACUUM INTO ?", (f"{path}.before-v{len(files)}",))
    for number, name in enumerate(files[version:], start=version + 1):
        script = (resources.files("oakestra.store") / "schema" / name).read_text()
        connection.executescript(f"BEGIN;\n{script}\nPRAGMA user_version = {number};\nCOMMIT;")


def _epoch(connection: sqlite3.Connection, fresh: int, *, renew: bool) -> int:
    """Return the store's epoch, a new one if others may know more of the present one than a copy does."""
    connection.execute("CREATE TABLE IF NOT EXISTS epoch (number INTEGER NOT NULL) STRICT")
    row = connection.execute("SELECT number FROM epoch").fetchone()
    if row is None:
        connection.execute("INSERT INTO epoch VALUES (?)", (fresh,))
        return fresh
    if renew:
        connection.execute("UPDATE epoch SET number = max(number + 1, ?)", (fresh,))
        row = connection.execute("SELECT number FROM epoch").fetchone()
    return int(row[0])


def _tables(connection: sqlite3.Connection) -> tuple[str, ...]:
    rows = connection.execute(
        "SELECT name FROM sqlite_schema WHERE type = 'table' AND name != 'epoch' ORDER BY name"
    )
    return tuple(str(name) for (name,) in rows)


def _apply(connection: sqlite3.Connection, changes: Sequence[Change]) -> None:
    for change in changes:
        if isinstance(change, Put):
            connection.execute(
                f"INSERT INTO {change.table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET body = excluded.body",  # noqa: S608 - names come from our own schema
                (change.key, change.body),
            )
        elif isinstance(change, Renew):
            connection.execute("UPDATE epoch SET number = ?", (change.epoch,))
        else:
            connection.execute(f"DELETE FROM {change.table} WHERE key = ?", (change.key,))  # noqa: S608 - the same
