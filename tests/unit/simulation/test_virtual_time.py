"""The loop of simulations: time jumps, order is kept, and what can never end is told."""

from __future__ import annotations

import asyncio
from contextvars import Context, ContextVar

import pytest

from oakestra.simulation import virtual_time
from oakestra.simulation.virtual_time import Spinning, Stalled


def test_an_hour_passes_at_once() -> None:
    async def story() -> float:
        await asyncio.sleep(3600)
        return asyncio.get_running_loop().time()

    assert virtual_time.run(story()) == 3600


def test_what_is_due_at_one_moment_happens_in_the_order_it_was_asked_for() -> None:
    async def story() -> list[str]:
        happened: list[str] = []
        loop = asyncio.get_running_loop()
        for name in ("a", "b", "c"):
            loop.call_later(1.0, happened.append, name)
        loop.call_later(0.5, happened.append, "first")
        loop.call_soon(happened.append, "now")
        await asyncio.sleep(2.0)
        return happened

    assert virtual_time.run(story()) == ["now", "first", "a", "b", "c"]


def test_what_was_cancelled_does_not_happen_and_takes_no_time() -> None:
    async def story() -> tuple[list[str], float]:
        happened: list[str] = []
        loop = asyncio.get_running_loop()
        loop.call_later(1.0, happened.append, "cancelled").cancel()
        soon = loop.call_soon(happened.append, "cancelled, too")
        soon.cancel()
        async with asyncio.timeout(100):
            await asyncio.sleep(5.0)
        return happened, loop.time()

    assert virtual_time.run(story()) == ([], 5.0)


def test_what_is_due_is_not_kept_waiting_by_what_is_asked_for_again_and_again() -> None:
    async def story() -> bool:
        loop = asyncio.get_running_loop()
        over = asyncio.Event()

        def again() -> None:
            if not over.is_set():
                loop.call_soon(again)

        again()
        loop.call_later(0.0, over.set)
        await over.wait()
        return True

    assert virtual_time.run(story())


def test_what_happens_for_nobody_is_not_counted_as_somebodys() -> None:
    """A context in which nothing is set is false, and yet it is the one to run in."""

    async def story() -> list[str]:
        owner = ContextVar("owner", default="nobody")
        owners: list[str] = []
        owner.set("somebody")
        loop, empty = asyncio.get_running_loop(), Context()
        loop.call_soon(lambda: owners.append(owner.get()), context=empty)
        loop.call_later(1.0, lambda: owners.append(owner.get()))
        loop.call_at(2.0, lambda: owners.append(owner.get()), context=empty)
        await asyncio.sleep(3.0)
        return owners

    assert virtual_time.run(story()) == ["nobody", "somebody", "nobody"]


def test_time_never_goes_back() -> None:
    async def story() -> list[float]:
        loop = asyncio.get_running_loop()
        await asyncio.sleep(10.0)
        seen: list[float] = []
        loop.call_at(3.0, lambda: seen.append(loop.time()))
        await asyncio.sleep(1.0)
        return [*seen, loop.time()]

    assert virtual_time.run(story()) == [10.0, 11.0]


def test_a_task_that_waits_for_nothing_that_can_come_is_told() -> None:
    with pytest.raises(Stalled):
        virtual_time.run(asyncio.Event().wait())


def test_tasks_that_wake_each_other_for_ever_are_told() -> None:
    async def story() -> None:
        loop = asyncio.get_running_loop()

        def again() -> None:
            loop.call_soon(again)

        again()
        await asyncio.sleep(1.0)

    with pytest.raises(Spinning):
        virtual_time.run(story())


def test_a_callback_that_raises_is_reported_and_the_rest_goes_on() -> None:
    async def story() -> list[str]:
        reported: list[str] = []
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda _, context: reported.append(str(context["exception"])))
        loop.call_soon(int, "no number")
        await asyncio.sleep(1.0)
        return reported

    assert virtual_time.run(story()) == ["invalid literal for int() with base 10: 'no number'"]


def test_what_a_callback_raised_is_told_with_what_it_was(caplog: pytest.LogCaptureFixture) -> None:
    def bad() -> None:
        raise ValueError("for a test")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(bad)
        await asyncio.sleep(1.0)

    virtual_time.run(main())
    (told,) = caplog.records
    assert told.getMessage().startswith("exception in <function")
    assert "bad" in told.getMessage().splitlines()[1]
