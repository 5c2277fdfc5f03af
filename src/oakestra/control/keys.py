"""A tier's key: the secret that is its identity. Made once, kept in a file that only its owner can read."""

from __future__ import annotations

import os
from pathlib import Path
from random import Random

KEY_BITS = 256


def own_key(path: Path, random: Random) -> str:
    """Return the key kept at `path`; make one first if there is none."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        pass
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.new")
    draft.unlink(missing_ok=True)
    key = f"{random.getrandbits(KEY_BITS):064x}"
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{key}\n")
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    return key
