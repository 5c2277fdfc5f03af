"""The files of a worker's containers: where they are, and the record that says whose a container is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec

from oakestra.model.ids import WorkerId

FORMAT = 1
_TAG_LENGTH = 6


class InstanceRecord(msgspec.Struct, frozen=True, kw_only=True):
    """Written before anything else of a container is made, and removed after everything else is gone."""

    worker: str
    boot: str
    """The machine's boot id. Mounts, processes and cgroups of another boot are gone, its pids somebody else's."""
    labels: dict[str, str]
    image_digest: str
    stop_signal: str = ""
    format: int = FORMAT


class Layout:
    """Says where things are. Reads and writes records; makes nothing else."""

    def __init__(self, worker: WorkerId, *, state_dir: Path, runtime_dir: Path, log_dir: Path) -> None:
        self.worker = worker
        self.state_dir = state_dir
        self.instances = state_dir / "instances"
        self.logs = log_dir
        self.runc = runtime_dir / "runc"
        self.exits = runtime_dir / "exits"

    def id(self, number: int) -> str:
        """Return the name runc and conmon know a container by."""
        return f"oak-{self.worker[:_TAG_LENGTH]}-{number}"

    def bundle(self, number: int) -> Path:
        return self.instances / str(number)

    def runc_state(self, number: int) -> Path:
        return self.runc / self.id(number)

    def exit_file(self, number: int) -> Path:
        return self.exits / self.id(number)

    def numbers(self) -> list[int]:
        """Return the numbers that have a bundle, whole or not, whoever's it is."""
        try:
            names = os.listdir(self.instances)  # noqa: PTH208 - names are all we need
        except FileNotFoundError:
            return []
        return sorted(int(name) for name in names if name.isdigit())

    def read(self, number: int) -> InstanceRecord | None:
        """Return a container's record; None if there is none that can be read."""
        return read_record(self.bundle(number))

    def write(self, number: int, record: InstanceRecord) -> None:
        """Begin a container: from here on it is found, however much of it there is. Raises `OSError`."""
        bundle = self.bundle(number)
        bundle.mkdir(mode=0o700, parents=True, exist_ok=True)
        beside = bundle / ".instance.json"
        beside.write_bytes(msgspec.json.encode(record))
        beside.rename(bundle / "instance.json")


def read_record(bundle: Path) -> InstanceRecord | None:
    """Return what instance.json of `bundle` says; None if it is not there, damaged, or of another format."""
    try:
        record = msgspec.json.decode((bundle / "instance.json").read_bytes(), type=InstanceRecord)
    except (FileNotFoundError, NotADirectoryError, msgspec.DecodeError):
        return None
    return record if record.format == FORMAT else None


def images_in_use(state_dir: Path) -> set[str]:
    """Return the digests of the images that containers below `state_dir` stand on, of any worker."""
    return {record.image_digest for record in _records(state_dir / "instances")}


def _records(instances: Path) -> Iterator[InstanceRecord]:
    if instances.is_dir():
        for bundle in instances.iterdir():
            record = read_record(bundle)
            if record is not None:
                yield record
