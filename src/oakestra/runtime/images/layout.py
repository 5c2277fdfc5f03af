"""What is kept on disk: which names mean which images, and the layers. Files only, so that a crash leaves no riddle.

    names/<hash of the name>.json     what a name means
    images/<start of the digest>.json an image: its configuration and its layers
    layers/<start of the diff id>/    fs: the lower directory; layer.json: its whole diff id and its size
    locks/                            one per layer and one for names and images
    work/                             one directory per running child, locked by it; the rest is swept

Everything appears by a rename after it was flushed. Nobody changes anything in place.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from oakestra.control.failpoints import Point, reach

FORMAT: Final = 1
"""Raised when files of an older version can no longer be read; files of another format count as absent."""
_KEY_LENGTH = 32
"""Hex digits of a digest in file names: 128 bits, as the 4096 bytes of mount options must hold every layer's path."""

RESERVE_BYTES = 128 << 20
RESERVE_RATIO = 0.03
"""What images never take of the disk: the smaller of these two."""
_RESERVE_CHECK_BYTES = 8 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class NameRecord:
    """What a reference means here."""

    name: str
    digest: str
    loaded: bool
    """Put here by hand, never removed by itself."""
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRecord:
    """An image whose layers are all here."""

    digest: str
    architecture: str
    layers: tuple[str, ...]
    """Diff ids, lowest first."""
    size_bytes: int
    created_wall_s: float
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    working_dir: str
    user: str
    stop_signal: str
    format: int = FORMAT


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerRecord:
    """A layer that was unpacked."""

    diff_id: str
    size_bytes: int
    format: int = FORMAT


class Layout:
    """The files below `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.work = root / "work"
        self._names = root / "names"
        self._images = root / "images"
        self._layers = root / "layers"
        self._locks = root / "locks"

    def prepare(self) -> None:
        """Make the directories; only this user may look inside, as images may be private."""
        self.root.mkdir(mode=0o700, parents=True, exist_ok=True)
        for directory in (self._names, self._images, self._layers, self._locks, self.work):
            directory.mkdir(mode=0o700, exist_ok=True)

    def name(self, name: str) -> NameRecord | None:
        """Return what `name` means, None if nothing."""
        return _read(self._name_path(name), NameRecord)

    def names(self) -> list[tuple[NameRecord, float]]:
        """Return every name with the wall time it was last used."""
        found = []
        for path in sorted(self._names.glob("*.json")):
            with contextlib.suppress(FileNotFoundError):  # just removed
                record = _read(path, NameRecord)
                if record is not None:
                    found.append((record, path.stat().st_mtime))
        return found

    def touch(self, name: str, now_wall_s: float) -> None:
        """Note that `name` is in use at this time."""
        with contextlib.suppress(FileNotFoundError):
            os.utime(self._name_path(name), (now_wall_s, now_wall_s))

    def image(self, digest: str) -> ImageRecord | None:
        """Return the image, None unless it and all its layers are here."""
        record = _read(self._image_path(digest), ImageRecord)
        if record is None or record.digest != digest:
            return None
        return record if all(self.layer_fs(diff_id).is_dir() for diff_id in record.layers) else None

    def images(self) -> list[ImageRecord]:
        """Return every image that has a record, also those with layers missing."""
        records = (_read(path, ImageRecord) for path in sorted(self._images.glob("*.json")))
        return [record for record in records if record is not None]

    def put(self, names: tuple[NameRecord, ...], image: ImageRecord) -> None:
        """Keep an image and what names it."""
        with self.catalog_lock():
            _write(self._image_path(image.digest), image)
            reach(Point.IMAGES_IMAGE_KEPT)
            for name in names:
                _write(self._name_path(name.name), name)

    def drop_name(self, name: str) -> bool:
        """Forget a name; return whether there was one."""
        return _unlink(self._name_path(name))

    def drop_image(self, digest: str) -> bool:
        """Forget an image; its layers stay."""
        return _unlink(self._image_path(digest))

    def layer(self, diff_id: str) -> LayerRecord | None:
        """Return the layer, None if it is not here."""
        return _read(self._layers / _key(diff_id) / "layer.json", LayerRecord)

    def layer_fs(self, diff_id: str) -> Path:
        """Return the directory of an unpacked layer, to be used as a lower one."""
        return self._layers / _key(diff_id) / "fs"

    def layer_keys(self) -> list[str]:
        """Return the file names of all layers; `key_of` gives that of a diff id."""
        return [entry.name for entry in os.scandir(self._layers)]

    def layer_size_bytes(self, key: str) -> int:
        """Return the size of the layer in that file."""
        record = _read(self._layers / key / "layer.json", LayerRecord)
        return record.size_bytes if record else 0

    @staticmethod
    def key_of(diff_id: str) -> str:
        return _key(diff_id)

    def put_layer(self, made: Path, record: LayerRecord) -> None:
        """Keep the layer whose files are in `made`/fs; call with the layer's lock held exclusively."""
        _write(made / "layer.json", record)
        _flush_file_system(made)
        target = self._layers / _key(record.diff_id)
        with contextlib.suppress(FileNotFoundError):  # half a layer, from a file system that was repaired
            target.rename(made.with_suffix(".old"))
        made.rename(target)
        _flush(self._layers)

    def drop_layer(self, key: str, work: Path) -> None:
        """Remove a layer; call with its lock held exclusively. `work` is the caller's own directory."""
        gone = work / f"{key}.gone"
        (self._layers / key).rename(gone)
        _flush(self._layers)
        shutil.rmtree(gone)
        _unlink(self._locks / key)

    def layer_lock(self, key: str) -> Lock:
        """Return the lock that whoever relies on a layer holds shared, whoever makes or removes it exclusively."""
        return Lock(self._locks / key)

    @contextlib.contextmanager
    def catalog_lock(self) -> Iterator[None]:
        """Hold what names and images are changed under; only for moments."""
        with contextlib.closing(Lock(self._locks / "catalog")) as lock:
            lock.take(exclusive=True)
            yield

    @contextlib.contextmanager
    def work_directory(self) -> Iterator[Path]:
        """Give this process a directory of its own, removed at the end, or by the next process if this one is killed.

        Sweeps what killed ones left.
        """
        with contextlib.closing(Lock(self._locks / "work")) as gate:
            gate.take(exclusive=True)
            dead = list(self._dead_work())
            mine = self._fresh_work()
            held = os.open(mine, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(held, fcntl.LOCK_EX)
        try:
            for left in dead:
                shutil.rmtree(left, ignore_errors=True)
            yield mine
        finally:
            shutil.rmtree(mine, ignore_errors=True)
            os.close(held)

    def _fresh_work(self) -> Path:
        for attempt in itertools.count():
            directory = self.work / f"{os.getpid()}-{attempt}"
            with contextlib.suppress(FileExistsError):
                directory.mkdir(mode=0o700)
                return directory
        raise AssertionError

    def _dead_work(self) -> Iterator[Path]:
        """Yield the directories nobody holds; under the gate, so that nobody is about to hold one."""
        for entry in list(os.scandir(self.work)):
            if not entry.is_dir(follow_symlinks=False):
                continue
            directory = os.open(entry.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            finally:
                os.close(directory)
            yield Path(entry.path)

    def _name_path(self, name: str) -> Path:
        return self._names / f"{hashlib.sha256(name.encode()).hexdigest()[:_KEY_LENGTH]}.json"

    def _image_path(self, digest: str) -> Path:
        return self._images / f"{_key(digest)}.json"


class Lock:
    """An advisory lock on a file, which other processes and other threads respect. Not held at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file = -1

    def take(self, *, exclusive: bool, wait: bool = True) -> bool:
        """Hold the lock; return False if another holds it and `wait` is off.

        Going from exclusive to shared is not atomic: look again at what the lock protects.
        """
        mode = (fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH) | (0 if wait else fcntl.LOCK_NB)
        while True:
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(self._file, mode)
            except BlockingIOError:
                self.close()
                return False
            if self._is_current():
                return True
            self.close()  # its file was removed while we waited

    def close(self) -> None:
        """Let go of the lock."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.fstat(self._file), self._path.stat())
        except FileNotFoundError:
            return False


class Reserve:
    """Calls the disk that holds `path` full while there is something left for the logs and state of what runs."""

    def __init__(self, path: Path) -> None:
        disk = os.statvfs(path)
        self._path = path
        self._kept_bytes = min(RESERVE_BYTES, int(disk.f_blocks * disk.f_frsize * RESERVE_RATIO))
        self._unchecked_bytes = _RESERVE_CHECK_BYTES

    def free_bytes(self) -> int:
        """Return what an image may still take."""
        disk = os.statvfs(self._path)
        return max(disk.f_bavail * disk.f_frsize - self._kept_bytes, 0)

    def on_written(self, count: int) -> None:
        """Count `count` bytes more; raise the error of a full disk before it is full."""
        self._unchecked_bytes += count
        if self._unchecked_bytes >= _RESERVE_CHECK_BYTES:
            self._unchecked_bytes = 0
            if not self.free_bytes():
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))


_Record = TypeVar("_Record", NameRecord, ImageRecord, LayerRecord)


def _read(path: Path, kind: type[_Record]) -> _Record | None:
    """Return the record at `path`; None if there is none that this version can read."""
    try:
        record = msgspec.json.decode(path.read_bytes(), type=kind)
    except (FileNotFoundError, msgspec.MsgspecError):
        return None
    return record if record.format == FORMAT else None


def _write(path: Path, record: NameRecord | ImageRecord | LayerRecord) -> None:
    fresh = path.with_suffix(".new")
    with fresh.open("wb") as file:
        file.write(msgspec.json.format(msgspec.json.encode(record), indent=1))
        file.flush()
        os.fsync(file.fileno())
    fresh.rename(path)
    _flush(path.parent)


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    _flush(path.parent)
    return True


def _flush(directory: Path) -> None:
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


def _flush_file_system(directory: Path) -> None:
    """Have everything on disk before the rename that says so; one call is faster than one per file."""
    syncfs: Callable[[int], int] = ctypes.CDLL(None, use_errno=True).syncfs
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if syncfs(opened) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(directory))
    finally:
        os.close(opened)


def _key(digest: str) -> str:
    return digest.partition(":")[2][:_KEY_LENGTH]
