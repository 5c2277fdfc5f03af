"""Remove what nothing uses: names by age and disk pressure, then images without names, then layers without images."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from oakestra.runtime.images.layout import ImageRecord, Layout, NameRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """When an image has been unused for too long, and how full the disk may be."""

    unused_s: float
    disk_ratio_max: float
    """0–1; above it the images unused for longest go, however young."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What was removed."""

    names: tuple[str, ...] = ()
    freed_bytes: int = 0


def collect(
    layout: Layout, work: Path, limits: Limits, *, in_use: Collection[str], now_wall_s: float
) -> Collected:
    """Remove what the limits allow, oldest first; never what is `in_use` (digests) or was put here by hand."""
    removable = sorted(
        ((used_wall_s, record) for record, used_wall_s in layout.names() if _may_go(record, in_use)),
        key=lambda candidate: candidate[0],
    )
    gone: list[str] = []
    freed_bytes = sweep(layout, work, in_use=in_use)
    for used_wall_s, record in removable:
        too_old = now_wall_s - used_wall_s > limits.unused_s
        if not too_old and disk_ratio(layout.root) <= limits.disk_ratio_max:
            break
        layout.drop_name(record.name)
        gone.append(record.name)
        freed_bytes += sweep(layout, work, in_use=in_use)
    return Collected(names=tuple(gone), freed_bytes=freed_bytes)


def sweep(layout: Layout, work: Path, *, in_use: Collection[str]) -> int:
    """Remove images that have no name and are not in use, and layers that no image has; return the bytes freed."""
    with layout.catalog_lock():
        named = {record.digest for record, _ in layout.names()}
        for image in layout.images():
            if image.digest not in named and image.digest not in in_use:
                layout.drop_image(image.digest)
    return sum(_drop_layer(layout, key, work) for key in _loose(layout))


def disk_ratio(path: Path) -> float:
    """Return how full the disk of `path` is, 0–1."""
    disk = shutil.disk_usage(path)
    return 1 - disk.free / disk.total


def _may_go(record: NameRecord, in_use: Collection[str]) -> bool:
    return not record.loaded and record.digest not in in_use


def _loose(layout: Layout) -> list[str]:
    kept = set(_keys(layout, layout.images()))
    return [key for key in layout.layer_keys() if key not in kept]


def _keys(layout: Layout, images: Collection[ImageRecord]) -> Iterator[str]:
    for image in images:
        yield from (layout.key_of(diff_id) for diff_id in image.layers)


def _drop_layer(layout: Layout, key: str, work: Path) -> int:
    """Remove a layer unless somebody is installing an image with it; look again once it is locked."""
    with contextlib.closing(layout.layer_lock(key)) as lock:
        if not lock.take(exclusive=True, wait=False) or key not in _loose(layout):
            return 0
        freed_bytes = layout.layer_size_bytes(key)
        layout.drop_layer(key, work)
        return freed_bytes
