"""Copies of a store's file: made while its owner runs, put back when its owner starts next.

A copy that is to be put back waits beside the file and is taken when the file is opened, so it does not matter who
keeps the owner running, and nothing writes to a file that is being replaced.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from oakestra.model.errors import Conflict, Invalid, NotFound, Unavailable

_LOGS = ("-wal", "-shm")


def back_up(store: Path, copy: Path) -> None:
    """Write all that is durable in a store to a new file, as of one moment.

    Raises `NotFound` without a store, `Conflict` if the new file is there already, `Unavailable` if it cannot be made.
    """
    if not store.exists():
        raise NotFound(f"there are no records at {store}")
    if copy.exists():
        raise Conflict(f"{copy} exists; name a file that does not, or remove it")
    with _beside(copy) as draft:
        try:
            with contextlib.closing(sqlite3.connect(f"file:{store}?mode=ro", uri=True)) as connection:
                connection.execute("VACUUM INTO ?", (str(draft),))
        except sqlite3.Error as error:
            raise Unavailable(f"{store} cannot be copied to {copy}: {error}") from error


def offer(copy: Path, store: Path, *, tables: frozenset[str], version_max: int) -> None:
    """Have a copy put in the place of a store when that is opened next. Offering another one replaces it.

    Raises `NotFound` without a copy, `Invalid` if it is damaged, has not these tables, or is of a later schema.
    """
    if not copy.is_file():
        raise NotFound(f"there is no file {copy}")
    found, version = _look(copy)
    if missing := tables - found:
        raise Invalid(f"{copy} is no copy of {store.name}: it has no {', '.join(sorted(missing))}")
    if version > version_max:
        raise Invalid(f"{copy} was made by a newer version (schema {version}); install that version again")
    store.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with _beside(_offered(store)) as draft:
        shutil.copyfile(copy, draft)


def take_offered(store: Path) -> bool:
    """Put an offered copy in the place of the store, which nobody may have open; tell whether there was one.

    What was there is kept in a file of its own until the next copy is taken.
    """
    offered = _offered(store)
    if not offered.exists():
        return False
    if store.exists():
        _fold(store)
        store.replace(store.with_name(f"{store.name}.replaced"))
    for suffix in _LOGS:
        store.with_name(store.name + suffix).unlink(missing_ok=True)
    offered.replace(store)
    return True


def _offered(store: Path) -> Path:
    return store.with_name(f"{store.name}.offered")


def _fold(store: Path) -> None:
    """Write what is only in a store's log into its file; a store too damaged for that is kept as it is."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(store)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _look(copy: Path) -> tuple[set[str], int]:
    """Return the names of a copy's tables and the version of its schema."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{copy}?mode=ro&immutable=1", uri=True)) as connection:
            (verdict,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            names = {str(name) for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    except sqlite3.Error as error:
        raise Invalid(f"{copy} cannot be read as a copy of records: {error}") from error
    if verdict != "ok":
        raise Invalid(f"{copy} is damaged: {verdict}")
    return names, int(version)


@contextmanager
def _beside(file: Path) -> Iterator[Path]:
    """Give a file's draft to write; it becomes the file, durably, if nothing is raised."""
    draft = file.with_name(f".{file.name}.draft")
    draft.unlink(missing_ok=True)
    try:
        yield draft
        draft.chmod(0o600)
        _flush(draft)
        draft.replace(file)
        _flush(file.parent)
    except OSError as error:
        raise Unavailable(f"{file} cannot be written: {error.strerror or error}") from error
    finally:
        draft.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
