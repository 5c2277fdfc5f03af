"""The child process that does the heavy work: `python -m oakestra.runtime.images`.

Standard input: one line of JSON, the `Request`; then it stays open for as long as the agent wants the result, and
this process ends when it is closed, as it is when the agent dies. Standard output: lines of JSON, each an `Answer`.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import msgspec

from oakestra.control import failpoints
from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images.garbage import Limits, collect, sweep
from oakestra.runtime.images.install import Installation, Progress
from oakestra.runtime.images.layout import Layout, Reserve
from oakestra.runtime.images.protocol import Answer, Do, Request
from oakestra.runtime.images.reference import ARCHIVE_PREFIX, ArchiveFile, ArchiveUrl, RegistryImage, parse
from oakestra.runtime.images.sources.archive import Archive
from oakestra.runtime.images.sources.registry import Registry, read_credentials
from oakestra.runtime.images.sources.web import Web, download

_ABANDONED = 3
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}
_INPUT_BYTES = 64 * 1024
_NICENESS = 10
_MEMORY_SHORTAGE_SCORE = "500"


def main() -> None:
    """Carry out the one request on standard input."""
    failpoints.heed_environment()
    request = _read_request()
    threading.Thread(target=_end_with_agent, name="agent-watch", daemon=True).start()
    _settle_in()
    output = _Output()
    try:
        answer = _carry_out(request, output)
    except Unavailable as error:
        answer = Answer(unavailable=_readable(error.message))
    except Rejected as error:
        answer = Answer(rejected=_readable(error.message))
    except OSError as error:
        answer = Answer(unavailable=_readable(_machine_failed(error, request)))
    output.say(answer)


def _carry_out(request: Request, output: _Output) -> Answer:
    layout = Layout(Path(request.root))
    layout.prepare()
    with layout.work_directory() as work:
        match request.do:
            case Do.ENSURE:
                return _ensure(request, layout, work, output)
            case Do.LOAD:
                return _load(request, layout, work, output)
            case Do.REMOVE:
                layout.drop_name(parse(request.subject).name)
                return Answer(done="", freed_bytes=sweep(layout, work, in_use=request.in_use))
            case Do.COLLECT:
                limits = Limits(unused_s=request.unused_s, disk_ratio_max=request.disk_ratio_max)
                collected = collect(
                    layout, work, limits, in_use=request.in_use, now_wall_s=request.now_wall_s
                )
                return Answer(done="", removed=collected.names, freed_bytes=collected.freed_bytes)


def _ensure(request: Request, layout: Layout, work: Path, output: _Output) -> Answer:
    installation = _installation(layout, work, output)
    web = Web(insecure_hosts=request.insecure_registries, pause=time.sleep)
    reference = parse(request.subject)
    match reference:
        case RegistryImage():
            credentials = read_credentials(Path(request.credentials_file)) if request.credentials_file else {}
            registry = Registry(reference, web, credentials)
            installation.install(registry.image(request.architecture), registry)
        case ArchiveFile(path=path):
            allowed = _below_image_dirs(Path(path), request.image_dirs, name=reference.name)
            _install_only_image(_archive(allowed, path, installation), reference.name, request, installation)
        case ArchiveUrl(url=url):
            fetched = work / "download"
            download(web, url, fetched, report=output.progress, on_written=installation.reserve.on_written)
            _install_only_image(_archive(fetched, url, installation), reference.name, request, installation)
    return Answer(done=reference.name)


def _installation(layout: Layout, work: Path, output: _Output) -> Installation:
    return Installation(layout, work, Progress(output.progress), Reserve(work), output.note)


def _archive(path: Path, what: str, installation: Installation) -> Archive:
    return Archive(path, work=installation.work, what=what, on_written=installation.reserve.on_written)


def _install_only_image(archive: Archive, name: str, request: Request, installation: Installation) -> None:
    """Install the image of an archive under the archive's name, whatever names it has inside."""
    images = archive.images(architecture=request.architecture, otherwise=name, loaded=False)
    if len(images) != 1:
        names = ", ".join(name for image in images for name in image.names)
        raise Rejected(
            f"{name} holds {len(images)} images ({names}), and the service cannot say which one it wants; "
            "save each in an archive of its own"
        )
    installation.install(replace(images[0], names=(name,)), archive)


def _load(request: Request, layout: Layout, work: Path, output: _Output) -> Answer:
    installation = _installation(layout, work, output)
    archive = _archive(Path(request.subject), request.subject, installation)
    otherwise = f"{ARCHIVE_PREFIX}{request.subject}"
    images = archive.images(architecture=request.architecture, otherwise=otherwise, loaded=True)
    for image in images:
        installation.install(image, archive)
    return Answer(done=images[0].names[0])


def _below_image_dirs(path: Path, image_dirs: tuple[str, ...], *, name: str) -> Path:
    """Return where `path` really is. Raises `Rejected` unless that is below a directory meant for images."""
    real = path.resolve()
    if any(real.is_relative_to(Path(allowed).resolve()) for allowed in image_dirs):
        return real
    where = " or ".join(image_dirs) or "no directory, because the worker's image_dirs is empty"
    raise Rejected(f"{name} may not be read: on this worker image archives are taken from {where}")


def _machine_failed(error: OSError, request: Request) -> str:
    """Say what is wrong with this machine, and what to do."""
    subject = request.subject or "collecting images"
    if error.errno in _DISK_FULL:
        return (
            f"{request.root} is full: {subject} does not fit, and what was unpacked of it is removed; "
            "make room there or remove images (oak worker image remove)"
        )
    if error.errno in {errno.EPERM, errno.EACCES} and os.geteuid() != 0:
        return f"{subject}: images are unpacked with root rights, for the owners of their files ({error}); run the worker as root"
    return f"{subject} could not be stored on this machine: {error}"


def _read_request() -> Request:
    received = b""
    while not received.endswith(b"\n"):
        chunk = os.read(0, _INPUT_BYTES)
        if not chunk:
            sys.exit("this program is started by the worker; to load an image use: oak worker image load")
        received += chunk
    return msgspec.json.decode(received, type=Request)


def _end_with_agent() -> None:
    while os.read(0, _INPUT_BYTES):
        pass
    os._exit(_ABANDONED)  # what was begun lies in a directory that the next child sweeps


def _settle_in() -> None:
    """Be modest: leave the processor to what runs already, and be the first to go when memory is short."""
    os.umask(0o022)  # the agent's may be stricter than directories within images are meant to be
    os.nice(_NICENESS)
    Path("/proc/self/oom_score_adj").write_text(_MEMORY_SHORTAGE_SCORE)


class _Output:
    """Answers on standard output, from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()

    def progress(self, done_bytes: int, total_bytes: int) -> None:
        self.say(Answer(progress=(done_bytes, total_bytes)))

    def note(self, sentence: str) -> None:
        self.say(Answer(note=_readable(sentence)))

    def say(self, answer: Answer) -> None:
        line = msgspec.json.encode(answer) + b"\n"
        with self._lock:
            while line:
                line = line[os.write(1, line) :]


def _readable(sentence: str) -> str:
    """Return the sentence without what a stranger's file name could smuggle into a log."""
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape", "surrogatepass").decode()
        for character in sentence
    )


if __name__ == "__main__":
    main()
