"""A command's output arrives as it was sent, however it was cut on the way."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.errors import Invalid
from oakestra.model.terminal import SIDE_MAX, TerminalSize
from oakestra.wire.execution import (
    Answered,
    CommandEnd,
    Entered,
    FrameKind,
    FrameReader,
    Input,
    InputEnd,
    SessionBegun,
    Written,
    decode_input,
    frame,
)

written = st.builds(Written, st.sampled_from([FrameKind.STDOUT, FrameKind.STDERR]), st.binary(max_size=40))
begun = st.builds(SessionBegun, st.text(max_size=20))
sides = st.integers(1, SIDE_MAX)
entered = (
    st.builds(Entered, st.binary(max_size=40))
    | st.builds(TerminalSize, rows=sides, columns=sides)
    | st.just(InputEnd())
)
ends = st.builds(CommandEnd, exit_code=st.none() | st.integers(0, 255), reason=st.text(max_size=20))


@given(st.lists(written | begun, max_size=8), ends, st.lists(st.integers(1, 20), min_size=1))
def test_what_was_sent_arrives(sent: list[Answered], end: CommandEnd, cuts: list[int]) -> None:
    parts: list[Answered] = [*sent, end]
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


@given(st.lists(entered, max_size=8))
def test_what_is_entered_arrives(sent: list[Input]) -> None:
    assert decode_input(b"".join(map(frame, sent))) == tuple(sent)


def test_the_form_of_what_is_entered() -> None:
    """Goal: others may rely on it. Changing this breaks them."""
    assert frame(SessionBegun("abc")) == b'\x04\0\0\0\x11{"session":"abc"}'
    assert frame(Entered(b"\x03")) == b"\x05\0\0\0\x01\x03"
    assert frame(TerminalSize(rows=24, columns=80)) == b'\x06\0\0\0\x18{"rows":24,"columns":80}'
    assert frame(InputEnd()) == b"\x07\0\0\0\0"


@given(st.binary(max_size=60))
def test_any_bytes_are_frames_or_refused(stream: bytes) -> None:
    with contextlib.suppress(Invalid):
        list(FrameReader().feed(stream))
    with contextlib.suppress(Invalid):
        decode_input(stream)
