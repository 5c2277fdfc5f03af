"""Be told when files change (inotify(7)), without looking again and again."""

from __future__ import annotations

import ctypes
import os
import struct
from pathlib import Path

_libc = ctypes.CDLL(None, use_errno=True)

IN_MODIFY = 0x2
IN_MOVED_TO = 0x80
IN_DELETE_SELF = 0x400
_EVENT = struct.Struct("iIII")
_READ_BYTES = 65536


class Inotify:
    """Watches directories; `fd` is readable when something in one of them changed."""

    def __init__(self) -> None:
        self.fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self.fd < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), "inotify")

    def add(self, directory: Path) -> int:
        """Watch `directory`; return the watch's number, the same for the same directory. Raises `OSError`."""
        watch = int(
            _libc.inotify_add_watch(self.fd, os.fsencode(directory), IN_MODIFY | IN_MOVED_TO | IN_DELETE_SELF)
        )
        if watch < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), str(directory))
        return watch

    def remove(self, watch: int) -> None:
        """Stop watching; a watch that is gone with its directory is no error."""
        _libc.inotify_rm_watch(self.fd, watch)

    def changed(self) -> set[int]:
        """Return the watches whose directories changed since the last call.

        Reads once: emptying the queue behind a busy writer might never end. What is left makes `fd` readable again.
        """
        try:
            raw = os.read(self.fd, _READ_BYTES)
        except BlockingIOError:
            return set()
        watches: set[int] = set()
        offset = 0
        while offset < len(raw):
            watch, _, _, name_length = _EVENT.unpack_from(raw, offset)
            watches.add(watch)
            offset += _EVENT.size + name_length
        return watches

    def close(self) -> None:
        os.close(self.fd)
