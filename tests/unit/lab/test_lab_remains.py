"""What belongs to a lab is told from what does not."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from oakestra.lab import record
from oakestra.lab.remains import is_named, mounts_below
from oakestra.model.errors import Conflict


def test_tiers_and_supervisors_of_a_lab_are_told_by_their_command_lines() -> None:
    worker = ("/venv/bin/python", "-m", "oakestra", "worker", "start", "--installation=lab-a/w1", "--name=w1")
    entering = ("nsenter", "--net=/run/netns/oaklab-a-w1", "--", *worker)
    keeper = ("/venv/bin/python", "-m", "oakestra", "supervise", "--installation=lab-a")
    assert is_named(worker, "lab-a")
    assert is_named(entering, "lab-a/w1")
    assert is_named(keeper, "lab-a")
    assert not is_named(keeper, "lab-a/w1")
    assert not is_named(worker, "lab-a/w")
    assert not is_named(worker, "lab-b")
    assert not is_named(("python", "-m", "oakestra", "supervise", "--installation=lab-ab"), "lab-a")


@pytest.mark.parametrize(
    "stranger",
    [
        ("vi", "--installation=lab-a"),
        ("tail", "-f", "/var/log/oakestra/lab-a/w1/worker.log"),
        ("grep", "-m", "oakestra", "lab-a"),
        (),
    ],
)
def test_a_command_that_only_speaks_of_a_lab_is_left_alone(stranger: tuple[str, ...]) -> None:
    assert not is_named(stranger, "lab-a")


def test_mounts_are_found_innermost_first() -> None:
    mountinfo = """\
21 1 254:0 / / rw - ext4 /dev/vda rw
42 21 254:0 /run/netns /run/netns rw shared:1 - ext4 /dev/vda rw
50 21 0:40 / /var/lib/oakestra/lab-a/w1/worker/instances/1/rootfs rw - overlay overlay rw
51 50 0:41 / /var/lib/oakestra/lab-a/w1/worker/instances/1/rootfs/a\\040b rw - tmpfs tmpfs rw
52 21 0:4 net:[4026532177] /run/oakestra/lab-a/w1/worker/netns/1 rw - nsfs nsfs rw
53 21 0:40 / /var/lib/oakestra/lab-ab/w1/worker/instances/1/rootfs rw - overlay overlay rw
"""
    found = mounts_below(mountinfo, (Path("/var/lib/oakestra/lab-a"), Path("/run/oakestra/lab-a")))
    assert found == (
        "/run/oakestra/lab-a/w1/worker/netns/1",
        "/var/lib/oakestra/lab-a/w1/worker/instances/1/rootfs/a b",
        "/var/lib/oakestra/lab-a/w1/worker/instances/1/rootfs",
    )


def test_one_command_at_a_time_changes_a_lab() -> None:
    """And who waits is served when the first is done."""
    served = threading.Event()

    def second() -> None:
        with record.turn("unittest", wait_s=30.0):
            served.set()

    with record.turn("unittest", wait_s=0.0):
        with record.turn("another", wait_s=0.0), record.turn(wait_s=0.0):
            pass
        with pytest.raises(Conflict, match="the lab unittest"), record.turn("unittest", wait_s=0.0):
            pass
        waiting = threading.Thread(target=second)
        waiting.start()
        assert not served.is_set()
    waiting.join(30.0)
    assert served.is_set()
