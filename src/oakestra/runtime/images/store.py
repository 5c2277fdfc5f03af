"""The images on this machine, as the agent sees them. It only reads; whatever changes a file is a child's work.

A child (see `__main__`) lives for one pull, load, removal or collection, so that the agent never carries what they
import and need, and so that stopping one is killing a process.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from oakestra.control.clock import Clock
from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime import ImageInfo, Progress
from oakestra.runtime.images.layout import ImageRecord, Layout
from oakestra.runtime.images.protocol import Answer, Do, Request
from oakestra.runtime.images.reference import parse

FETCHES_MAX = 3
"""Images fetched at once: more would only make each slower."""
RECENT_S = 600.0
"""An image asked for this recently is about to be used, although no container has it yet."""
UNUSED_S = 14 * 24 * 3600.0
DISK_RATIO_MAX = 0.85
_ANSWER_BYTES_MAX = 1 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class UnpackedImage:
    """An image ready to run."""

    digest: str
    """Of its manifest; of its configuration where an archive has no manifest."""
    layers: tuple[Path, ...]
    """Lower directories for overlayfs, lowest first. Shared with other images: never write there."""
    entrypoint: tuple[str, ...]
    command: tuple[str, ...]
    environment: tuple[str, ...]
    """Each `KEY=value`."""
    working_dir: str
    user: str
    """`user`, `uid`, `user:group` or `uid:gid`; empty: root."""
    stop_signal: str
    """A name like SIGTERM or a number; empty: SIGTERM."""
    architecture: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Collected:
    """What garbage collection removed."""

    references: tuple[str, ...]
    freed_bytes: int


@dataclass(slots=True)
class _Pull:
    """One image being fetched for everybody who wants it."""

    task: asyncio.Task[None]
    listeners: list[Progress] = field(default_factory=list)
    waiting: int = 0


class ImageStore:
    """Fetches, keeps and forgets images below `state_dir`.

    `in_use` returns the digests of images that containers use; those are never removed. `image_dirs` are the
    directories from which a service may name an archive. Plain HTTP is spoken with registries on this machine and
    with `insecure_registries` (`host` or `host:port`) only. `credentials_file` is Docker's config.json; it is read
    anew for every pull.
    """

    def __init__(
        self,
        state_dir: Path,
        *,
        image_dirs: Sequence[Path],
        in_use: Callable[[], set[str]],
        clock: Clock,
        architecture: str,
        insecure_registries: Sequence[str] = (),
        credentials_file: Path | None = None,
    ) -> None:
        self._layout = Layout(state_dir / "images")
        self._in_use = in_use
        self._clock = clock
        self._pulls: dict[str, _Pull] = {}
        self._asked_uptime_s: dict[str, float] = {}
        self._fetching = asyncio.Semaphore(FETCHES_MAX)
        self._template = Request(
            do=Do.COLLECT,
            root=str(self._layout.root),
            architecture=architecture,
            image_dirs=tuple(str(directory) for directory in image_dirs),
            insecure_registries=tuple(insecure_registries),
            credentials_file=str(credentials_file or ""),
        )

    async def ensure(self, reference: str, *, progress: Progress | None = None) -> None:
        """Have the image unpacked here; return at once if it is. Concurrent calls for one image share the work.

        Raises `Unavailable` if it cannot be had now, `Rejected` if it never can. Cancelling the last call that
        waits for an image ends its fetching.
        """
        name = parse(reference).name
        self._asked_uptime_s[name] = self._clock.uptime_s()
        if self._find(name) is not None:
            self._layout.touch(name, self._clock.wall_s())
            return
        await self._join(name, progress)

    async def load(self, path: str, *, progress: Progress | None = None) -> ImageInfo:
        """Take the images of an archive file and return the first. They stay until they are removed by hand."""
        if not path.startswith("/"):
            raise Rejected(f"'{path}' needs to be an absolute path to an image archive")
        answer = await self._run(self._request(Do.LOAD, subject=path), progress)
        name = answer.done or ""
        self._asked_uptime_s[name] = self._clock.uptime_s()
        image = self._find(name)
        if image is None:
            raise Unavailable(f"{name} was removed again just after it was loaded")
        return _info(name, image)

    async def list(self) -> Sequence[ImageInfo]:
        """Return the images present, by reference."""
        found = [
            _info(record.name, image)
            for record, _ in self._layout.names()
            if (image := self._layout.image(record.digest)) is not None
        ]
        return tuple(sorted(found, key=lambda info: info.reference))

    async def remove(self, reference: str) -> None:
        """Forget the image; its layers go when no other image or container uses them. No-op if it is not here."""
        name = parse(reference).name
        self._asked_uptime_s.pop(name, None)
        await self._run(self._request(Do.REMOVE, subject=name), None)

    async def collect(
        self, *, unused_s: float = UNUSED_S, disk_ratio_max: float = DISK_RATIO_MAX
    ) -> Collected:
        """Remove images unused for `unused_s` and, while the disk is fuller than `disk_ratio_max`, others, oldest first.

        Never one that is in use, was asked for in the last minutes, or was loaded by hand. Also sweeps what a killed
        child left. Call it at start and every few minutes: in-use images count as used at this moment.
        """
        now_wall_s = self._clock.wall_s()
        in_use = self._kept()
        for record, _ in self._layout.names():
            if record.digest in in_use:
                self._layout.touch(record.name, now_wall_s)
        answer = await self._run(
            self._request(
                Do.COLLECT, unused_s=unused_s, disk_ratio_max=disk_ratio_max, now_wall_s=now_wall_s
            ),
            None,
        )
        if answer.removed:
            _log.info(
                "images removed",
                extra={"images": ",".join(answer.removed), "freed_bytes": answer.freed_bytes},
            )
        return Collected(references=answer.removed, freed_bytes=answer.freed_bytes)

    def resolve(self, reference: str) -> UnpackedImage | None:
        """Return the image ready to run, None if it is not here."""
        image = self._find(parse(reference).name)
        if image is None:
            return None
        return UnpackedImage(
            digest=image.digest,
            layers=tuple(self._layout.layer_fs(diff_id) for diff_id in _topmost(image.layers)),
            entrypoint=image.entrypoint,
            command=image.command,
            environment=image.environment,
            working_dir=image.working_dir,
            user=image.user,
            stop_signal=image.stop_signal,
            architecture=image.architecture,
        )

    def _find(self, name: str) -> ImageRecord | None:
        record = self._layout.name(name)
        return self._layout.image(record.digest) if record is not None and record.name == name else None

    def _kept(self) -> set[str]:
        """Return the digests that must stay: in use, or about to be."""
        since_s = self._clock.uptime_s() - RECENT_S
        self._asked_uptime_s = {name: at_s for name, at_s in self._asked_uptime_s.items() if at_s >= since_s}
        recent = (self._layout.name(name) for name in self._asked_uptime_s)
        return self._in_use() | {record.digest for record in recent if record is not None}

    async def _join(self, name: str, progress: Progress | None) -> None:
        """Wait for the one pull of `name`, starting it if nobody has."""
        pull = self._pulls.get(name)
        if pull is None:
            pull = self._pulls[name] = self._start(name)
        pull.waiting += 1
        if progress is not None:
            pull.listeners.append(progress)
        try:
            await asyncio.shield(pull.task)
        finally:
            pull.waiting -= 1
            if progress is not None:
                pull.listeners.remove(progress)
            if not pull.waiting and not pull.task.done():
                self._forget(name, pull)
                pull.task.cancel()
                await asyncio.wait([pull.task])

    def _start(self, name: str) -> _Pull:
        listeners: list[Progress] = []

        def tell(done_bytes: int, total_bytes: int) -> None:
            for listener in listeners:
                listener(done_bytes, total_bytes)

        async def pull_image() -> None:
            async with self._fetching:
                await self._run(self._request(Do.ENSURE, subject=name), tell)
            _log.info("image fetched", extra={"image": name})

        pull = _Pull(task=asyncio.create_task(pull_image(), name=f"pull {name}"), listeners=listeners)
        pull.task.add_done_callback(lambda _: self._forget(name, pull))
        return pull

    def _forget(self, name: str, pull: _Pull) -> None:
        if self._pulls.get(name) is pull:
            del self._pulls[name]

    def _request(
        self,
        do: Do,
        *,
        subject: str = "",
        now_wall_s: float = 0.0,
        unused_s: float = UNUSED_S,
        disk_ratio_max: float = 1.0,
    ) -> Request:
        return replace(
            self._template,
            do=do,
            subject=subject,
            in_use=tuple(sorted(self._kept())),
            now_wall_s=now_wall_s,
            unused_s=unused_s,
            disk_ratio_max=disk_ratio_max,
        )

    async def _run(self, request: Request, progress: Progress | None) -> Answer:
        """Have a child carry out `request`; it is gone when this returns or is cancelled."""
        child = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "oakestra.runtime.images"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_ANSWER_BYTES_MAX,
            start_new_session=True,  # a terminal's interrupt is for the agent, which then closes standard input
        )
        try:
            return await _converse(child, request, progress)
        finally:
            with contextlib.suppress(ProcessLookupError):
                child.kill()
            await child.wait()


async def _converse(child: asyncio.subprocess.Process, request: Request, progress: Progress | None) -> Answer:
    assert child.stdin is not None
    assert child.stdout is not None
    child.stdin.write(msgspec.json.encode(request) + b"\n")
    async for line in child.stdout:
        answer = msgspec.json.decode(line, type=Answer)
        if answer.progress is not None and progress is not None:
            progress(*answer.progress)
        if answer.note:
            _log.warning("image", extra={"note": answer.note})
        if answer.unavailable:
            raise Unavailable(answer.unavailable)
        if answer.rejected:
            raise Rejected(answer.rejected)
        if answer.done is not None:
            return answer
    status = await child.wait()
    raise Unavailable(
        f"the process that {_WORDS[request.do]} {request.subject or 'unused images'} ended with status {status}; "
        "if it says no more in the worker's log, the machine was short of memory"
    )


_WORDS = {Do.ENSURE: "fetches", Do.LOAD: "loads", Do.REMOVE: "removes", Do.COLLECT: "removes"}


def _topmost(layers: Sequence[str]) -> Sequence[str]:
    """Leave out a layer that comes again further up: it changes nothing, and overlayfs refuses it (ELOOP)."""
    return tuple(reversed(dict.fromkeys(reversed(layers))))


def _info(name: str, image: ImageRecord) -> ImageInfo:
    return ImageInfo(
        reference=name,
        digest=image.digest,
        size_bytes=image.size_bytes,
        architecture=image.architecture,
        created_wall_s=image.created_wall_s,
    )
