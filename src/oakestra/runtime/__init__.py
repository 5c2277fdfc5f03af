"""Instances on this machine, behind one protocol; one sibling module per way of running them.

Knows nothing of clusters, services or slots: labels are opaque, names are given. An instance is known by
`number`, a small integer that its worker persists and never reuses while anything of it is left.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from oakestra.model.container import ContainerSeen
from oakestra.model.service import Resources
from oakestra.model.terminal import Terminal, TerminalSize


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerSpec:
    """Everything needed to make one container. The runtime returns `labels` unchanged from `observe`."""

    number: int
    labels: Mapping[str, str]
    image: str
    """An image reference, `oci-archive:/absolute/path` or an http(s) URL; already present, see `ensure_image`."""
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    resources: Resources = field(default_factory=Resources)
    privileged: bool = False
    hostname: str = ""
    netns_path: str = ""
    """A network namespace to join; empty: one of its own with loopback only."""
    resolv_conf: str = ""
    """Content of /etc/resolv.conf; empty: the image's."""
    hosts: str = ""
    """Content of /etc/hosts; empty: localhost and the hostname."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ContainerUsage:
    """Counters of a running container."""

    cpu_ns: int = 0
    memory_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageInfo:
    """An image present on this machine."""

    reference: str
    digest: str
    size_bytes: int
    architecture: str
    created_wall_s: float = 0.0


class OutputStream(Enum):
    """Where a command writes."""

    STDOUT = "stdout"
    STDERR = "stderr"


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandOutput:
    """Something that a command wrote."""

    stream: OutputStream
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandEnded:
    """How a command ended; nothing follows."""

    exit_code: int
    """128 + signal when killed; `TIMED_OUT` when it took too long."""
    reason: str = ""
    """Why it was ended before its time, in a sentence for people; empty if it ended by itself."""


CommandInput = bytes | TerminalSize
"""What is entered into a command that runs: something to read, or that its terminal has another size now."""

TIMED_OUT = 124
"""As timeout(1) has it."""
KILLED = 137
OUTPUT_BYTES_MAX = 1 << 30

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all or 0) while an image is fetched."""


class Runtime(Protocol):
    """Runs instances on this machine. Every call is idempotent.

    Calls raise `model.errors.Unavailable` (may work later: disk full, registry away) or
    `model.errors.Rejected` (will not: no such image, bad archive, wrong platform), each with a sentence that
    a user can act on. Calls for different numbers may overlap; calls for one number never do.
    """

    async def prepare(self) -> None:
        """Make the directories and clear what an earlier boot of the machine left (mounts, pids)."""

    async def observe(self) -> Sequence[ContainerSeen]:
        """Return every container that carries this worker's id. Cheap: a few file reads each, no child process."""

    async def ensure_image(self, reference: str, *, progress: Progress | None = None) -> None:
        """Have the image unpacked here; return at once if it is. Concurrent calls for one image share the work."""

    async def load_image(self, path: str, *, progress: Progress | None = None) -> ImageInfo:
        """Take an image from an OCI or Docker archive file (tar, optionally gzipped)."""

    async def images(self) -> Sequence[ImageInfo]:
        """Return the images present, by reference."""

    async def remove_image(self, reference: str) -> None:
        """Forget an image; its layers go when no other image or container uses them."""

    async def create(self, spec: ContainerSpec) -> None:
        """Make the container without starting its process. Does nothing if it is already there in CREATED or later."""

    async def start(self, number: int) -> None:
        """Start the process of a CREATED container. Does nothing if it runs or ran already."""

    async def stop(self, number: int, *, grace_s: float) -> None:
        """End the process: SIGTERM, after `grace_s` SIGKILL; return when it is gone. No-op when it does not run."""

    async def delete(self, number: int) -> None:
        """Remove everything of the container but its log: process, cgroup, mounts, files."""

    async def forget_log(self, number: int) -> None:
        """Remove the log of a container that was deleted for good."""

    async def usage(self) -> Mapping[int, ContainerUsage]:
        """Return the counters of every running container."""

    def logs(self, number: int, *, tail_bytes: int | None, follow: bool) -> AsyncIterator[bytes]:
        """Yield whole lines of stdout and stderr, oldest first; with `follow` wait for more until it is removed.

        The log outlives restarts of the instance. `tail_bytes`: only about the last so many bytes.
        """

    def exec(
        self,
        number: int,
        command: Sequence[str],
        *,
        timeout_s: float,
        output_bytes_max: int = OUTPUT_BYTES_MAX,
        entered: AsyncIterator[CommandInput] | None = None,
        terminal: Terminal | None = None,
    ) -> AsyncGenerator[CommandOutput | CommandEnded, None]:
        """Run a command in a RUNNING container, with the user, variables, directory and rights of its process.

        Yields an empty output as soon as it runs, then what it writes, only as fast as that is taken, then how it
        ended. Nothing that it started outlives it: all of it is killed when it ends, after `timeout_s`, once it wrote
        more than `output_bytes_max`, and when the iterator is closed. What others hold of its output open is not waited
        for; `Unavailable` if that keeps its exit code from us. May overlap with every other call for that number.

        It reads what is `entered`, which is taken only as fast as it reads; what it no longer reads is dropped. Without,
        there is nothing to read. With a `terminal` it runs at one, of that size at first: everything it writes is
        standard output, and the end of what is entered is typed as Ctrl-D. `entered` is left alone once it ended.
        """

    def on_change(self, wake: Callable[[], None]) -> None:
        """Call `wake` soon after any container's process ends."""
