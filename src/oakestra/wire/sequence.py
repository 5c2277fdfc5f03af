"""Which of two versioned sets to believe, and whether a beat shows that one was missed. Pure."""

from __future__ import annotations

import hashlib

from oakestra.wire.native import Version, encode


def outdated(known: Version | None, arrived: Version) -> bool:
    """Tell whether `arrived` is an older generation of the epoch already known, so that it must be ignored."""
    return known is not None and arrived.epoch == known.epoch and arrived.generation < known.generation


def ahead(known: Version, own: Version) -> bool:
    """Tell whether a peer knows more of this epoch than was ever said, or a later one: the records here are an older copy."""
    return (known.epoch, known.generation) > (own.epoch, own.generation)


def digest(value: object) -> str:
    """Return a digest of a message's content, the same in every process."""
    return hashlib.blake2b(encode(value), digest_size=16).hexdigest()
