"""Have an image's layers unpacked and keep its record. Runs in the child process; see `__main__`.

Several processes may do this for images that share layers: each layer is unpacked by whoever locks it first, the
others wait for it and use it. Whoever relies on a layer holds its lock shared until its image is on record.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Protocol

from oakestra.control.failpoints import Point, reach
from oakestra.model.errors import Unavailable
from oakestra.runtime.images.layer.streams import Checked, Damaged, Stream, Watched, buffered, decompressed
from oakestra.runtime.images.layer.tar import TarReader
from oakestra.runtime.images.layer.unpack import unpack
from oakestra.runtime.images.layout import ImageRecord, LayerRecord, Layout, Lock, NameRecord, Reserve
from oakestra.runtime.images.manifest import Descriptor, Image, Layer

LAYERS_AT_ONCE = 3


class Blobs(Protocol):
    """Where layers come from."""

    def open(self, blob: Descriptor) -> contextlib.AbstractContextManager[Stream]:
        """Open a layer as it was packed. Raises `Unavailable` or `Rejected`, also while it is read."""


class Stopped(Exception):
    """The rest of this image is no longer wanted."""


@dataclass(slots=True)
class Progress:
    """Adds up what all threads have fetched and reports it in steps of a hundredth."""

    report: Callable[[int, int], None]
    total: int = 0
    _done: int = field(default=0)
    _reported: int = field(default=0)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def add(self, count: int) -> None:
        """Count `count` bytes more."""
        with self._lock:
            self._done += count
            if self._done - self._reported >= max(self.total // 100, 64 * 1024):
                self._reported = self._done
                self.report(self._done, self.total)

    def finish(self) -> None:
        """Report that all is there, whatever was shared with another image or sent twice."""
        self.report(self.total, self.total)


@dataclass(slots=True)
class Installation:
    """Puts images into `layout`, using the directory `work` for what is not finished."""

    layout: Layout
    work: Path
    progress: Progress
    reserve: Reserve
    note: Callable[[str], None]
    """Takes a sentence for the log."""
    _stop: threading.Event = field(default_factory=threading.Event)

    def install(self, image: Image, blobs: Blobs) -> ImageRecord:
        """Have every layer here, then keep the image and its names.

        Raises `Unavailable`, `Rejected`, or `OSError` when this machine fails.
        """
        layers = {layer.diff_id: layer for layer in image.layers}
        self._require_room(
            image, [layer for layer in layers.values() if not self.layout.layer(layer.diff_id)]
        )
        with contextlib.ExitStack() as held:
            locks = {
                diff_id: held.enter_context(
                    contextlib.closing(self.layout.layer_lock(self.layout.key_of(diff_id)))
                )
                for diff_id in layers
            }
            records = self._install_layers(image, blobs, layers.values(), locks)
            record = _record(image, size_bytes=sum(record.size_bytes for record in records))
            names = tuple(
                NameRecord(name=name, digest=image.digest, loaded=image.loaded) for name in image.names
            )
            self.layout.put(names, record)
        self.progress.finish()
        return record

    def _install_layers(
        self, image: Image, blobs: Blobs, layers: Iterable[Layer], locks: dict[str, Lock]
    ) -> list[LayerRecord]:
        with ThreadPoolExecutor(LAYERS_AT_ONCE, thread_name_prefix="layer") as threads:
            started = [
                threads.submit(self._install_layer, image, blobs, layer, locks[layer.diff_id])
                for layer in layers
            ]
            done, _ = wait(started, return_when=FIRST_EXCEPTION)
            failed = next((future for future in done if future.exception()), None)
            if failed is not None:
                self._stop.set()
                threads.shutdown(cancel_futures=True)
                failed.result()
        return [future.result() for future in started]

    def _install_layer(self, image: Image, blobs: Blobs, layer: Layer, lock: Lock) -> LayerRecord:
        while True:
            lock.take(exclusive=False)
            record = self.layout.layer(layer.diff_id)
            if record is not None:
                if record.diff_id != layer.diff_id:
                    raise Damaged(f"a layer of {image.names[0]} was made to be mistaken for {record.diff_id}")
                return record
            lock.close()
            lock.take(exclusive=True)
            if self.layout.layer(layer.diff_id) is None:
                self._unpack_layer(image, blobs, layer)

    def _unpack_layer(self, image: Image, blobs: Blobs, layer: Layer) -> None:
        what = f"layer {layer.diff_id[7:19]} of {image.names[0]}"
        made = self.work / self.layout.key_of(layer.diff_id)
        root = made / "fs"
        root.mkdir(parents=True)
        root.chmod(0o755)
        with blobs.open(layer.blob) as packed:
            watched = Watched(packed, self._on_fetched)
            blob = layer.blob
            checked = Checked(watched, blob.digest, what=what, size=blob.size) if blob.digest else None
            content = Checked(decompressed(checked or watched, what=what), layer.diff_id, what=what)
            try:
                unpacked = unpack(
                    TarReader(buffered(content), what=what),
                    root,
                    what=what,
                    on_written=self.reserve.on_written,
                )
                content.verify()
            except Damaged:
                if checked is not None:
                    checked.verify()  # a wrong digest explains whatever else was found wrong
                raise
            if checked is not None:
                checked.verify()
        if unpacked.skipped:
            self.note(f"{what}: left out {unpacked.skipped_count} entries, first {unpacked.skipped[0]}")
        reach(Point.IMAGES_LAYER_UNPACKED)
        self.layout.put_layer(made, LayerRecord(diff_id=layer.diff_id, size_bytes=unpacked.size_bytes))
        reach(Point.IMAGES_LAYER_KEPT)

    def _on_fetched(self, count: int) -> None:
        if self._stop.is_set():
            raise Stopped
        self.progress.add(count)

    def _require_room(self, image: Image, missing: Sequence[Layer]) -> None:
        """Refuse at once what cannot fit even packed, instead of filling the disk first."""
        needed = sum(layer.blob.size for layer in missing)
        self.progress.total += needed
        free = self.reserve.free_bytes()
        if needed > free:
            raise Unavailable(
                f"{image.names[0]} needs more than {_mib(needed)} MiB and {self.layout.root} has {_mib(free)} MiB free; "
                "make room there or remove images (oak worker image remove)"
            )


def _record(image: Image, *, size_bytes: int) -> ImageRecord:
    return ImageRecord(
        digest=image.digest,
        architecture=image.architecture,
        layers=tuple(layer.diff_id for layer in image.layers),
        size_bytes=size_bytes,
        created_wall_s=_wall_s(image.created),
        entrypoint=image.entrypoint,
        command=image.command,
        environment=image.environment,
        working_dir=image.working_dir,
        user=image.user,
        stop_signal=image.stop_signal,
    )


def _wall_s(text: str) -> float:
    """Read an RFC 3339 time; 0 when there is none: nothing depends on it."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError):
        return 0.0


def _mib(count: int) -> int:
    return -(-count >> 20)
