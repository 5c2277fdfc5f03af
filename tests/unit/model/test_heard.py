"""What is news to somebody who listens to several tiers, of which any may lose its records or its clock jump."""

from __future__ import annotations

import pytest

from oakestra.model.event import Heard


def test_news_are_told_from_what_was_heard_by_records_and_number() -> None:
    listener = Heard()
    told = [("east", 1, 1), ("west", 1, 1), ("east", 1, 2), ("east", 2, 1), ("east", 1, 3)]
    assert [listener.hear(*one) for one in told] == [True] * 5
    assert [listener.hear(*one) for one in told] == [False] * 5


def test_a_listener_remembers_a_bounded_number_of_records(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("oakestra.model.event.STORES_MAX", 2)
    listener = Heard()
    for one in (("east", 1, 1), ("west", 1, 1), ("east", 1, 2), ("east", 2, 1)):
        listener.hear(*one)
    assert not listener.hear("east", 1, 2)
    assert listener.hear("west", 1, 1), "what was heard longest ago is forgotten"
