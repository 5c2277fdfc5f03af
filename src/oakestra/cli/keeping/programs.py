"""Say what an installation should run: one program for each of its tiers."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from oakestra.cli import tiers
from oakestra.control.installation import Installation
from oakestra.control.supervisor import Program

TIERS = ("root", "cluster", "worker")
"""In the order in which they start; each needs the one before."""
FRUGAL = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "1048576", "MALLOC_TRIM_THRESHOLD_": "1048576"}
"""glibc gives memory back: without these a root keeps the 19 MiB of every password hash."""


def programs(
    home: Installation,
    flags: Mapping[str, Mapping[str, Any]],
    *,
    python: str,
    environment: Mapping[str, str],
    revision: str,
) -> tuple[Program, ...]:
    """Return a program for each tier in `flags`, in the order in which they start. Pure.

    Of the environment a tier is given what is Oakestra's.
    """
    kept = FRUGAL | {name: value for name, value in environment.items() if name.startswith("OAKESTRA_")}
    return tuple(
        Program(
            name=tier,
            command=(python, "-m", "oakestra", *tiers.command_words(tier, flags[tier])),
            log=str(home.logs / f"{tier}.log"),
            environment=tuple(sorted(kept.items())),
            revision=revision,
        )
        for tier in TIERS
        if tier in flags
    )


def code_digest() -> str:
    """Return a digest of our own code: what was changed must be restarted to take effect."""
    package = Path(__file__).parents[2]
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted(package.rglob("*.py")):
        digest.update(f"{path.relative_to(package)} {path.stat().st_mtime_ns}\n".encode())
    return digest.hexdigest()
