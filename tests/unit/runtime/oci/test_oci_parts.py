"""The small pure parts: users of an image, cgroup mounts, signals by name, what runc's words mean."""

from __future__ import annotations

import errno
import os
import signal
from pathlib import Path

import pytest

from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.oci.failures import explain_runc, explained
from oakestra.runtime.oci.linux.cgroups import Cgroups, Hierarchies, Limits, hierarchies
from oakestra.runtime.oci.rootfs import User, read_inside, resolve_user
from oakestra.runtime.oci.runtime import stop_signal

PASSWD = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/:\n\n#comment\nbroken:x\nhuge:x:99999999999:1::/:\n7:x:70:71::/:\n"
GROUP = "root:x:0:root\napp:x:1001:\nextra:x:2000:other,app\nmore:x:2001:app\n"

V1 = """\
22 27 0:21 / /proc rw,relatime - proc proc rw
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct
35 31 0:32 / /sys/fs/cgroup/memory rw,relatime shared:5 - cgroup cgroup rw,memory
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
"""
V2 = "41 31 0:38 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.mark.parametrize(
    ("wanted", "user"),
    [
        ("", User()),
        ("0", User()),
        ("app", User(uid=1000, gid=1001, groups=(2000, 2001))),
        ("1000", User(uid=1000, gid=1001, groups=(2000, 2001))),
        ("app:extra", User(uid=1000, gid=2000)),
        ("app:77", User(uid=1000, gid=77)),
        ("55", User(uid=55)),
        ("55:66", User(uid=55, gid=66)),
        (":extra", User(uid=0, gid=2000)),
        ("7", User(uid=70, gid=71)),
    ],
)
def test_users_are_the_images_own(wanted: str, user: User) -> None:
    assert resolve_user(wanted, passwd=PASSWD, group=GROUP) == user


@pytest.mark.parametrize("wanted", ["nobody", "app:nobody", "-1", "99999999999", "huge"])
def test_unknown_users_are_refused(wanted: str) -> None:
    with pytest.raises(Rejected, match="the image is to run as"):
        resolve_user(wanted, passwd=PASSWD, group=GROUP)


def test_a_path_inside_an_image_stays_inside(tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "secret"
    outside.write_text("secret")
    (root / "etc/deep").mkdir(parents=True)
    (root / "real").write_text("real")
    links = {
        "etc/absolute": "/real",
        "etc/relative": "../real",
        "etc/up": "../../../../../real",
        "etc/escape": "../../secret",
        "etc/escape2": f"{outside}",
        "etc/circle": "circle2",
        "etc/circle2": "circle",
        "etc/directory": "/etc/deep/../..",
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "etc/fifo")
    for name in ("etc/absolute", "etc/relative", "etc/up", "/real", "etc/directory/real"):
        assert read_inside(root, name) == "real", name
    for name in (
        "etc/escape",
        "etc/escape2",
        "../secret",
        "etc/circle",
        "etc/deep",
        "etc/fifo",
        "real/x",
        "no",
    ):
        assert read_inside(root, name) == "", name


def test_cgroup_mounts() -> None:
    v1 = hierarchies(V1)
    assert v1.controlled_by("cpuacct") == (Path("/sys/fs/cgroup/cpu,cpuacct"), False)
    assert v1.controlled_by("pids") is None
    assert v1.unified is None
    assert v1.mount_points == (
        Path("/sys/fs/cgroup/cpu,cpuacct"),
        Path("/sys/fs/cgroup/memory"),
        Path("/sys/fs/cgroup/systemd"),
    )
    both = hierarchies(V1 + V2)
    assert both.controlled_by("memory") == (Path("/sys/fs/cgroup/memory"), False)
    assert both.unified == Path("/sys/fs/cgroup")


def test_cgroup_v2_says_what_it_controls(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory\n")
    v2 = Hierarchies(unified=tmp_path)
    assert v2.controlled_by("memory") == (tmp_path, True)
    assert v2.controlled_by("pids") is None
    assert v2.counts_swap


def test_counters_and_limits_of_cgroup_v2(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    group = tmp_path / "oak/7"
    group.mkdir(parents=True)
    files = {
        "cpu.stat": "usage_usec 1500\nuser_usec 1000\n",
        "cpu.weight": "39\n",
        "memory.current": "5000\n",
        "memory.stat": "anon 1\ninactive_file 2000\n",
        "memory.events": "oom 3\noom_kill 2\n",
        "memory.max": "4096000\n",
        "memory.swap.max": "0\n",
        "pids.max": "max\n",
        "cgroup.procs": "12\n34\n",
    }
    for name, text in files.items():
        (group / name).write_text(text)
    cgroups = Cgroups("oak", Hierarchies(unified=tmp_path))
    assert cgroups.path(7) == "/oak/7"
    assert (cgroups.cpu_ns(7), cgroups.memory_bytes(7), cgroups.out_of_memory_kills(7)) == (
        1_500_000,
        3000,
        2,
    )
    assert cgroups.pids(7) == {12, 34}
    assert cgroups.limits(7) == Limits(
        memory_bytes=4096000, memory_and_swap_bytes=4096000, cpu_weight=39, pids=0
    )
    assert (cgroups.cpu_ns(8), cgroups.memory_bytes(8), cgroups.out_of_memory_kills(8)) == (0, 0, 0)
    cgroups.remove(8)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("", signal.SIGTERM),
        ("SIGQUIT", signal.SIGQUIT),
        ("usr1", signal.SIGUSR1),
        ("9", signal.SIGKILL),
        ("SIGRTMIN+3", signal.SIGRTMIN + 3),
        ("SIGNONSENSE", signal.SIGTERM),
        ("999", signal.SIGTERM),
        ("SIGRTMIN+9999", signal.SIGTERM),
        ("SIG_DFL", signal.SIGTERM),
    ],
)
def test_signals_by_name(name: str, number: int) -> None:
    assert stop_signal(name) == number


def test_system_calls_that_fail_are_explained() -> None:
    with (
        pytest.raises(Unavailable, match="making it failed: the disk that holds /state is full"),
        explained("making it", Path("/state")),
    ):
        raise OSError(errno.ENOSPC, "No space left on device")
    with (
        pytest.raises(Unavailable, match="making it failed: /state/x: read-only file system"),
        explained("making it", Path("/state")),
    ):
        raise OSError(errno.EROFS, "Read-only file system", "/state/x")


def test_runcs_words_are_kept_when_they_mean_nothing_known() -> None:
    text = 'time="2026-01-01T00:00:00Z" level=error msg="runc create failed: the moon is full"\n'
    found = explain_runc("creating the container", text, directory=Path("/b"))
    assert isinstance(found, Unavailable)
    assert str(found) == "creating the container failed: runc create failed: the moon is full"
    assert "said nothing" in str(explain_runc("starting", "", directory=Path("/b")))
