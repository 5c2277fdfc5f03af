"""What containers said: files of bounded size that lose no line when they are rotated, and reading them.

conmon writes `log`, one record per line (Kubernetes CRI log format): time, stream, `F`, text; a longer line comes in
several records, `P` but for the last. To rotate, `log` gets a second name, `log.1`, and conmon is asked to reopen:
it makes `log.tmp` and renames it over `log`. Until then both names are one file, which is how a later agent sees
that it was asked for. `log` is never missing, and no byte is copied. Asking twice would lose what is written between
the two answers, so it is asked again only when the first question is known to be lost.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

from oakestra.runtime.oci.linux.inotify import Inotify

SIZE_MAX = 8 << 20
"""Of one of an instance's two files. The one in use exceeds it by what arrives within `LOOK_AGAIN_S`."""
LOOK_AGAIN_S = 0.1
"""A busy log is looked at so often, however fast it grows."""
OVERGROWN = 4
"""A file so many times larger than it should be was written while no agent was there; only its end is kept."""
ASK_AGAIN_S = 2.0
"""conmon reopens within milliseconds of reading that it should."""
FOLLOW_POLL_S = 2.0
"""Followers look by themselves so often, should the kernel have no watches left to give."""
_PIECE_BYTES = 256 << 10
_LINE_MAX = 1 << 20
"""A line longer than this is cut into several, so that one without end cannot fill the memory."""


class Logs:
    """The logs below `root`, a directory per instance. Not before a loop runs."""

    def __init__(self, root: Path, *, reopen: Callable[[int], object], size_max: int = SIZE_MAX) -> None:
        self._root = root
        self._reopen = reopen
        self._size_max = size_max
        self._inotify: Inotify | None = None
        self._numbers: dict[int, int] = {}
        self._watches: dict[int, int] = {}
        self._waiting: dict[int, set[asyncio.Event]] = {}
        self._asked_s: dict[int, float] = {}

    def directory(self, number: int) -> Path:
        return self._root / str(number)

    def begin(self, number: int) -> Path:
        """Make ready for a container about to be created, behind what its predecessor wrote; return the file."""
        directory = self.directory(number)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        current, previous = directory / "log", directory / "log.1"
        self._asked_s.pop(number, None)
        (directory / "log.tmp").unlink(
            missing_ok=True
        )  # of a conmon that ended before it was read that it should reopen
        if _same_file(current, previous):  # nobody is left who could reopen it
            current.unlink()
        elif _size(current) > self._size_max:
            current.replace(previous)
        _end_last_line(current)
        return current

    def watch(self, number: int) -> None:
        """Keep the size of a log bounded from now on."""
        if number in self._watches:
            return
        try:
            if self._inotify is None:
                self._inotify = Inotify()
                self._listen()
            watch = self._inotify.add(self.directory(number))
        except OSError:  # no watches left, or no such directory: observing rotates it, less promptly
            return
        self._watches[number] = watch
        self._numbers[watch] = number

    def unwatch(self, number: int) -> None:
        """Leave a log alone whose container is gone."""
        self._asked_s.pop(number, None)
        watch = self._watches.pop(number, None)
        if watch is not None and self._inotify is not None:
            del self._numbers[watch]
            self._inotify.remove(watch)

    def look(self, number: int) -> None:
        """Rotate a log that the kernel does not watch for us."""
        if number not in self._watches:
            self.rotate(number)

    def rotate(self, number: int) -> None:
        """Begin a new file if the one in use is large enough, or if that was asked for and has not happened."""
        with contextlib.suppress(OSError):  # full disk, or just removed: the next change tries again
            directory = self.directory(number)
            current, previous = directory / "log", directory / "log.1"
            if _same_file(current, previous):
                self._insist(number)
                return
            self._asked_s.pop(number, None)
            if _size(previous) > OVERGROWN * self._size_max:
                _keep_end(previous, self._size_max)
            if _size(current) > self._size_max:
                (directory / "log.tmp").touch(
                    mode=0o600
                )  # conmon dies if it cannot make it, e.g. on a full disk
                _link(current, previous)
                self._ask(number)

    def _insist(self, number: int) -> None:
        """Ask again if the question was lost; one that an agent before us asked may have been."""
        now_s = asyncio.get_running_loop().time()
        if number not in self._asked_s:
            self._remind(number)
        elif now_s - self._asked_s[number] >= ASK_AGAIN_S:
            self._ask(number)

    def _ask(self, number: int) -> None:
        self._reopen(number)
        self._remind(number)

    def _remind(self, number: int) -> None:
        loop = asyncio.get_running_loop()
        self._asked_s[number] = loop.time()
        loop.call_later(ASK_AGAIN_S + LOOK_AGAIN_S, self._check, number)

    def _check(self, number: int) -> None:
        if number in self._asked_s:
            self.rotate(number)

    def forget(self, number: int) -> None:
        """Remove a log; whoever follows it reaches its end."""
        shutil.rmtree(self.directory(number), ignore_errors=True)
        self.unwatch(number)
        self._tell(number)

    def close(self) -> None:
        """Stop watching. Needs the loop that `watch` was called in."""
        if self._inotify is not None:
            asyncio.get_running_loop().remove_reader(self._inotify.fd)
            self._inotify.close()
            self._inotify = None
            self._watches.clear()
            self._numbers.clear()
        self._asked_s.clear()

    async def read(self, number: int, *, tail_bytes: int | None, follow: bool) -> AsyncIterator[bytes]:
        """Yield pieces of whole lines; see `Runtime.logs`."""
        with contextlib.closing(_Reading(self.directory(number))) as reading:
            lines = _Lines()
            for piece in _last(reading, lines, tail_bytes) if tail_bytes is not None else ():
                yield piece
            while True:
                event = self._subscribe(number) if follow else None
                try:
                    for records in reading.records(follow=follow):
                        text = lines.take(records)
                        if text:
                            yield text
                        await asyncio.sleep(0)
                    if event is None or not self.directory(number).is_dir():
                        break
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(FOLLOW_POLL_S):
                            await event.wait()
                finally:
                    self._unsubscribe(number, event)
            rest = lines.rest()
            if rest:
                yield rest

    def _listen(self) -> None:
        if self._inotify is not None:
            asyncio.get_running_loop().add_reader(self._inotify.fd, self._changed)

    def _changed(self) -> None:
        assert self._inotify is not None
        loop = asyncio.get_running_loop()
        loop.remove_reader(self._inotify.fd)
        loop.call_later(LOOK_AGAIN_S, self._listen)
        for watch in self._inotify.changed():
            number = self._numbers.get(watch)
            if number is not None:
                self.rotate(number)
                self._tell(number)

    def _tell(self, number: int) -> None:
        for event in self._waiting.get(number, ()):
            event.set()

    def _subscribe(self, number: int) -> asyncio.Event:
        event = asyncio.Event()
        self._waiting.setdefault(number, set()).add(event)
        return event

    def _unsubscribe(self, number: int, event: asyncio.Event | None) -> None:
        if event is None:
            return
        events = self._waiting[number]
        events.discard(event)
        if not events:
            del self._waiting[number]


class _Reading:
    """Reads the records of one log in order, across rotations."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._files: list[int] = []
        self._rest = b""
        self._open_from(None)

    def records(self, *, follow: bool) -> Iterator[bytes]:
        """Yield what there is to read, in pieces of whole records; with `follow` also out of files made meanwhile."""
        if not self._files:
            self._open_from(None)
        while self._files:
            yield from self._drain(self._files[0])
            if len(self._files) == 1 and not (follow and self._follow_on()):
                return
            os.close(self._files.pop(0))

    def last_bytes(self, count: int) -> tuple[bytes, bool]:
        """Return about the last `count` bytes in whole records, and whether that is everything.

        Reading goes on behind them.
        """
        sizes = [os.fstat(fd).st_size for fd in self._files]
        start = max(sum(sizes) - count, 0)
        pieces, skipped = [], 0
        for fd, size in zip(self._files, sizes, strict=True):
            if start < skipped + size:
                offset = max(start - skipped, 0)
                pieces.append(os.pread(fd, size - offset, offset))
            os.lseek(fd, size, os.SEEK_SET)
            skipped += size
        whole, newline, self._rest = b"".join(pieces).rpartition(b"\n")
        found = whole + newline
        return (found if start == 0 else found[found.find(b"\n") + 1 :]), start == 0

    def close(self) -> None:
        for fd in self._files:
            os.close(fd)
        self._files.clear()

    def _drain(self, fd: int) -> Iterator[bytes]:
        while piece := os.read(fd, _PIECE_BYTES):
            whole, newline, self._rest = (self._rest + piece).rpartition(b"\n")
            yield whole + newline

    def _follow_on(self) -> bool:
        """Open what came after the last file; False if that is still the one being written."""
        last = os.fstat(self._files[-1])
        with contextlib.suppress(FileNotFoundError):
            now = (self._directory / "log").stat()
            if (now.st_dev, now.st_ino) != (last.st_dev, last.st_ino):
                # No more is written to it once its name is somebody else's: what came meanwhile is the rest.
                self._open_from(last)
                return len(self._files) > 1
        return False

    def _open_from(self, last: os.stat_result | None) -> None:
        """Open the files after `last`. The newest first: a rotation in between then shows as the same file twice."""
        opened: list[int] = []
        known = set() if last is None else {(last.st_dev, last.st_ino)}
        for name in ("log", "log.1"):
            with contextlib.suppress(FileNotFoundError):
                fd = os.open(self._directory / name, os.O_RDONLY | os.O_CLOEXEC)
                status = os.fstat(fd)
                if (status.st_dev, status.st_ino) in known:
                    os.close(fd)
                    break
                known.add((status.st_dev, status.st_ino))
                opened.insert(0, fd)
        self._files.extend(opened)


class _Lines:
    """Turns records into plain lines, putting together those that came in pieces."""

    def __init__(self) -> None:
        self._parts: dict[bytes, bytearray] = {}

    def take(self, records: bytes) -> bytes:
        """Return the lines that `records` complete."""
        lines: list[bytes] = []
        for record in records.split(b"\n")[:-1]:
            fields = record.split(b" ", 3)
            if len(fields) < 4:  # noqa: PLR2004 - not a record; perhaps cut off by a power cut
                continue
            _, stream, tag, text = fields
            part = self._parts.get(stream)
            if tag == b"P" and len(text) + len(part or b"") < _LINE_MAX:
                self._parts.setdefault(stream, bytearray()).extend(text)
                continue
            if part is not None:
                text = bytes(part) + text
                del self._parts[stream]
            lines += [text, b"\n"]
        return b"".join(lines)

    def rest(self) -> bytes:
        """Return what was begun and not finished, as lines."""
        found = b"".join(bytes(part) + b"\n" for part in self._parts.values())
        self._parts.clear()
        return found


def _last(reading: _Reading, lines: _Lines, tail_bytes: int) -> Iterator[bytes]:
    """Yield the last whole lines of at most `tail_bytes`, at least one, and move on to the end.

    A line that is not finished counts, and is left in `lines` to be put together with what follows.
    """
    count = 2 * tail_bytes + _PIECE_BYTES // 64
    while True:
        raw, everything = reading.last_bytes(count)
        found = _Lines()
        text = found.take(raw)
        rest_bytes = len(found.rest())
        if (
            everything or len(text) + rest_bytes > tail_bytes
        ):  # more than asked for: the first line may be cut off
            break
        count *= 4
    lines.take(raw)
    start = max(len(text) + rest_bytes - tail_bytes, 0)
    if start and text[start - 1 : start] != b"\n":
        start = text.find(b"\n", start) + 1 or len(text)
    if start >= len(text) and not rest_bytes:  # a single long line
        start = text.rfind(b"\n", 0, max(len(text) - 1, 0)) + 1
    if text[start:]:
        yield text[start:]


def _end_last_line(log: Path) -> None:
    """Finish a line that a container which ended left unfinished, so that its successor does not go on with it."""
    try:
        with log.open("rb") as file:
            file.seek(max(_size(log) - _PIECE_BYTES, 0))
            tail = file.read()
    except FileNotFoundError:
        return
    open_records: dict[bytes, bytes] = {}
    whole, _, torn = tail.rpartition(b"\n")
    for record in whole.split(b"\n"):
        fields = record.split(b" ", 3)
        if len(fields) == 4:  # noqa: PLR2004 - time, stream, tag, text
            open_records[fields[1]] = fields[0] if fields[2] == b"P" else b""
    ends = b"".join(b"%s %s F \n" % (time, stream) for stream, time in open_records.items() if time)
    if torn or ends:
        with log.open("ab") as file:
            file.write((b"\n" if torn else b"") + ends)


def _link(log: Path, other: Path) -> None:
    """Give `log` the second name `other`, whatever had that name."""
    beside = log.with_name("log.link")
    beside.unlink(missing_ok=True)
    beside.hardlink_to(log)
    beside.replace(other)


def _keep_end(log: Path, size: int) -> None:
    """Shorten a log that nobody writes any more to its last records."""
    beside = log.with_name("log.end")
    with log.open("rb") as source:
        source.seek(-size, os.SEEK_END)
        source.readline()
        with beside.open("wb") as target:
            shutil.copyfileobj(source, target)
    beside.replace(log)


def _same_file(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except FileNotFoundError:
        return False


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
