"""How much disk containers use, measured seldom and within bounds."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from oakestra.control.clock import Clock

MEASURE_AGAIN_S = 60.0
ENTRIES_MAX = 20_000
"""Files looked at per container; what has more is measured too low rather than for minutes."""


@dataclass(frozen=True, slots=True)
class _Reading:
    bytes: int
    taken_s: float


class DiskMeter:
    """Remembers what it measured for a minute."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._readings: dict[int, _Reading] = {}

    async def measure(self, directories: Mapping[int, Path]) -> Mapping[int, int]:
        """Return the bytes that the files below each directory take up on disk."""
        now_s = self._clock.uptime_s()
        for number, directory in directories.items():
            reading = self._readings.get(number)
            if reading is None or now_s - reading.taken_s >= MEASURE_AGAIN_S:
                used = await asyncio.to_thread(_used_bytes, directory)
                self._readings[number] = _Reading(used, now_s)
        known = self._readings  # without those that were forgotten meanwhile
        return {number: known[number].bytes for number in directories if number in known}

    def forget(self, number: int) -> None:
        """Forget a container that is gone."""
        self._readings.pop(number, None)


def _used_bytes(top: Path) -> int:
    """Return the blocks in use below `top`; files with several names count once for each."""
    total, entries, todo = 0, 0, [os.fspath(top)]
    while todo and entries < ENTRIES_MAX:
        try:
            with os.scandir(todo.pop()) as found:
                for entry in found:
                    entries += 1
                    status = entry.stat(follow_symlinks=False)
                    total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        todo.append(entry.path)
        except OSError:  # removed while we looked
            continue
    return total
