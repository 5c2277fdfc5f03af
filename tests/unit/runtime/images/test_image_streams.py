"""Streams are decompressed whole or refused, and never differ from their digest unnoticed."""

from __future__ import annotations

import gzip
import hashlib
import io

import pytest

from oakestra.model.errors import Rejected
from oakestra.runtime.images.layer.streams import Checked, Damaged, Stream, decompressed

CONTENT = bytes(range(256)) * 4000


class Dripping:
    """Gives one byte at a time, as a bad line may."""

    def __init__(self, content: bytes) -> None:
        self._content = io.BytesIO(content)

    def read(self, size: int, /) -> bytes:
        return self._content.read(min(size, 1))


def whole(stream: Stream) -> bytes:
    parts = []
    while chunk := stream.read(1000):
        assert len(chunk) <= 1000
        parts.append(chunk)
    return b"".join(parts)


@pytest.mark.parametrize(
    "packed",
    [
        pytest.param(CONTENT, id="plain"),
        pytest.param(gzip.compress(CONTENT), id="gzip"),
        pytest.param(gzip.compress(CONTENT[:9]) + gzip.compress(CONTENT[9:]), id="two members"),
        pytest.param(gzip.compress(b"") + gzip.compress(CONTENT) + bytes(70_000), id="padded with zeros"),
    ],
)
@pytest.mark.parametrize("source", [io.BytesIO, Dripping])
def test_content_comes_out_as_it_went_in(packed: bytes, source: type[Dripping]) -> None:
    assert whole(decompressed(source(packed), what="x")) == CONTENT


@pytest.mark.parametrize(
    ("packed", "says"),
    [
        (gzip.compress(CONTENT)[:-1], "cut off"),
        (gzip.compress(CONTENT)[:40], "cut off"),
        (gzip.compress(CONTENT)[:-6] + b"\0\0\0\0\0\0", "damaged"),
        (gzip.compress(CONTENT) + b"rest", "damaged"),
        (b"\x1f\x8b", "cut off"),
    ],
)
def test_broken_gzip_is_damaged(packed: bytes, says: str) -> None:
    with pytest.raises(Damaged, match=says):
        whole(decompressed(io.BytesIO(packed), what="x"))


def test_zstd_is_refused_with_a_way_out() -> None:
    with pytest.raises(Rejected, match=r"zstd.*compression=gzip"):
        decompressed(io.BytesIO(b"\x28\xb5\x2f\xfd...."), what="x")


def test_a_digest_is_checked_over_the_whole_stream() -> None:
    digest = f"sha256:{hashlib.sha256(CONTENT).hexdigest()}"
    checked = Checked(io.BytesIO(CONTENT), digest, what="x", size=len(CONTENT))
    checked.read(10)
    checked.verify()
    with pytest.raises(Damaged, match="damaged"):
        Checked(io.BytesIO(CONTENT[:-1]), digest, what="x").verify()


def test_more_than_announced_is_not_read() -> None:
    endless = Checked(io.BytesIO(CONTENT), "sha256:" + "0" * 64, what="x", size=10)
    with pytest.raises(Damaged, match="longer than the 10 bytes"):
        endless.read(1000)
