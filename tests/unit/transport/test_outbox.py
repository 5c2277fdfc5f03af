"""Newest wins, calls keep their order, pages come together again or not at all."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.errors import Invalid
from oakestra.transport import Channel
from oakestra.transport.outbox import (
    CALL_BYTES_MAX,
    CALLS_MAX,
    JOINED_BYTES_MAX,
    PAGE_BYTES,
    Inbox,
    Outbox,
)


def outbox() -> Outbox:
    return Outbox(itertools.count())


def frames(box: Outbox) -> Iterator[tuple[Channel, bytes]]:
    while (frame := box.take()) is not None:
        yield frame


def large(seed: int) -> bytes:
    return Random(seed).randbytes(3 * PAGE_BYTES + 5)


def test_of_what_waits_the_newest_of_each_kind_is_sent() -> None:
    box = outbox()
    for number in range(5):
        for channel in (Channel.SET, Channel.BEAT, Channel.TELEMETRY):
            box.put(channel, b"%d" % number)
    assert sorted(frames(box)) == [
        (Channel.BEAT, b"\x004"),
        (Channel.SET, b"\x004"),
        (Channel.TELEMETRY, b"\x004"),
    ]
    assert not box


def test_calls_keep_their_order_and_the_oldest_are_dropped() -> None:
    box = outbox()
    for number in range(CALLS_MAX + 3):
        box.put(Channel.CALL, b"%d" % number)
    assert [frame for _, frame in frames(box)] == [b"\x00%d" % number for number in range(3, CALLS_MAX + 3)]


def test_a_beat_does_not_wait_for_a_large_set_nor_a_set_for_many_calls() -> None:
    box = outbox()
    box.put(Channel.SET, large(1))
    for _ in range(100):
        box.put(Channel.CALL, b"piece")
    kinds = [box.take(), box.take(), box.take()]
    box.put(Channel.BEAT, b"alive")
    kinds += [box.take(), box.take(), box.take()]
    channels = [frame[0] for frame in kinds if frame is not None]
    assert Channel.BEAT in channels[3:]
    assert channels.count(Channel.SET) >= 2


def test_a_set_that_began_is_finished_before_a_newer_one_begins() -> None:
    box, inbox = outbox(), Inbox()
    box.put(Channel.SET, large(1))
    arrived = []
    for seed in range(2, 20):
        frame = box.take()
        assert frame is not None
        arrived.append(inbox.take(*frame))
        box.put(Channel.SET, large(seed))
    whole = [payload for payload in arrived if payload is not None]
    assert len(whole) == 4, "sets that change faster than they travel never got through"
    assert whole[0] == large(1)


@given(st.lists(st.booleans(), min_size=12, max_size=12))
def test_a_set_with_a_page_lost_is_dropped_and_never_mixed_with_another(kept: list[bool]) -> None:
    inbox = Inbox()
    numbers = itertools.count()
    sets = [large(seed) for seed in range(3)]
    arrived = []
    fates = iter(kept)
    for payload in sets:
        box = Outbox(numbers)
        box.put(Channel.SET, payload)
        arrived += [inbox.take(*frame) for frame in frames(box) if next(fates)]
    complete = [payload for index, payload in enumerate(sets) if all(kept[index * 4 : index * 4 + 4])]
    assert [payload for payload in arrived if payload is not None] == complete


def test_what_cannot_travel_is_refused() -> None:
    with pytest.raises(Invalid, match="too many"):
        outbox().put(Channel.CALL, bytes(CALL_BYTES_MAX + 1))
    with pytest.raises(Invalid, match="too many"):
        outbox().put(Channel.SET, bytes(JOINED_BYTES_MAX + 1))


@given(st.binary(max_size=40))
def test_any_bytes_are_a_frame_or_invalid(frame: bytes) -> None:
    inbox = Inbox()
    try:
        inbox.take(Channel.SET, frame)
    except Invalid:
        return


def test_a_set_that_claims_to_be_endless_is_refused() -> None:
    with pytest.raises(Invalid, match="cannot be"):
        Inbox().take(Channel.SET, b"\x01" + bytes(4) + b"\x00\x00\xff\xff" + b"page")
