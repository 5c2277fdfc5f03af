"""When waiting ends, and how it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from oakestra.cli import DONE, FAILED, UNPLACEABLE
from oakestra.cli.client import waiting
from oakestra.cli.client.waiting import Outcome, Progress, Step, Target, judge, steps, wait
from oakestra.cli.show import progress
from oakestra.model.errors import NotFound, Unavailable

WEB = Target(application="a", service="s", number=0, name="shop.web.0")
OLD = Target(application="a", service="s", number=1, name="shop.web.1", gone=True)


def instance(phase: str = "RUNNING", *, number: int = 0, **keys: Any) -> dict[str, Any]:
    return {
        "number": number, "wanted": True, "status": phase, "phase": phase, "ready": phase == "RUNNING",
        "reason": "", "placement_reason": "", "worker": "w1", "cluster": "east", **keys,
    }  # fmt: skip


def service(*instances: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"id": "s", "instances": list(instances)}]


UNPLACED = instance(
    "REQUESTED", status="NoActiveClusterWithCapacity", placement_reason="there is no cluster",
    worker="", cluster="",
)  # fmt: skip


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (instance(), Progress.DONE),
        (instance(ready=False), Progress.UNDER_WAY),
        (instance("PULLING"), Progress.UNDER_WAY),
        (instance("STOPPED"), Progress.UNDER_WAY),
        (instance("COMPLETED"), Progress.DONE),
        (instance("FAILED"), Progress.FAILED),
        (instance(wanted=False), Progress.FAILED),
        (instance("WORKER_ASSIGNED", status="NO_WORKER_CAPACITY"), Progress.STUCK),
        (UNPLACED, Progress.STUCK),
    ],
)
def test_an_instance_is_done_when_it_is_ready(seen: dict[str, Any], expected: Progress) -> None:
    (step,) = steps(service(seen), [WEB])
    assert step.progress is expected


def test_an_instance_that_somebody_else_removed_has_failed() -> None:
    (step,) = steps(service(), [WEB])
    assert (step.progress, step.why) == (Progress.FAILED, "somebody removed it")


def test_what_must_go_is_done_when_it_is_not_there() -> None:
    (step,) = steps(service(), [OLD])
    assert step.progress is Progress.DONE
    (step,) = steps(service(instance(number=1, wanted=False)), [OLD])
    assert (step.progress, step.word, step.where) == (Progress.UNDER_WAY, "LEAVING", "w1 (east)")


def test_together_they_are_under_way_as_long_as_one_is() -> None:
    def of(*found: Progress) -> Progress:
        return judge(Step(target=WEB, word="", progress=one) for one in found)

    assert of() is Progress.DONE
    assert of(Progress.DONE, Progress.DONE) is Progress.DONE
    assert of(Progress.FAILED, Progress.UNDER_WAY, Progress.STUCK) is Progress.UNDER_WAY
    assert of(Progress.STUCK, Progress.FAILED, Progress.DONE) is Progress.FAILED
    assert of(Progress.STUCK, Progress.DONE) is Progress.STUCK


class Story:
    """What root says, one look after the other; the last goes on for ever. Time passes in pauses only."""

    def __init__(self, *looks: dict[str, Any] | Exception) -> None:
        self._looks = self._told(looks)
        self.now_s = 0.0
        self.shown: list[tuple[str, str]] = []

    @staticmethod
    def _told(looks: Sequence[dict[str, Any] | Exception]) -> Iterator[dict[str, Any] | Exception]:
        yield from looks
        while True:
            yield looks[-1]

    def look(self) -> list[dict[str, Any]]:
        seen = next(self._looks)
        if isinstance(seen, Exception):
            raise seen
        return service(seen)

    def pause(self, seconds: float) -> None:
        assert seconds > 0
        self.now_s += seconds

    def show(self, seen: Sequence[Step], trouble: str) -> None:
        self.shown.append((seen[0].word if seen else "", trouble))

    def wait(self, timeout_s: float = 100.0) -> Outcome:
        return wait(
            self.look, [WEB], show=self.show, timeout_s=timeout_s,
            uptime_s=lambda: self.now_s, pause=self.pause,
        )  # fmt: skip


def test_it_ends_as_soon_as_everything_is_ready() -> None:
    story = Story(instance("REQUESTED"), instance("PULLING"), instance())
    outcome = story.wait()
    assert outcome.progress is Progress.DONE
    assert [word for word, _ in story.shown] == ["REQUESTED", "PULLING", "RUNNING"]
    assert outcome.took_s == pytest.approx(2 * waiting.QUICK_S)


def test_it_ends_when_one_has_failed() -> None:
    assert Story(instance("FAILED")).wait().progress is Progress.FAILED


def test_having_no_place_for_a_moment_is_no_reason_to_give_up() -> None:
    story = Story(*[UNPLACED] * 10, instance("PULLING"), *[UNPLACED] * 10, instance())
    assert story.wait().progress is Progress.DONE


def test_having_no_place_for_long_is() -> None:
    outcome = Story(UNPLACED).wait()
    assert outcome.progress is Progress.STUCK
    assert waiting.PATIENCE_S <= outcome.took_s < waiting.PATIENCE_S + 1


def test_it_ends_after_the_time_given_even_if_root_is_away() -> None:
    story = Story(instance("PULLING"), Unavailable("nobody listens"))
    outcome = story.wait(timeout_s=20.0)
    assert (outcome.progress, outcome.trouble) == (Progress.UNDER_WAY, "nobody listens")
    assert outcome.took_s == pytest.approx(20.0)
    assert len(story.shown) < 100, "root is asked less often after a while"


def test_a_root_that_restarts_is_waited_for() -> None:
    assert Story(Unavailable("nobody listens"), instance()).wait().progress is Progress.DONE


def test_other_errors_are_not() -> None:
    with pytest.raises(NotFound):
        Story(NotFound("gone")).wait()


Ended = Callable[[Progress], Outcome]


def ended(*found: Step, progress: Progress = Progress.UNDER_WAY, trouble: str = "") -> Outcome:
    return Outcome(progress=progress, steps=found, took_s=12.3, trouble=trouble)


def step(progress: Progress, **keys: Any) -> Step:
    return Step(**{"target": WEB, "word": "PULLING", "progress": progress, **keys})


def test_exit_codes_tell_failed_from_unplaceable(capsys: pytest.CaptureFixture[str]) -> None:
    stuck, failed, done = step(Progress.STUCK), step(Progress.FAILED), step(Progress.DONE)
    assert progress.code(ended(done, progress=Progress.DONE)) == DONE
    assert capsys.readouterr().err == ""
    assert progress.code(ended(done, stuck, progress=Progress.STUCK)) == UNPLACEABLE
    assert progress.code(ended(stuck, failed, progress=Progress.FAILED)) == FAILED
    assert progress.code(ended(stuck)) == UNPLACEABLE, "also when the time was over first"
    assert progress.code(ended(step(Progress.UNDER_WAY))) == FAILED
    assert progress.code(ended(trouble="root is away")) == FAILED


def test_what_is_not_as_it_should_be_is_told_with_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    gone = step(Progress.UNDER_WAY, target=OLD, word="LEAVING")
    progress.code(
        ended(
            step(Progress.STUCK, why="there is no cluster"),
            step(Progress.FAILED, why="it ended with exit code 1"),
            step(Progress.UNDER_WAY, where="w1 (east)", why="fetching"),
            step(Progress.UNDER_WAY, word="STOPPED", where="w1 (east)", why="ended with exit code 1"),
            gone,
        )
    )
    assert capsys.readouterr().err == (
        "oak: shop.web.0 cannot be placed: there is no cluster; root goes on trying. "
        "See why: oak explain shop.web.0; withdraw it: oak service undeploy shop.web.0\n"
        "oak: shop.web.0 will not run: it ended with exit code 1; its log may say more: oak service logs shop.web.0\n"
        "oak: shop.web.0 is still not ready after 12 s: it is PULLING on w1 (east): fetching. "
        "See how it goes on: oak instance ls --watch\n"
        "oak: shop.web.0 is still not ready after 12 s: it is STOPPED on w1 (east): ended with exit code 1. "
        "See what it wrote: oak service logs shop.web.0\n"
        "oak: shop.web.1 is still not gone after 12 s: it is LEAVING. See how it goes on: oak instance ls --watch\n"
    )


def test_a_thousand_complaints_are_twenty(capsys: pytest.CaptureFixture[str]) -> None:
    progress.code(ended(*[step(Progress.FAILED)] * 1000))
    lines = capsys.readouterr().err.splitlines()
    assert (len(lines), lines[-1]) == (21, "oak: … and 980 more")
