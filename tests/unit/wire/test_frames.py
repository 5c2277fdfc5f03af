"""A command's output arrives as it was sent, however it was cut on the way."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.errors import Invalid
from oakestra.wire.execution import CommandEnd, FrameKind, FrameReader, Written, frame

written = st.builds(Written, st.sampled_from([FrameKind.STDOUT, FrameKind.STDERR]), st.binary(max_size=40))
ends = st.builds(CommandEnd, exit_code=st.none() | st.integers(0, 255), reason=st.text(max_size=20))


@given(st.lists(written, max_size=8), ends, st.lists(st.integers(1, 20), min_size=1))
def test_what_was_sent_arrives(sent: list[Written], end: CommandEnd, cuts: list[int]) -> None:
    parts: list[Written | CommandEnd] = [*sent, end]
    stream = b"".join(map(frame, parts))
    reader, found = FrameReader(), []
    while stream:
        size = cuts[len(stream) % len(cuts)]
        found += list(reader.feed(stream[:size]))
        stream = stream[size:]
    assert found == [*sent, end]


def test_the_form_of_a_frame() -> None:
    """Goal: others may rely on it. Changing this breaks them."""
    assert frame(Written(FrameKind.STDERR, b"no\n")) == b"\x02\x00\x00\x00\x03no\n"
    content = b'{"exit_code":null,"reason":"cut off"}'
    assert (
        frame(CommandEnd(exit_code=None, reason="cut off")) == b"\x03\x00\x00\x00%c" % len(content) + content
    )


@pytest.mark.parametrize(
    "stream", [b"<html>", b"\x01\xff\xff\xff\xff", b"\x00\x00\x00\x00\x00", b"\x03\x00\x00\x00\x02{}"]
)
def test_what_is_no_frame_is_refused(stream: bytes) -> None:
    with pytest.raises(Invalid):
        list(FrameReader().feed(stream))


@given(st.binary(max_size=60))
def test_any_bytes_are_frames_or_refused(stream: bytes) -> None:
    with contextlib.suppress(Invalid):
        list(FrameReader().feed(stream))
