"""Build what runc needs of a container on disk, and take it away again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import msgspec

from oakestra.control.failpoints import Point, reach
from oakestra.runtime import ContainerSpec
from oakestra.runtime.oci import rootfs
from oakestra.runtime.oci.facts import host_facts
from oakestra.runtime.oci.linux.cgroups import Cgroups
from oakestra.runtime.oci.record import InstanceRecord, Layout
from oakestra.runtime.oci.spec import ImageSettings, Place, render


class UnpackedImage(ImageSettings, Protocol):
    """An image as it lies on the disk."""

    @property
    def digest(self) -> str: ...
    @property
    def layers(self) -> tuple[Path, ...]:
        """Directories, lowest first."""

    @property
    def user(self) -> str: ...
    @property
    def stop_signal(self) -> str: ...


def build(spec: ContainerSpec, image: UnpackedImage, *, layout: Layout, cgroups: Cgroups, boot: str) -> None:
    """Write the record, then everything else that runc needs, and mount the root file system.

    Raises `OSError`, `Rejected`, `Unavailable`; what was made so far is then left for `sweep`.
    """
    number, directory = spec.number, layout.bundle(spec.number)
    record = InstanceRecord(
        worker=layout.worker,
        boot=boot,
        labels=dict(spec.labels),
        image_digest=image.digest,
        stop_signal=image.stop_signal,
    )
    layout.write(number, record)
    reach(Point.RUNTIME_RECORD_WRITTEN)
    root = _mount(directory, image)
    reach(Point.RUNTIME_ROOTFS_MOUNTED)
    passwd, group = (rootfs.read_inside(root, f"/etc/{name}") for name in ("passwd", "group"))
    named = replace(spec, hostname=spec.hostname or layout.id(number))
    place = Place(
        rootfs=str(root),
        cgroup=cgroups.path(number),
        user=rootfs.resolve_user(image.user, passwd=passwd, group=group),
        files=_write_files(directory, named),
    )
    facts = host_facts(cgroups.found, privileged=spec.privileged)
    (directory / "config.json").write_bytes(msgspec.json.encode(render(named, image, facts, place)))
    reach(Point.RUNTIME_BUNDLE_BUILT)


def sweep(number: int, *, layout: Layout, cgroups: Cgroups) -> None:
    """Remove the mount, the cgroup and the files of a container without processes; its record last.

    Does nothing for what is not there. Raises `OSError`, `Unavailable`.
    """
    directory = layout.bundle(number)
    rootfs.unmount(directory / "rootfs")
    cgroups.remove(number)
    reach(Point.RUNTIME_CGROUP_REMOVED)
    for entry in layout.runc_state(number).glob("runc.*"):
        rootfs.unmount(entry)  # a runc that was killed may have left the copy of itself that it runs from
    _remove_tree(layout.runc_state(number))
    layout.exit_file(number).unlink(missing_ok=True)
    if directory.is_dir():
        for entry in directory.iterdir():
            if entry.name != "instance.json":
                _remove_tree(entry)
        reach(Point.RUNTIME_BUNDLE_EMPTY)
        (directory / "instance.json").unlink(missing_ok=True)
        directory.rmdir()


def _mount(directory: Path, image: UnpackedImage) -> Path:
    root, upper, work, empty = (directory / name for name in ("rootfs", "upper", "work", "empty"))
    for part in (root, upper, work, empty):
        part.mkdir()
    layers = image.layers or (empty,)
    status = layers[
        -1
    ].stat()  # the container's / is the upper directory itself: it looks as the image wants it
    upper.chmod(status.st_mode & 0o7777)
    os.chown(upper, status.st_uid, status.st_gid)
    rootfs.mount_layers(layers, upper=upper, work=work, target=root)
    return root


def _write_files(directory: Path, spec: ContainerSpec) -> Mapping[str, str]:
    """Write the files that a container gets from its machine; return where each belongs."""
    hosts = spec.hosts or (
        f"127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost\n127.0.1.1\t{spec.hostname}\n"
    )
    contents = {"hostname": f"{spec.hostname}\n", "hosts": hosts, "resolv.conf": spec.resolv_conf}
    files: dict[str, str] = {}
    for name, content in contents.items():
        if content:
            file = directory / name
            file.write_text(content)
            file.chmod(0o644)
            files[f"/etc/{name}"] = str(file)
    return files


def _remove_tree(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
