"""A container's file system: layers mounted over one another, and who its image says it runs as.

Images come from strangers: a path inside one is walked name by name and never leaves it, whatever its links say.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from oakestra.model.errors import Rejected, Unavailable

_libc = ctypes.CDLL(None, use_errno=True)

_MNT_DETACH = 2
_LINKS_MAX = 40
_TEXT_BYTES_MAX = 4 << 20
_ID_MAX = (1 << 32) - 2


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Whom a container's first process runs as."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


def mount_layers(layers: Sequence[Path], *, upper: Path, work: Path, target: Path) -> None:
    """Mount `layers`, lowest first, with `upper` on top of them at `target`. Raises `Unavailable` or `OSError`.

    The directories are passed as open files: mount options hold 4096 bytes only, and need escapes for some paths.
    """
    with contextlib.ExitStack() as opened:
        top_first = [_opened(path, opened) for path in reversed(layers)]
        options = f"lowerdir={':'.join(top_first)},upperdir={_opened(upper, opened)},workdir={_opened(work, opened)}"
        result = _libc.mount(b"overlay", os.fsencode(target), b"overlay", 0, options.encode())
        number = ctypes.get_errno()
    if result and number in {errno.ENODEV, errno.EINVAL}:
        raise Unavailable(
            f"the kernel cannot mount overlayfs at {target}: {os.strerror(number).lower()}; "
            "the module `overlay` must be there and the worker's state directory on a file system like ext4 or xfs"
        )
    if result:
        raise OSError(number, os.strerror(number), str(target))


def unmount(target: Path) -> None:
    """Unmount everything at `target`; the mounts of running containers are their own and stay. Raises `OSError`."""
    while not _libc.umount2(os.fsencode(target), _MNT_DETACH):
        pass
    number = ctypes.get_errno()
    if number not in {errno.EINVAL, errno.ENOENT}:  # not a mount point, not there
        raise OSError(number, os.strerror(number), str(target))


def _opened(path: Path, opened: contextlib.ExitStack) -> str:
    fd = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    opened.callback(os.close, fd)
    return f"/proc/self/fd/{fd}"


def read_inside(root: Path, path: str) -> str:
    """Return the text of the regular file `path` of the tree at `root`, at most 4 MiB; empty if there is none."""
    with contextlib.ExitStack() as opened:
        fd = _walk(root, path, opened)
        if fd is None or not stat.S_ISREG(os.fstat(fd).st_mode):
            return ""
        with open(f"/proc/self/fd/{fd}", "rb") as file:  # noqa: PTH123 - reopens what was found
            return file.read(_TEXT_BYTES_MAX).decode(errors="replace")


def _walk(root: Path, path: str, opened: contextlib.ExitStack) -> int | None:
    """Return what `path` leads to when `root` is taken for /, following links as the container would."""
    parents = [_open_path(root, None, opened)]
    names = list(reversed(path.split("/")))
    links = 0
    while names:
        name = names.pop()
        if name in {"", "."}:
            continue
        if name == "..":
            if len(parents) > 1:
                parents.pop()
            continue
        try:
            fd = _open_path(name, parents[-1], opened)
        except (FileNotFoundError, NotADirectoryError):
            return None
        if not stat.S_ISLNK(os.fstat(fd).st_mode):
            parents.append(fd)
            continue
        links += 1
        if links > _LINKS_MAX:
            return None
        target = os.readlink("", dir_fd=fd)
        if target.startswith("/"):
            del parents[1:]
        names.extend(reversed(target.split("/")))
    return parents[-1]


def _open_path(path: Path | str, parent: int | None, opened: contextlib.ExitStack) -> int:
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    opened.callback(os.close, fd)
    return fd


def resolve_user(wanted: str, *, passwd: str, group: str) -> User:
    """Return who `wanted` (OCI image config, "User": user, uid, user:group, …) is by an image's own lists. Pure.

    Raises `Rejected` for a name the lists do not have.
    """
    name, _, group_name = wanted.partition(":")
    name = name or "0"
    users = [entry for entry in _entries(passwd, 4) if name in (entry[0], entry[2])]
    uid = int(users[0][2]) if users else _id(name, "user", wanted, "/etc/passwd")
    login = users[0][0] if users else ""
    if group_name:
        groups = [entry for entry in _entries(group, 3) if group_name in (entry[0], entry[2])]
        gid = int(groups[0][2]) if groups else _id(group_name, "group", wanted, "/etc/group")
        return User(uid=uid, gid=gid)
    gid = int(users[0][3]) if users and users[0][3].isdigit() else 0
    more = {int(entry[2]) for entry in _entries(group, 4) if login and login in entry[3].split(",")}
    return User(uid=uid, gid=gid, groups=tuple(sorted(more - {gid})))


def _entries(text: str, fields_min: int) -> Iterator[list[str]]:
    """Yield the lines of a passwd or group file whose third field is an id, as fields."""
    for line in text.splitlines():
        fields = line.strip().split(":")
        if len(fields) >= fields_min and fields[2].isdigit() and int(fields[2]) <= _ID_MAX:
            yield fields


def _id(text: str, kind: str, wanted: str, file: str) -> int:
    if text.isdigit() and int(text) <= _ID_MAX:
        return int(text)
    raise Rejected(
        f"the image is to run as {wanted!r}, but its {file} has no {kind} {text!r}; build it with that {kind} or a number"
    )
