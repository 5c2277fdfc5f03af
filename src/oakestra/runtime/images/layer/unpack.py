"""Unpack one layer into a directory that overlayfs can use as a lower one.

Layers come from strangers. Every file is made relative to an open directory, whose path was walked without
following a symbolic link of the layer out of it; nothing that exists is opened for writing. Whiteouts become what
overlayfs understands (OCI image spec, "Layer"; kernel documentation, "overlayfs"): `.wh.x` a character device 0/0
named x, `.wh..wh..opq` the attribute trusted.overlay.opaque of its directory.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from oakestra.runtime.images.layer.streams import CHUNK_BYTES, Damaged
from oakestra.runtime.images.layer.tar import Kind, Member, TarReader

WHITEOUT_PREFIX = ".wh."
OPAQUE_MARK = ".wh..wh..opq"
_AUFS_PREFIX = ".wh..wh."
OPAQUE_XATTR = "trusted.overlay.opaque"

DEPTH_MAX = 200
"""Directories within directories; each holds an open file while its content is unpacked."""
_PATH_LENGTH_MAX = 4096
_SYMLINKS_MAX = 40
_ID_MAX = (1 << 32) - 2
_IMPLIED_MODE = 0o755
_SKIPPED_KEPT = 10
_XATTRS_KEPT = ("security.capability",)
_XATTR_PREFIXES_KEPT = ("user.",)
_XATTR_PREFIXES_REFUSED = ("user.overlay.",)
_XATTR_UNFIT = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSPC, errno.E2BIG}
"""The file system has no such attributes, or no room for one this large (ext4 says ENOSPC)."""
_LAYERS_FAULT = {
    errno.ENAMETOOLONG,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.EINVAL,
    errno.ELOOP,
    errno.EEXIST,
    errno.ENOTEMPTY,
    errno.EMLINK,
    errno.ERANGE,
    errno.E2BIG,
}

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC

_Parts = tuple[str, ...]


@dataclass(slots=True)
class Unpacked:
    """What came of a layer."""

    size_bytes: int = 0
    skipped_count: int = 0
    """What was left out on purpose."""
    skipped: list[str] = field(default_factory=list)
    """The first of it, for a log line."""

    def skip(self, name: str, why: str) -> None:
        """Note that something was left out."""
        self.skipped_count += 1
        if len(self.skipped) < _SKIPPED_KEPT:
            self.skipped.append(f"{name}: {why}")


def unpack(reader: TarReader, root: Path, *, what: str, on_written: Callable[[int], None]) -> Unpacked:
    """Unpack everything `reader` gives into the directory `root`, which must exist and be empty.

    `on_written` is told how many bytes were written and may raise to stop. Raises `Damaged` for a layer that is
    malformed or tries to get out of `root`, `OSError` when the machine fails; `root` is then of no use.
    """
    layer = _Layer(root, what=what, on_written=on_written)
    try:
        while (member := reader.next()) is not None:
            try:
                layer.add(member, reader)
            except OSError as error:
                if error.errno in _LAYERS_FAULT:
                    raise layer.damaged(member.name, os.strerror(error.errno or 0).lower()) from error
                raise
        layer.finish()
    finally:
        layer.close()
    return layer.unpacked


class _Layer:
    def __init__(self, root: Path, *, what: str, on_written: Callable[[int], None]) -> None:
        self.unpacked = Unpacked()
        self._what = what
        self._on_written = on_written
        self._walk = _Walk(root)
        self._directory_times: dict[_Parts, int] = {}

    def close(self) -> None:
        self._walk.close()

    def finish(self) -> None:
        """Set the times of directories last, because every file made in one changes them."""
        for parts, mtime_ns in self._directory_times.items():
            with contextlib.suppress(NotADirectoryError, FileNotFoundError):  # replaced later in the layer
                os.utime(self._walk.enter(parts), ns=(mtime_ns, mtime_ns))

    def damaged(self, name: str, why: str) -> Damaged:
        return Damaged(f"{self._what} cannot be unpacked: '{name[:200]}': {why}")

    def add(self, member: Member, reader: TarReader) -> None:
        parts = self._parts(member.name)
        if not parts:
            if member.kind is Kind.DIRECTORY:
                self._describe_directory(self._walk.enter(()), (), member)
            return
        basename = parts[-1]
        if basename == OPAQUE_MARK:
            os.setxattr(self._enter(parts[:-1]), OPAQUE_XATTR, b"y")
        elif basename.startswith(_AUFS_PREFIX):
            return  # bookkeeping of a file system that is gone
        elif basename.startswith(WHITEOUT_PREFIX):
            self._white_out((*parts[:-1], basename.removeprefix(WHITEOUT_PREFIX)), member)
        elif member.kind in {Kind.DEVICE, Kind.OTHER}:
            self.unpacked.skip(member.name, member.kind.value)
        else:
            self._make((*self._walk.resolve(parts[:-1]), basename), member, reader)

    def _parts(self, name: str) -> _Parts:
        if "\0" in name:
            raise self.damaged(name, "its name has a zero byte")
        parts = tuple(part for part in name.split("/") if part not in {"", "."})
        if ".." in parts:
            raise self.damaged(name, "it leads out of the image")
        if len(parts) > DEPTH_MAX or len(name) > _PATH_LENGTH_MAX:
            raise self.damaged(
                name, f"its path is longer than {_PATH_LENGTH_MAX} bytes or {DEPTH_MAX} directories"
            )
        return parts

    def _enter(self, parts: _Parts) -> int:
        return self._walk.enter(self._walk.resolve(parts), make=True)

    def _white_out(self, parts: _Parts, member: Member) -> None:
        """Hide what lower layers have at `parts`, not what this layer has."""
        name = parts[-1]
        if name in {"", ".", ".."}:
            raise self.damaged(member.name, "it hides nothing that could exist")
        parent = self._enter(parts[:-1])
        there = _stat(name, parent)
        if there is None:
            os.mknod(name, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
        elif stat.S_ISDIR(there.st_mode):
            os.setxattr(self._walk.enter((*self._walk.resolve(parts[:-1]), name)), OPAQUE_XATTR, b"y")

    def _make(self, parts: _Parts, member: Member, reader: TarReader) -> None:
        parent = self._walk.enter(parts[:-1], make=True)
        name = parts[-1]
        there = _stat(name, parent)
        if member.kind is Kind.DIRECTORY:
            if there is None or not stat.S_ISDIR(there.st_mode):
                self._walk.make(parts)
            self._describe_directory(self._walk.enter(parts), parts, member)
            return
        if there is not None:
            self._walk.remove(parts)
        match member.kind:
            case Kind.FILE:
                self._make_file(name, parent, member, reader)
            case Kind.HARD_LINK:
                self._make_hard_link(parts, member)
            case Kind.SYMLINK:
                if not member.link or "\0" in member.link:
                    raise self.damaged(member.name, "a symbolic link to nothing")
                os.symlink(member.link, name, dir_fd=parent)
                self._describe(name, parent, member)
            case _:
                os.mkfifo(name, 0o600, dir_fd=parent)
                self._describe(name, parent, member)
                os.chmod(name, member.mode, dir_fd=parent)

    def _make_file(self, name: str, parent: int, member: Member, reader: TarReader) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(name, flags, 0o600, dir_fd=parent)
        try:
            while chunk := reader.read(CHUNK_BYTES):
                _write(file, chunk)
                self._on_written(len(chunk))
            self._own(file, member)
            os.fchmod(file, member.mode)  # after the owner, whose change clears setuid
            self._keep_xattrs(file, member)
            os.utime(file, ns=(member.mtime_ns, member.mtime_ns))
        finally:
            os.close(file)
        self.unpacked.size_bytes += member.size

    def _make_hard_link(self, parts: _Parts, member: Member) -> None:
        target = self._parts(member.link)
        if not target:
            raise self.damaged(member.name, "a hard link to a directory")
        target = (*self._walk.resolve(target[:-1]), target[-1])
        try:
            source = os.dup(self._walk.enter(target[:-1]))
        except (FileNotFoundError, NotADirectoryError):
            raise self.damaged(
                member.name, f"a hard link to '{member.link[:200]}', which is not in the layer"
            ) from None
        try:
            there = _stat(target[-1], source)
            if there is None or stat.S_ISDIR(there.st_mode) or stat.S_ISCHR(there.st_mode):
                raise self.damaged(
                    member.name, f"a hard link to '{member.link[:200]}', which is no file of the layer"
                )
            parent = self._walk.enter(parts[:-1])
            os.link(target[-1], parts[-1], src_dir_fd=source, dst_dir_fd=parent, follow_symlinks=False)
        finally:
            os.close(source)

    def _describe_directory(self, directory: int, parts: _Parts, member: Member) -> None:
        self._own(directory, member)
        os.fchmod(directory, member.mode)
        self._keep_xattrs(directory, member)
        self._directory_times[parts] = member.mtime_ns

    def _describe(self, name: str, parent: int, member: Member) -> None:
        uid, gid = self._owner(member)
        os.chown(name, uid, gid, dir_fd=parent, follow_symlinks=False)
        os.utime(name, ns=(member.mtime_ns, member.mtime_ns), dir_fd=parent, follow_symlinks=False)

    def _own(self, file: int, member: Member) -> None:
        os.fchown(file, *self._owner(member))

    def _owner(self, member: Member) -> tuple[int, int]:
        if member.uid > _ID_MAX or member.gid > _ID_MAX:
            raise self.damaged(member.name, "its owner is no possible user or group")
        return member.uid, member.gid

    def _keep_xattrs(self, file: int, member: Member) -> None:
        """Set capabilities and users' attributes. Never those of overlayfs, by which a layer could redirect paths."""
        for key, value in member.xattrs.items():
            kept = key in _XATTRS_KEPT or key.startswith(_XATTR_PREFIXES_KEPT)
            if not kept or key.startswith(_XATTR_PREFIXES_REFUSED) or "\0" in key:
                continue
            try:
                os.setxattr(file, key, value)
            except OSError as error:
                if error.errno not in _XATTR_UNFIT:
                    raise
                self.unpacked.skip(member.name, f"attribute {key}, unfit for this file system")


class _Walk:
    """Open directories of the layer, from its root down to where the last member went."""

    def __init__(self, root: Path) -> None:
        self._names: list[str] = []
        self._fds = [os.open(root, _OPEN_DIRECTORY)]

    def close(self) -> None:
        self._leave(0)
        os.close(self._fds.pop())

    def enter(self, parts: _Parts, *, make: bool = False) -> int:
        """Return the open directory at `parts`, valid until the next call; with `make`, missing ones are made.

        `parts` must be resolved: a symbolic link on the way raises NotADirectoryError, as a file does.
        """
        common = _common(self._names, parts)
        self._leave(common)
        for depth in range(common, len(parts)):
            try:
                self._push(parts[depth])
            except (FileNotFoundError, NotADirectoryError):
                if not make:
                    raise
                self.make(parts[: depth + 1])
                self._push(parts[depth])
        return self._fds[-1]

    def resolve(self, parts: _Parts) -> _Parts:
        """Return `parts` with the symbolic links on the way followed as the container would: never above the root."""
        known = _common(self._names, parts)  # open, hence no links
        pending = list(reversed(parts[known:]))
        resolved = list(parts[:known])
        links = 0
        while pending:
            part = pending.pop()
            if part in {"", "."}:
                continue
            if part == "..":
                resolved[-1:] = []
                continue
            target = self._symlink(resolved, part)
            if target is None:
                resolved.append(part)
                continue
            links += 1
            if links > _SYMLINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), "/".join(parts))
            if target.startswith("/"):
                resolved.clear()
            pending.extend(reversed(target.split("/")))
        if len(resolved) > DEPTH_MAX:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), "/".join(parts))
        return tuple(resolved)

    def make(self, parts: _Parts) -> None:
        """Make a directory at `parts` in place of a whiteout or of a file; in place of a whiteout it is opaque."""
        parent = self.enter(parts[:-1])
        name = parts[-1]
        there = _stat(name, parent)
        if there is not None:
            os.unlink(name, dir_fd=parent)
        os.mkdir(name, _IMPLIED_MODE, dir_fd=parent)
        if there is not None and stat.S_ISCHR(there.st_mode):
            made = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
            try:
                os.setxattr(made, OPAQUE_XATTR, b"y")
            finally:
                os.close(made)

    def remove(self, parts: _Parts) -> None:
        """Remove what is at `parts`, with all that is below."""
        parent = self.enter(parts[:-1])
        there = _stat(parts[-1], parent)
        if there is not None and stat.S_ISDIR(there.st_mode):
            shutil.rmtree(parts[-1], dir_fd=parent)
        else:
            os.unlink(parts[-1], dir_fd=parent)

    def _symlink(self, directory: list[str], name: str) -> str | None:
        try:
            return os.readlink(name, dir_fd=self.enter(tuple(directory)))
        except OSError as error:
            if error.errno in {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}:
                return None
            raise

    def _push(self, name: str) -> None:
        self._fds.append(os.open(name, _OPEN_DIRECTORY, dir_fd=self._fds[-1]))
        self._names.append(name)

    def _leave(self, depth: int) -> None:
        while len(self._names) > depth:
            os.close(self._fds.pop())
            self._names.pop()


def _common(one: Sequence[str], other: Sequence[str]) -> int:
    """Return how many names both start with."""
    count = 0
    for mine, theirs in zip(one, other, strict=False):
        if mine != theirs:
            break
        count += 1
    return count


def _stat(name: str, directory: int) -> os.stat_result | None:
    try:
        return os.stat(name, dir_fd=directory, follow_symlinks=False)
    except FileNotFoundError:
        return None


def _write(file: int, chunk: bytes) -> None:
    view = memoryview(chunk)
    while view:
        view = view[os.write(file, view) :]
