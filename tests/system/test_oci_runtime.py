"""Containers on real runc and conmon: hardened, limited, heard in full, and indifferent to the agent's death."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import aclosing
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

import oci_bench
from oakestra.control import processes as process_table
from oakestra.model.container import ContainerState
from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.ids import WorkerId
from oakestra.model.service import Resources
from oakestra.model.terminal import Terminal, TerminalSize
from oakestra.runtime import TIMED_OUT, CommandEnded, CommandInput, CommandOutput
from oakestra.runtime.oci import OciRuntime, images_in_use
from oci_bench import Bench, ended, output, run, seen, spec, until

pytestmark = pytest.mark.root
T = TypeVar("T")


@pytest.fixture
def bench(need_program: Callable[[str, str], str]) -> Iterator[Bench]:
    for program in ("runc", "conmon", "busybox"):
        need_program(program, "busybox-static" if program == "busybox" else program)
    with oci_bench.bench() as made:
        yield made


def with_agent(bench: Bench, story: Callable[[OciRuntime], Awaitable[T]], **settings: object) -> T:
    """Live a story with one agent, and let the agent go."""

    async def live() -> T:
        try:
            runtime = bench.agent(**settings)
            await runtime.prepare()
            return await story(runtime)
        finally:
            bench.close_agents()

    return asyncio.run(live())


# --- what a container is given ---------------------------------------------------------------------------------------


def test_a_container_can_do_little_to_its_machine(bench: Bench) -> None:
    script = """
        exec 2>&1
        grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status
        touch /sys/x; touch /sys/fs/cgroup/x; echo 1 > /proc/sys/vm/drop_caches
        mount -t tmpfs none /tmp; unshare -U true; unshare -n true; mknod /tmp/disk b 254 0
        head -c 1 /proc/kcore | cat; ls /sys/firmware
        date -s 12:00
        ip -o link
        cat /proc/self/oom_score_adj
        echo end
    """

    async def story(runtime: OciRuntime) -> str:
        return (await run(runtime, spec(1, "sh", "-c", script)))[1]

    said = with_agent(bench, story)
    fields = dict(re.findall(r"^(\w+):\s+(\w+)$", said, re.MULTILINE))
    # CHOWN DAC_OVERRIDE FOWNER FSETID KILL SETGID SETUID SETPCAP NET_BIND_SERVICE SYS_CHROOT, by number
    short_list = sum(1 << number for number in (0, 1, 3, 4, 5, 6, 7, 8, 10, 18))
    assert int(fields["CapEff"], 16) == int(fields["CapBnd"], 16) == short_list
    assert (fields["NoNewPrivs"], fields["Seccomp"]) == ("1", "2")
    assert said.count("Read-only file system") == 3
    assert "mount: permission denied" in said
    assert said.count("Operation not permitted") == 4, said
    assert "eth0" not in said
    assert re.findall(r"^\d+: (\w+)", said, re.MULTILINE) == ["lo"]
    assert said.endswith("200\nend\n")


def test_limits_are_what_the_kernel_holds(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        wanted = Resources(memory_mib=48, vcpus=2)
        await runtime.create(spec(1, resources=wanted))
        limits = bench.cgroups.limits(1)
        assert limits.memory_bytes == 48 << 20
        assert limits.memory_and_swap_bytes in {48 << 20, 0}, "0 where the kernel does not count swap"
        assert limits.pids == 4096
        await runtime.create(spec(2, resources=Resources()))
        assert bench.cgroups.limits(2).memory_bytes == 0
        assert bench.cgroups.limits(1).cpu_weight > bench.cgroups.limits(2).cpu_weight

    with_agent(bench, story)


def test_too_much_memory_ends_a_container_and_is_told(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        hungry = spec(
            1, "sh", "-c", "x=$(head -c 100000000 /dev/zero | tr '\\0' a)", resources=Resources(memory_mib=16)
        )
        found, _ = await run(runtime, hungry)
        assert (found.exit_code, found.out_of_memory) == (137, True)
        found, _ = await run(runtime, spec(2, "sh", "-c", "kill -9 $$"))
        assert not found.out_of_memory

    with_agent(bench, story)


@pytest.mark.parametrize(
    ("user", "shown"),
    [
        ("", "uid=0(root) gid=0(root)"),
        ("app", "uid=1000(app) gid=1001(app) groups=2000(extra)"),
        ("app:extra", "uid=1000(app) gid=2000(extra)"),
        ("4000:5000", "uid=4000 gid=5000"),
    ],
)
def test_the_image_says_who_runs(bench: Bench, user: str, shown: str) -> None:
    bench.images.image = replace(bench.images.image, user=user)

    async def story(runtime: OciRuntime) -> str:
        return (await run(runtime, spec(1, "sh", "-c", "id; grep CapEff /proc/self/status")))[1]

    said = with_agent(bench, story)
    assert said.splitlines()[0].startswith(shown)
    assert ("CapEff:\t0000000000000000" in said) == bool(user), "who is not root has no capabilities"


def test_command_environment_and_files(bench: Bench) -> None:
    """The service's command replaces entrypoint and command; otherwise the image's are one command line."""
    bench.images.image = replace(
        bench.images.image, entrypoint=("echo", "entry"), command=("default",), working_dir="/tmp"
    )

    async def story(runtime: OciRuntime) -> list[str]:
        script = "pwd; hostname; cat /etc/hosts /etc/resolv.conf /etc/hostname; echo $FROM_IMAGE $MINE $PATH"
        of_service = spec(
            2,
            "sh",
            "-c",
            script,
            environment=("MINE=2=3", "FROM_IMAGE=changed"),
            hostname="web",
            resolv_conf="nameserver 10.0.0.1\n",
            hosts="10.0.0.2 other\n",
        )
        return [(await run(runtime, wanted))[1] for wanted in (spec(1), of_service)]

    of_image, of_service = with_agent(bench, story)
    assert of_image == "entry default\n"
    assert of_service == (
        "/tmp\nweb\n10.0.0.2 other\nnameserver 10.0.0.1\nweb\n"
        "changed 2=3 /usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\n"
    )


def test_links_in_an_image_lead_nowhere_outside(bench: Bench) -> None:
    etc = bench.root / "layer" / "etc"
    (etc / "passwd").unlink()
    (etc / "passwd").symlink_to("/../../../../etc/passwd")
    (etc / "resolv.conf").symlink_to("../../../../run/missing/stub.conf")
    (etc / "hosts").symlink_to("/../../../../../../etc/hostname")
    before = Path("/etc/hostname").read_text()

    async def story(runtime: OciRuntime) -> None:
        bench.images.image = replace(bench.images.image, user="daemon")
        with pytest.raises(Rejected, match="no user 'daemon'"):  # the machine has one
            await runtime.create(spec(1))
        bench.images.image = replace(bench.images.image, user="")
        wanted = spec(2, "cat", "/etc/resolv.conf", resolv_conf="nameserver 10.9.9.9\n")
        assert (await run(runtime, wanted))[1] == "nameserver 10.9.9.9\n"

    with_agent(bench, story)
    assert not Path("/run/missing").exists()
    assert Path("/etc/hostname").read_text() == before


def test_privileged_needs_both_sides(bench: Bench) -> None:
    wanted = spec(1, "sh", "-c", "grep -E 'CapEff|Seccomp:' /proc/self/status; touch /sys/x", privileged=True)

    async def refused(runtime: OciRuntime) -> None:
        with pytest.raises(Rejected, match="does not allow"):
            await runtime.create(wanted)
        assert not await runtime.observe()

    async def allowed(runtime: OciRuntime) -> str:
        return (await run(runtime, wanted))[1]

    with_agent(bench, refused)
    said = with_agent(bench, allowed, allow_privileged=True)
    assert "Seccomp:\t0" in said
    assert "Read-only" not in said


# --- what cannot be started --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "sentence"),
    [
        ("nothing", "'nothing' is not in the image"),
        ("/bin/nothing", "'/bin/nothing' does not exist in the image"),
        ("/etc/passwd", "cannot be executed"),
        ("/etc", "cannot be executed"),
    ],
)
def test_a_wrong_command_is_explained(bench: Bench, command: str, sentence: str) -> None:
    async def story(runtime: OciRuntime) -> None:
        with pytest.raises(Rejected, match=sentence):
            await runtime.create(spec(1, command))
        assert not await runtime.observe()

    with_agent(bench, story)
    assert not bench.leftovers()


def test_a_missing_network_and_too_little_memory_are_explained(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        with pytest.raises(Unavailable, match=r"network namespace /run/netns/never .* is gone"):
            await runtime.create(spec(1, netns_path="/run/netns/never"))
        with pytest.raises(Rejected, match="memory is too small"):
            await runtime.create(spec(2, resources=Resources(memory_mib=1)))
        bench.images.image = replace(bench.images.image, command=())
        with pytest.raises(Rejected, match="what to run"):
            await runtime.create(spec(3))

    with_agent(bench, story)
    assert not bench.leftovers()


def test_a_full_disk_is_named(bench: Bench) -> None:
    state = bench.root / "state"
    state.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(state)], check=True)

    async def story(runtime: OciRuntime) -> None:
        ballast = state / "ballast"
        with ballast.open("wb", buffering=0) as file:
            while file.write(b"x" * 4096) == 4096:
                if os.statvfs(state).f_bavail == 0:
                    break
        with pytest.raises(Unavailable, match=f"the disk that holds {state}.* is full"):
            await runtime.create(spec(1))
        ballast.unlink()
        await runtime.create(spec(1))
        await runtime.start(1)
        await runtime.delete(1)

    try:
        with_agent(bench, story)
    finally:
        subprocess.run(["umount", "-l", str(state)], check=True)
    assert not bench.leftovers()


# --- endings -------------------------------------------------------------------------------------------------------------


def test_stopping_asks_first(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        polite = "trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.05; done"
        await runtime.create(spec(1, "sh", "-c", polite))
        await runtime.start(1)
        await until(lambda: _says(runtime, 1, "ready"))
        await runtime.stop(1, grace_s=20.0)
        found = await seen(runtime, 1)
        assert found is not None
        assert (found.state, found.exit_code) == (ContainerState.STOPPED, 5)
        assert await output(runtime, 1) == "ready\nbye\n"

        await runtime.create(spec(2, "sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.05; done"))
        await runtime.start(2)
        await until(lambda: _says(runtime, 2, "ready"))
        await runtime.stop(2, grace_s=0.1)
        assert (await ended(runtime, 2)).exit_code == 137

    with_agent(bench, story)


def test_the_image_chooses_the_signal(bench: Bench) -> None:
    bench.images.image = replace(bench.images.image, stop_signal="SIGUSR1")

    async def story(runtime: OciRuntime) -> None:
        await runtime.create(
            spec(1, "sh", "-c", "trap 'exit 6' USR1; echo ready; while :; do sleep 0.05; done")
        )
        await runtime.start(1)
        await until(lambda: _says(runtime, 1, "ready"))
        await runtime.stop(1, grace_s=20.0)
        assert (await ended(runtime, 1)).exit_code == 6

    with_agent(bench, story)


def test_a_shell_that_does_not_listen_does_not_keep_its_child_from_hearing(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        child = "trap 'echo heard; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
        await runtime.create(spec(1, "sh", "-c", f'sh -c "{child}"; echo after; exit 3'))
        await runtime.start(1)
        await until(lambda: _says(runtime, 1, "ready"))
        await runtime.stop(1, grace_s=20.0)
        lines = (await output(runtime, 1)).splitlines()
        assert [line for line in lines if line != "Terminated"] == [
            "ready",
            "heard",
            "after",
        ]  # its sleep may hear, too

    with_agent(bench, story)


def test_who_cannot_hear_is_not_waited_for(bench: Bench) -> None:
    """Busybox's sleep has no handler, and as the first of its namespace it would not die of SIGTERM."""

    async def story(runtime: OciRuntime) -> None:
        await runtime.create(spec(1, "sleep", "1000"))
        await runtime.start(1)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await runtime.stop(1, grace_s=10 * oci_bench.TIMEOUT_S)
        assert (await ended(runtime, 1)).exit_code == 137

    with_agent(bench, story)


def test_what_is_still_runc_s_own_is_not_asked_to_end(bench: Bench) -> None:
    """Between its start and its first instruction; here it is a program that calls itself as runc does then."""
    deaf = "trap '' TERM; printf 'runc:[2:INIT]' > /proc/self/comm; echo named; sleep 1000; exit"

    async def story(runtime: OciRuntime) -> None:
        async def named() -> bool:
            return "named" in await output(runtime, 1)

        await runtime.create(spec(1, "sh", "-c", deaf))
        await runtime.start(1)
        await until(named)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await runtime.stop(1, grace_s=10 * oci_bench.TIMEOUT_S)
        assert (await ended(runtime, 1)).exit_code == 137

    with_agent(bench, story)


def test_the_exit_code_is_there_when_the_agent_is_woken(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        codes: list[int | None] = []
        numbers = range(1, 9)

        def wake() -> None:
            codes.extend(
                found.exit_code
                for found in (runtime._sight.look(number) for number in numbers)
                if found is not None and found.state is ContainerState.STOPPED
            )

        runtime.on_change(wake)
        for number in numbers:
            await runtime.create(spec(number, "sh", "-c", f"exit {number}"))
            await runtime.start(number)
        await until(lambda: set(codes) >= set(numbers))
        assert None not in codes

    with_agent(bench, story)


def test_an_end_is_told_only_when_it_is_on_record(bench: Bench) -> None:
    """conmon is held up, so that the process is gone long before its exit code is written."""

    async def story(runtime: OciRuntime) -> None:
        woken = asyncio.Event()
        runtime.on_change(woken.set)
        await runtime.create(spec(1, "sleep", "1000"))
        await runtime.start(1)
        found = await seen(runtime, 1)
        conmon = runtime._sight.conmon(1)
        assert found is not None
        assert conmon is not None
        os.kill(conmon, signal.SIGSTOP)
        os.kill(found.pid, signal.SIGKILL)
        await until(lambda: process_table.look(found.pid) is None)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not woken.is_set()
        again = await seen(runtime, 1)
        assert again is not None
        assert again.state is ContainerState.RUNNING
        os.kill(conmon, signal.SIGCONT)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await woken.wait()
        assert (await ended(runtime, 1)).exit_code == 137

    with_agent(bench, story)


def test_a_pid_that_is_somebody_elses_now_is_left_alone(bench: Bench) -> None:
    """The container is gone, and its pid was given to another process before an agent looked again."""
    state = bench.root / f"run/runc/{bench.identity(1)}/state.json"

    async def before(runtime: OciRuntime) -> None:
        await runtime.create(spec(1, "sleep", "1000"))
        await runtime.start(1)
        bench.kill_everything()
        assert (await ended(runtime, 1)).exit_code is None

    async def after(runtime: OciRuntime) -> None:
        found = await seen(runtime, 1)
        assert found is not None
        assert found.state is ContainerState.STOPPED
        await runtime.stop(1, grace_s=1.0)
        await runtime.delete(1)

    with_agent(bench, before)
    with subprocess.Popen(["sleep", "1000"]) as stranger:
        try:
            known = msgspec.json.decode(state.read_bytes())
            state.write_bytes(msgspec.json.encode({**known, "init_process_pid": stranger.pid}))
            with_agent(bench, after)
            assert stranger.poll() is None
        finally:
            stranger.kill()
    assert not bench.leftovers()


def test_a_container_whose_conmon_was_killed_runs_on_and_ends_without_a_code(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        woken = asyncio.Event()
        runtime.on_change(woken.set)
        await runtime.create(spec(1, "sleep", "1000"))
        await runtime.start(1)
        os.kill(int((bench.bundle(1) / "conmon.pid").read_text()), signal.SIGKILL)
        await until(lambda: runtime._sight.conmon(1) is None)
        found = await seen(runtime, 1)
        assert found is not None
        assert found.state is ContainerState.RUNNING
        os.kill(found.pid, signal.SIGKILL)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await woken.wait()
        assert (await ended(runtime, 1)).exit_code is None
        await runtime.delete(1)

    with_agent(bench, story)
    assert not bench.leftovers()


# --- the agent's death ---------------------------------------------------------------------------------------------------


def _agent_that_dies(bench: Bench, number: int, *, up: bool, die_at: int = 0) -> int | None:
    """Run an agent in a process of its own; return how many lines it took, or None if it died on the way."""
    task = oci_bench.Task(
        root=str(bench.root),
        worker=bench.worker,
        cgroup_parent=bench.cgroup_parent,
        number=number,
        up=up,
        die_at=die_at,
        command=("sleep", "1000"),
    )
    done = subprocess.run(
        [sys.executable, oci_bench.__file__, msgspec.json.encode(task).decode()],
        stdout=subprocess.PIPE,
        check=False,
    )
    if die_at:
        assert done.returncode in {-signal.SIGKILL, 0}
    else:
        assert done.returncode == 0
    return int(done.stdout) if done.returncode == 0 else None


def _points(total: int, count: int) -> list[int]:
    """Return line numbers spread over a run, different ones each time the tests run: the lines are what they are."""
    return sorted(
        {
            1 + (total * step) // count + (os.getpid() + step * 7) % max(total // count, 1)
            for step in range(count)
        }
    )


def test_an_agent_may_die_at_any_line_of_making_a_container(bench: Bench) -> None:
    total = _agent_that_dies(bench, 1, up=True)
    assert total is not None
    for number, point in enumerate(_points(total, 24), start=2):
        _agent_that_dies(bench, number, up=True, die_at=point)

    async def story(runtime: OciRuntime) -> None:
        for found in await runtime.observe():
            number = found.number
            if number % 2:
                await runtime.delete(number)
                continue
            running = found.pid if found.state is ContainerState.RUNNING else None
            await runtime.create(spec(number, "sleep", "1000"))
            await runtime.start(number)
            now = await seen(runtime, number)
            assert now is not None
            assert now.state is ContainerState.RUNNING, point
            assert running in {None, now.pid}, "a running container was made anew"
            await runtime.delete(number)

    with_agent(bench, story)
    assert not bench.leftovers()


def test_an_agent_may_die_at_any_line_of_removing_a_container(bench: Bench) -> None:
    async def make(runtime: OciRuntime) -> None:
        for number in range(1, 20):
            await runtime.create(spec(number, "sleep", "1000"))
            await runtime.start(number)

    async def remove(runtime: OciRuntime) -> None:
        for found in await runtime.observe():
            await runtime.delete(found.number)

    with_agent(bench, make)
    total = _agent_that_dies(bench, 1, up=False)
    assert total is not None
    for number, point in enumerate(_points(total, 18), start=2):
        _agent_that_dies(bench, number, up=False, die_at=point)
    with_agent(bench, remove)
    assert not bench.leftovers()


def test_a_creation_that_is_still_under_way_when_its_agent_is_gone_can_be_deleted(bench: Bench) -> None:
    """A conmon whose runc hangs, as on a machine that is short of everything."""
    hanging = bench.root / "runc"
    hanging.write_text("#!/usr/bin/busybox sh\nwhile :; do sleep 0.1; done\n")
    hanging.chmod(0o755)

    async def begin(runtime: OciRuntime) -> None:
        async with asyncio.TaskGroup() as group:
            creation = group.create_task(runtime.create(spec(1)))
            await until((bench.bundle(1) / "conmon.pid").exists)
            await until(lambda: len(bench.processes()) >= 2)
            creation.cancel()

    with_agent(bench, begin, runc=str(hanging))
    assert bench.leftovers()
    with_agent(bench, lambda runtime: runtime.delete(1), runc=str(hanging))
    assert not bench.leftovers()


def test_a_new_agent_adopts_and_hears_the_end(bench: Bench) -> None:
    async def first(runtime: OciRuntime) -> int:
        await runtime.create(spec(1, "sh", "-c", "while [ ! -e /end ]; do sleep 0.02; done; exit 4"))
        await runtime.start(1)
        await runtime.create(spec(2))
        found = await seen(runtime, 1)
        assert found is not None
        return found.pid

    async def second(runtime: OciRuntime) -> None:
        woken = asyncio.Event()
        runtime.on_change(woken.set)
        running, created = await runtime.observe()
        assert (running.pid, running.state, running.labels) == (
            pid,
            ContainerState.RUNNING,
            {"name": "container 1"},
        )
        assert running.started_wall_s is not None
        assert created.state is ContainerState.CREATED
        oci_bench.touch_inside(pid, "/end")
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await woken.wait()
        assert (await ended(runtime, 1)).exit_code == 4
        await runtime.start(2)
        found = await seen(runtime, 2)
        assert found is not None
        assert found.state is ContainerState.RUNNING

    pid = with_agent(bench, first)
    with_agent(bench, second)


def test_an_end_while_no_agent_looked_is_on_record(bench: Bench) -> None:
    async def first(runtime: OciRuntime) -> None:
        await runtime.create(spec(1, "sh", "-c", "sleep 0.05; exit 9"))
        await runtime.start(1)

    async def second(runtime: OciRuntime) -> None:
        assert (await ended(runtime, 1)).exit_code == 9

    with_agent(bench, first)
    with_agent(bench, second)


def test_nothing_is_believed_across_boots(bench: Bench) -> None:
    """The pids and mounts of another boot are somebody else's, so nobody is killed and nothing is unmounted."""

    async def before(runtime: OciRuntime) -> int:
        await runtime.create(spec(1))
        await runtime.start(1)
        found = await seen(runtime, 1)
        assert found is not None
        return found.pid

    async def after(runtime: OciRuntime) -> None:
        found = await seen(runtime, 1)
        assert found is not None
        assert (found.state, found.exit_code, found.pid) == (ContainerState.STOPPED, None, 0)
        await runtime.stop(1, grace_s=1.0)
        assert process_table.look(pid) is not None

    pid = with_agent(bench, before)
    with_agent(bench, after, boot_id="another")
    with_agent(bench, lambda runtime: runtime.delete(1))


def test_a_mount_that_a_killed_runc_left_goes_with_its_container(bench: Bench) -> None:
    """It runs from a sealed copy of itself, which is mounted for a moment: killed then, it leaves that."""

    def left_mounted() -> None:
        (state,) = (bench.root / "run/runc").iterdir()
        copy = state / "runc.a1b2c3"
        copy.touch()
        subprocess.run(("mount", "--bind", "/usr/bin/env", str(copy)), check=True)

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        left_mounted()
        await runtime.delete(1)

    with_agent(bench, story)
    assert not bench.leftovers()


def test_a_strangers_container_is_left_alone(bench: Bench) -> None:
    async def mine(runtime: OciRuntime) -> None:
        await runtime.create(spec(1))
        await runtime.start(1)

    async def theirs(runtime: OciRuntime) -> None:
        assert not await runtime.observe()
        await runtime.delete(1)
        with pytest.raises(Unavailable, match="belongs to the worker"):
            await runtime.create(spec(1))

    async def still(runtime: OciRuntime) -> None:
        found = await seen(runtime, 1)
        assert found is not None
        assert found.state is ContainerState.RUNNING

    with_agent(bench, mine)
    with_agent(bench, theirs, worker=WorkerId("f" * 24))
    with_agent(bench, still)
    assert images_in_use(bench.root / "state") == {bench.images.image.digest}


# --- commands inside ---------------------------------------------------------------------------------------------------


async def execute(runtime: OciRuntime, *command: str, timeout_s: float = 60.0) -> tuple[str, CommandEnded]:
    """Run a command in container 1; return all that it said and how it ended."""
    async with aclosing(runtime.exec(1, command, timeout_s=timeout_s)) as pieces:
        *found, ended = [piece async for piece in pieces]
    assert isinstance(ended, CommandEnded)
    return b"".join(piece.data for piece in found if isinstance(piece, CommandOutput)).decode(), ended


async def begin(runtime: OciRuntime, *command: str, **settings: object) -> None:
    await runtime.create(spec(1, *command, **settings))
    await runtime.start(1)


def test_a_command_inside_may_no_more_than_the_container(bench: Bench) -> None:
    """Its user, groups, variables, directory, capabilities, system calls and limits are those of the container."""
    bench.images.image = replace(bench.images.image, user="app", working_dir="/tmp")
    script = """
        id; pwd; echo $FROM_IMAGE $MINE
        grep -E 'CapEff|CapBnd|NoNewPrivs|Seccomp:' /proc/self/status
        unshare -U true; touch /sys/x
    """

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime, "sh", "-c", f"exec 2>&1; {script} sleep 1000", environment=("MINE=2",))
        await until(lambda: _says(runtime, 1, "Read-only"))
        said, ended = await execute(runtime, "sh", "-c", f"exec 2>&1; {script}")
        assert said == await output(runtime, 1)
        assert said.startswith("uid=1000(app) gid=1001(app) groups=2000(extra)\n/tmp\n1 2\n")
        assert "Seccomp:\t2" in said
        assert ended.exit_code != 0
        found = await seen(runtime, 1)
        assert found is not None
        assert found.pid in bench.cgroups.pids(1)

    with_agent(bench, story)


def test_a_commands_limits_are_the_containers(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        await begin(runtime, resources=Resources(memory_mib=16))
        hungry = "x=$(head -c 100000000 /dev/zero | tr '\\0' a)"
        _, ended = await execute(runtime, "sh", "-c", hungry)
        assert ended.exit_code == 137
        assert bench.cgroups.out_of_memory_kills(1) > 0

    with_agent(bench, story)


@pytest.mark.parametrize(
    "left", ["", "</dev/null >/dev/null 2>&1"], ids=["holds the output", "holds nothing"]
)
def test_nothing_that_a_command_started_outlives_it(bench: Bench, left: str) -> None:
    """Also what left its session and its parent, whether the command ends by itself, too late, or unheard."""
    (bench.root / "layer/bin/setsid").symlink_to("busybox")
    loose = f"(setsid sh -c 'sleep 999; true' {left} &); (sleep 998 {left} &)"

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        alone = bench.cgroups.pids(1)
        said, ended = await execute(runtime, "sh", "-c", f"{loose}; echo done; exit 4")
        assert (said, ended) == ("done\n", CommandEnded(exit_code=4))
        assert bench.cgroups.pids(1) == alone
        _, ended = await execute(runtime, "sh", "-c", f"{loose}; sleep 997", timeout_s=3.0)
        assert ended.exit_code == TIMED_OUT
        assert bench.cgroups.pids(1) == alone
        unheard = runtime.exec(1, ("sh", "-c", f"{loose}; echo begun; sleep 997"), timeout_s=1000.0)
        while not (await anext(unheard)).data:  # type: ignore[union-attr]
            pass
        assert len(bench.cgroups.pids(1)) > len(alone)
        await unheard.aclose()
        assert bench.cgroups.pids(1) == alone
        assert _commands_left(bench) == []

    with_agent(bench, story)


def test_a_cancelled_listener_leaves_nothing(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        alone = bench.cgroups.pids(1)
        for wait_s in (0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await execute(runtime, "sh", "-c", "sleep 999 & sleep 998")
            assert bench.cgroups.pids(1) == alone
            assert _commands_left(bench) == []
        assert (await execute(runtime, "true"))[1].exit_code == 0

    with_agent(bench, story)


def test_a_slow_listener_hears_everything(bench: Bench) -> None:
    """The command has long ended when most of what it said is still under way."""

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        pieces = runtime.exec(1, ("seq", "1", "20000"), timeout_s=60.0)
        await anext(pieces)
        await until(lambda: not bench.cgroups.parts(1, "exec-"))
        *found, ended = [piece async for piece in pieces]
        assert ended == CommandEnded(exit_code=0)
        said = b"".join(piece.data for piece in found if isinstance(piece, CommandOutput))
        assert said == b"".join(b"%d\n" % number for number in range(1, 20001))

    with_agent(bench, story)


def test_many_commands_at_once(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        found = await asyncio.gather(
            *(execute(runtime, "sh", "-c", f"echo {n}; exit {n}") for n in range(12))
        )
        assert found == [(f"{n}\n", CommandEnded(exit_code=n)) for n in range(12)]

    with_agent(bench, story)


def test_commands_that_come_and_go_leave_each_other_alone(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        async def one_after_another(n: int) -> None:
            for turn in range(12):
                assert await execute(runtime, "sh", "-c", f"echo {n}; exit {turn}") == (
                    f"{n}\n",
                    CommandEnded(exit_code=turn),
                )
                with pytest.raises(Rejected, match="'nothing' is not in the image"):
                    await execute(runtime, "nothing")

        await begin(runtime)
        await asyncio.gather(*map(one_after_another, range(4)))
        assert _commands_left(bench) == []

    with_agent(bench, story)


def test_a_command_runs_though_an_earlier_runc_left_its_file(bench: Bench) -> None:
    """runc was killed between making it and giving it its name."""

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        (bench.bundle(1) / ".exec-0.pid").touch()
        assert (await execute(runtime, "true"))[1].exit_code == 0
        assert _commands_left(bench) == []

    with_agent(bench, story)


def test_what_is_entered_and_fails_leaves_nothing(bench: Bench) -> None:
    async def broken() -> AsyncGenerator[CommandInput, None]:
        yield b"hi\n"
        raise Rejected("these are no frames")

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        alone, opened = bench.cgroups.pids(1), _opened()
        with pytest.raises(Rejected, match="no frames"):
            async for _ in runtime.exec(1, ("sh", "-c", "sleep 0.3"), timeout_s=100.0, entered=broken()):
                pass
        assert (bench.cgroups.pids(1), _opened(), _commands_left(bench)) == (alone, opened, [])

    with_agent(bench, story)


def test_a_container_goes_with_the_commands_in_it(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        running = asyncio.create_task(execute(runtime, "sh", "-c", "sleep 999 & sleep 998"))
        await until(lambda: len(_in_commands(bench)) == 2)
        await runtime.delete(1)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            assert (await running)[1].exit_code == 137

    with_agent(bench, story)
    assert not bench.leftovers()


TERMINAL = Terminal(size=TerminalSize(rows=24, columns=80), name="vt100")


async def _typed(*said: CommandInput) -> AsyncGenerator[CommandInput, None]:
    """Enter this, and then nothing for ever."""
    for one in said:
        yield one
    await asyncio.Event().wait()


def test_a_command_at_a_terminal_is_the_containers_own_user_but_for_the_terminal(bench: Bench) -> None:
    bench.images.image = replace(bench.images.image, user="app", working_dir="/tmp")
    script = "id; pwd; echo $FROM_IMAGE $TERM; tty; stty size 2>/dev/null; grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status"

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime, environment=("TERM=dumb",))
        plain, _ = await execute(runtime, "sh", "-c", script)
        pieces = runtime.exec(1, ("sh", "-c", script), timeout_s=60.0, entered=_typed(), terminal=TERMINAL)
        *found, ended = [piece async for piece in pieces]
        assert ended == CommandEnded(exit_code=0)
        said = b"".join(piece.data for piece in found if isinstance(piece, CommandOutput)).decode()
        assert plain.split("\n")[2:4] == ["1 dumb", "not a tty"]
        assert said.split("\r\n")[2:5] == ["1 vt100", "/dev/pts/0", "24 80"]
        assert (said.split("\r\n")[:2], said.split("\r\n")[5:8]) == (
            plain.split("\n")[:2],
            plain.split("\n")[-4:-1],
        )

    with_agent(bench, story)


@pytest.mark.parametrize(
    ("terminal", "timeout_s", "code"),
    [
        pytest.param(None, 100.0, None, id="ends"),
        pytest.param(None, 3.0, TIMED_OUT, id="takes too long"),
        pytest.param(TERMINAL, 100.0, 4, id="ends at a terminal"),
        pytest.param(TERMINAL, 3.0, TIMED_OUT, id="takes too long at a terminal"),
    ],
)
def test_an_output_that_somebody_else_holds_open_does_not_hold_the_session(
    bench: Bench, terminal: Terminal | None, timeout_s: float, code: int | None
) -> None:
    """The container's own process opened it, and is no part of the command. Without a terminal only runc knows how it ended,
    and waits for the end of the output."""
    holds = "until [ -e /tmp/pid ]; do sleep 0.02; done; exec 7>/proc/$(cat /tmp/pid)/fd/1; touch /tmp/held; sleep 1000"
    waits = (
        "echo $$ > /tmp/new; mv /tmp/new /tmp/pid; until [ -e /tmp/held ]; do sleep 0.02; done; seq 1 20000"
    )
    command = ("sh", "-c", f"{waits}; {'exit 4' if timeout_s == 100.0 else 'sleep 999'}")

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime, "sh", "-c", holds)
        opened = _opened()
        found: list[CommandOutput | CommandEnded] = []
        with (
            contextlib.nullcontext()
            if code is not None
            else pytest.raises(Unavailable, match="holds its output open")
        ):
            async with asyncio.timeout(oci_bench.TIMEOUT_S):
                async for piece in runtime.exec(
                    1, command, timeout_s=timeout_s, entered=_typed() if terminal else None, terminal=terminal
                ):
                    found.append(piece)  # noqa: PERF401 - what came before an error counts
        if code is not None:
            ended = found.pop()
            assert isinstance(ended, CommandEnded)
            assert ended.exit_code == code
        said = b"".join(piece.data for piece in found if isinstance(piece, CommandOutput))
        assert code == TIMED_OUT or said.split() == [b"%d" % number for number in range(1, 20001)]
        assert (_opened(), _commands_left(bench)) == (opened, [])

    with_agent(bench, story)


def test_line_ends_are_the_commands_own_business(bench: Bench) -> None:
    """Full-screen programs switch their translation off, and mean what they then write."""

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        words = ("sh", "-c", "echo a; stty -opost; echo b; stty opost; echo c")
        pieces = runtime.exec(1, words, timeout_s=60.0, entered=_typed(), terminal=TERMINAL)
        found = [piece async for piece in pieces]
        said = b"".join(piece.data for piece in found if isinstance(piece, CommandOutput))
        assert said == b"a\r\nb\nc\r\n"

    with_agent(bench, story)


def test_sessions_leave_nothing_however_they_end(bench: Bench) -> None:
    """By themselves, unheard, too late, refused, with a job in the background: no process, file descriptor, or file."""

    said = (b"echo hi; sleep 999 &\n", TerminalSize(rows=5, columns=6))

    async def session(
        runtime: OciRuntime, command: str, *said: CommandInput, terminal: Terminal | None, timeout_s: float
    ) -> None:
        pieces = runtime.exec(1, (command,), timeout_s=timeout_s, entered=_typed(*said), terminal=terminal)
        async with aclosing(pieces):
            async for piece in pieces:
                if timeout_s > 10 and isinstance(piece, CommandOutput) and b"hi" in piece.data:
                    return

    async def story(runtime: OciRuntime) -> None:
        await begin(runtime)
        alone, opened = bench.cgroups.pids(1), _opened()
        for _ in range(3):
            for terminal in (None, TERMINAL):
                for timeout_s in (2.0, 100.0):
                    await session(runtime, "sh", *said, terminal=terminal, timeout_s=timeout_s)
                with pytest.raises(Rejected):
                    await session(runtime, "nothing", *said, terminal=terminal, timeout_s=100.0)
                cancelled = asyncio.ensure_future(session(runtime, "cat", terminal=terminal, timeout_s=99.0))
                await until(lambda: _in_commands(bench))
                cancelled.cancel()
                await asyncio.wait((cancelled,))
        assert (bench.cgroups.pids(1), _opened(), _commands_left(bench)) == (alone, opened, [])

    with_agent(bench, story)


def _opened() -> list[str]:
    """Return what this process has open, but for what moves by itself."""
    found = []
    for entry in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(entry.readlink()))
    return sorted(name for name in found if "/proc/" not in name)


@pytest.mark.parametrize("keys", ["", ", entered=wait()", ", entered=wait(), terminal=terminal"])
def test_the_next_agent_ends_the_commands_of_one_that_died(bench: Bench, keys: str) -> None:
    task = oci_bench.Task(
        root=str(bench.root), worker=bench.worker, cgroup_parent=bench.cgroup_parent, number=1, up=True
    )
    asker = subprocess.Popen(
        [sys.executable, "-c", _ASK_AND_WAIT.replace(", KEYS", keys), msgspec.json.encode(task).decode()],
        env={"PATH": process_table.PATH, "PYTHONPATH": os.pathsep.join(sys.path)},
    )

    async def after(runtime: OciRuntime) -> None:
        found = await seen(runtime, 1)
        assert found is not None
        assert found.state is ContainerState.RUNNING
        await until(lambda: bench.cgroups.pids(1) == {found.pid})
        assert (await execute(runtime, "true"))[1].exit_code == 0
        await until(lambda: not [line for _, line in bench.processes() if "exec" in line])

    try:
        asyncio.run(until(lambda: len(_in_commands(bench)) == 2))
    finally:
        asker.kill()
        asker.wait()
    with_agent(bench, after)


_ASK_AND_WAIT = """
import asyncio, sys, msgspec, oci_bench
from oakestra.model.terminal import Terminal, TerminalSize
from pathlib import Path
task = msgspec.json.decode(sys.argv[1], type=oci_bench.Task)
async def main():
    runtime = oci_bench.Bench(Path(task.root), task.worker, task.cgroup_parent).agent()
    await runtime.prepare()
    await runtime.create(oci_bench.spec(1))
    await runtime.start(1)
    terminal = Terminal(size=TerminalSize(rows=24, columns=80))
    async def wait():
        await asyncio.Event().wait()
        yield b""
    async for _ in runtime.exec(1, ("sh", "-c", "sleep 999 & sleep 998"), timeout_s=1000.0, KEYS):
        pass
asyncio.run(main())
"""


def _in_commands(bench: Bench) -> list[str]:
    """Return the processes that commands in container 1 consist of."""
    parts = bench.cgroups.parts(1, "exec-")
    return [pid for part in parts for pid in (part / "cgroup.procs").read_text().split()]


def _commands_left(bench: Bench) -> list[str]:
    """Return what is there of commands in container 1: processes on the machine, parts of the cgroup, files."""
    runcs = [line for _, line in bench.processes() if "exec" in line]
    parts = bench.cgroups.parts(1, "exec-")
    return [*map(str, runcs), *map(str, parts), *map(str, bench.bundle(1).glob("*exec-*"))]


# --- many ----------------------------------------------------------------------------------------------------------------


def test_fifty_containers_and_no_trace(bench: Bench) -> None:
    numbers = range(1, 51)

    async def story(runtime: OciRuntime) -> None:
        async def up(number: int) -> None:
            await runtime.create(spec(number))
            await runtime.start(number)

        async def down(number: int) -> None:
            await runtime.stop(number, grace_s=5.0)
            await runtime.delete(number)

        await asyncio.gather(*map(up, numbers))
        found = await runtime.observe()
        assert [(each.number, each.state) for each in found] == [(n, ContainerState.RUNNING) for n in numbers]
        usage = await runtime.usage()
        assert sorted(usage) == list(numbers)
        assert all(each.memory_bytes > 0 and each.cpu_ns > 0 for each in usage.values())
        assert not bench.mounts()
        await asyncio.gather(*map(down, numbers))
        assert not await runtime.observe()

    with_agent(bench, story)
    assert not bench.leftovers()


# --- logs ----------------------------------------------------------------------------------------------------------------


def test_no_line_is_lost_while_files_are_rotated(bench: Bench) -> None:
    """A follower gets every line of a log many times larger than what is kept, while what is kept stays bounded."""
    lines, size_max = 120_000, 1 << 18

    async def story(runtime: OciRuntime) -> None:
        # A little at a time, so that the follower keeps up: what a reader never saw may be gone for good.
        script = f"i=0; while [ $i -lt {lines} ]; do seq $((i+1)) $((i+500)); i=$((i+500)); sleep 0.002; done; echo done; "
        script += (
            "exec sleep 60"  # a conmon whose container has ended may leave the last rotation to its successor
        )
        await runtime.create(spec(1, "sh", "-c", script))
        await runtime.start(1)
        received = bytearray()
        async with asyncio.timeout(240.0):
            async for piece in runtime.logs(1, tail_bytes=None, follow=True):
                received += piece
                if received.endswith(b"done\n"):
                    break
        numbers = [int(line) for line in received.splitlines()[:-1]]
        assert numbers == list(range(1, lines + 1))
        directory = bench.root / "state/logs/1"
        await until(lambda: sorted(path.name for path in directory.iterdir()) == ["log", "log.1"])
        kept = (await output(runtime, 1)).splitlines()
        assert kept == [*map(str, range(lines - len(kept) + 2, lines + 1)), "done"]
        assert len(kept) < lines / 2, "nothing was rotated away"

    with_agent(bench, story, log_size_max=size_max)


def test_a_busy_log_stays_bounded(bench: Bench) -> None:
    async def story(runtime: OciRuntime) -> None:
        await runtime.create(spec(1, "yes", "a line that is said again and again"))
        await runtime.start(1)
        directory = bench.root / "state/logs/1"
        files: list[int] = []

        def rotated() -> bool:
            inode = (directory / "log").stat().st_ino
            if files[-1:] != [inode]:
                files.append(inode)
            return len(files) > 5

        await until(rotated)
        kept = sum(path.stat().st_size for path in directory.iterdir())
        assert kept < 64 << 20
        await runtime.delete(1)

    with_agent(bench, story, log_size_max=1 << 20)


def test_a_rotation_that_was_cut_off_is_finished_by_the_next_agent(bench: Bench) -> None:
    log = bench.root / "state/logs/1/log"

    async def first(runtime: OciRuntime) -> None:
        await runtime.create(
            spec(1, "sh", "-c", "echo one; while [ ! -e /end ]; do sleep 0.02; done; echo two")
        )
        await runtime.start(1)
        await until(lambda: _says(runtime, 1, "one"))

    async def second(runtime: OciRuntime) -> None:
        found = await seen(runtime, 1)
        assert found is not None
        await until(lambda: not log.samefile(log.with_name("log.1")))
        oci_bench.touch_inside(found.pid, "/end")
        await ended(runtime, 1)
        assert await output(runtime, 1) == "one\ntwo\n"
        assert b"one" not in log.read_bytes()

    with_agent(bench, first)
    log.with_name("log.1").hardlink_to(log)  # asked to reopen, and died before the question was sent
    with_agent(bench, second)


def test_a_log_outlives_its_container_and_its_agent(bench: Bench) -> None:
    async def say(runtime: OciRuntime, word: str) -> None:
        await run(runtime, spec(1, "sh", "-c", f"echo {word}; echo -n un; echo -n finished"))
        await runtime.delete(1)

    for word in ("first", "second"):
        with_agent(bench, lambda runtime, word=word: say(runtime, word))  # type: ignore[misc]

    async def read(runtime: OciRuntime) -> None:
        assert await output(runtime, 1) == "first\nunfinished\nsecond\nunfinished\n"
        tail = await oci_bench.pieces(runtime.logs(1, tail_bytes=12, follow=False))
        assert b"".join(tail) == b"unfinished\n"
        following = asyncio.create_task(oci_bench.pieces(runtime.logs(1, tail_bytes=None, follow=True)))
        await asyncio.sleep(0)
        await runtime.forget_log(1)
        async with asyncio.timeout(oci_bench.TIMEOUT_S):
            await following
        assert await output(runtime, 1) == ""

    with_agent(bench, read)


async def _says(runtime: OciRuntime, number: int, word: str) -> bool:
    return word in await output(runtime, number)
