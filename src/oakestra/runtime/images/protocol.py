"""What the agent and its child process say to each other: one request in, answers out, each a line of JSON."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Do(Enum):
    """What a child is started for."""

    ENSURE = "ensure"
    LOAD = "load"
    REMOVE = "remove"
    COLLECT = "collect"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """All that a child needs to know."""

    do: Do
    root: str
    architecture: str
    subject: str = ""
    """A reference or, to load, the path of an archive."""
    image_dirs: tuple[str, ...] = ()
    insecure_registries: tuple[str, ...] = ()
    credentials_file: str = ""
    in_use: tuple[str, ...] = ()
    """Digests that must stay."""
    now_wall_s: float = 0.0
    unused_s: float = 0.0
    disk_ratio_max: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Progress or a note, any number of times; then one of the others, and the child ends."""

    progress: tuple[int, int] | None = None
    note: str = ""
    unavailable: str = ""
    rejected: str = ""
    done: str | None = None
    """The name of the image that is here now, if the request was about one."""
    removed: tuple[str, ...] = ()
    freed_bytes: int = 0

    @property
    def is_last(self) -> bool:
        return self.done is not None or bool(self.unavailable or self.rejected)
