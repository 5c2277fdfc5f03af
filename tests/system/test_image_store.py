"""Images from archives: taken in whole or refused, shared, kept through crashes, and removed when unused."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gzip
import io
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Coroutine, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest

from oakestra.control.clock import SystemClock
from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images import ImageStore
from oakestra.runtime.images.build import (
    Directory,
    File,
    HardLink,
    Layer,
    Settings,
    build_archive,
    build_example,
)
from oakestra.runtime.images.layout import Layout
from oakestra.runtime.images.protocol import Answer, Do, Request

pytestmark = pytest.mark.root

BASE: Layer = {"bin/tool": File(content=b"tool", mode=0o755), "bin/same": HardLink(target="bin/tool")}
DAY_S = 24 * 3600.0


class TestClock:
    """The machine's clock, moved ahead at will."""

    __test__ = False

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def uptime_s(self) -> float:
        return SystemClock().uptime_s() + self.ahead_s

    def wall_s(self) -> float:
        return SystemClock().wall_s() + self.ahead_s


class Bench:
    """A store in a directory of its own, and what it asks."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"
        self.archives = home / "archives"
        self.archives.mkdir()
        self.clock = TestClock()
        self.in_use: set[str] = set()
        self.store = self.open()

    def open(self) -> ImageStore:
        return ImageStore(
            self.state,
            image_dirs=[self.archives],
            in_use=lambda: self.in_use,
            clock=self.clock,
            architecture="amd64",
        )

    def archive(self, name: str, *layers: Layer, reference: str = "", architecture: str = "amd64") -> Path:
        path = self.archives / name
        path.parent.mkdir(exist_ok=True)
        build_archive(
            path, reference or f"example.org/{path.stem}:1", layers or [BASE], architecture=architecture
        )
        return path

    def layers(self) -> list[str]:
        return names_in(self.state / "images/layers")

    @property
    def work(self) -> Path:
        return self.state / "images/work"

    def assert_clean(self) -> None:
        """Nothing half done is left: no work, and every layer is whole."""
        assert names_in(self.work) == []
        for layer in self.layers():
            assert (self.state / "images/layers" / layer / "layer.json").exists()


def names_in(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir()) if directory.exists() else []


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


_Result = TypeVar("_Result")


def run(work: Coroutine[object, object, _Result]) -> _Result:
    return asyncio.run(work)


async def until(condition: Callable[[], object], *, within_s: float = 60.0) -> None:
    deadline = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < deadline, "not in time"
        await asyncio.sleep(0.01)


def rewrite(path: Path, change: Callable[[dict[str, bytes]], object]) -> None:
    """Change the members of an archive."""
    with tarfile.open(path) as archive:
        members = {member.name: archive.extractfile(member) for member in archive}
        contents = {name: file.read() for name, file in members.items() if file is not None}
    change(contents)
    write_tar(path, contents)


def write_tar(path: Path, contents: Mapping[str, bytes | str]) -> None:
    """Write a tar of files, or of symbolic links where the content is text."""
    with tarfile.open(path, "w") as archive:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            if isinstance(content, str):
                member.type, member.linkname = tarfile.SYMTYPE, content
                archive.addfile(member)
            else:
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))


def test_a_loaded_image_can_be_run(bench: Bench) -> None:
    path = bench.archive("web.tar", BASE, {"etc/web": File(content=b"2"), "bin/.wh.same": File()})
    build_archive(
        path,
        "web:2",
        [BASE, {"etc/web": File(content=b"2")}],
        architecture="amd64",
        settings=Settings(
            entrypoint=("tool",), command=("x",), environment=("A=b",), user="1", stop_signal="SIGINT"
        ),
    )
    seen: list[tuple[int, int]] = []
    info = run(bench.store.load(str(path), progress=lambda done, total: seen.append((done, total))))
    assert info.reference == "docker.io/library/web:2"
    assert info.size_bytes == 5
    assert seen[-1][0] == seen[-1][1] > 0
    image = bench.store.resolve("web:2")
    assert image is not None
    assert (image.entrypoint, image.command, image.environment) == (("tool",), ("x",), ("A=b",))
    assert (image.user, image.stop_signal, image.working_dir, image.architecture) == (
        "1",
        "SIGINT",
        "/",
        "amd64",
    )
    assert (image.layers[0] / "bin/tool").read_bytes() == b"tool"
    assert (image.layers[1] / "etc/web").read_bytes() == b"2"
    assert [info.reference for info in run(bench.open().list())] == ["docker.io/library/web:2"]
    assert bench.store.resolve("web:3") is None
    bench.assert_clean()


def test_gzipped_archives_are_taken_as_well(bench: Bench) -> None:
    path = bench.archive("web.tar")
    path.write_bytes(gzip.compress(path.read_bytes()))
    assert run(bench.store.load(str(path))).reference == "example.org/web:1"
    bench.assert_clean()


def test_docker_save_archives_are_taken_as_well(bench: Bench) -> None:
    """Both of today, blobs by digest, and of old, with layers uncompressed and links between equal ones."""
    path = bench.archive("web.tar", reference="web:1")
    rewrite(path, lambda contents: contents.pop("index.json"))
    run(bench.store.load(str(path)))
    assert bench.store.resolve("web:1") is not None

    with tarfile.open(path) as archive:
        saved = json.loads(archive.extractfile("manifest.json").read())[0]  # type: ignore[union-attr]
        config = json.loads(archive.extractfile(saved["Config"]).read())  # type: ignore[union-attr]
        layer = gzip.decompress(archive.extractfile(saved["Layers"][0]).read())  # type: ignore[union-attr]
    config["rootfs"]["diff_ids"] *= 2
    saved = {"Config": "c.json", "RepoTags": ["old:1", "old:2"], "Layers": ["a/layer.tar", "b/layer.tar"]}
    contents: dict[str, bytes | str] = {"a/layer.tar": layer, "b/layer.tar": "../a/layer.tar"}
    contents |= {"c.json": json.dumps(config).encode(), "manifest.json": json.dumps([saved]).encode()}
    write_tar(path, contents)
    run(bench.store.load(str(path)))
    old = bench.store.resolve("old:2")
    assert old is not None
    assert bench.store.resolve("old:1") == old
    assert len(old.layers) == 1  # overlayfs refuses to have one twice
    assert len(bench.layers()) == 1


def test_several_images_in_one_archive_are_all_loaded(bench: Bench) -> None:
    one, two = bench.archive("one.tar"), bench.archive("two.tar", {"two": File(content=b"2")})

    def join(contents: dict[str, bytes]) -> None:
        with tarfile.open(two) as archive:
            other = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
        index = json.loads(contents["index.json"])
        index["manifests"] += json.loads(other["index.json"])["manifests"]
        contents.update({**other, "index.json": json.dumps(index).encode()})

    rewrite(one, join)
    run(bench.store.load(str(one)))
    assert bench.store.resolve("example.org/one:1") is not None
    assert bench.store.resolve("example.org/two:1") is not None
    with pytest.raises(Rejected, match=r"2 images \(example.org/one:1, example.org/two:1\)"):
        run(bench.store.ensure(f"oci-archive:{one}"))


def layer_blob(contents: dict[str, bytes]) -> str:
    return next(name for name, content in contents.items() if content.startswith(b"\x1f\x8b"))


def flip(contents: dict[str, bytes], position: int) -> None:
    name = layer_blob(contents)
    content = contents[name]
    contents[name] = content[:position] + bytes([content[position] ^ 1]) + content[position + 1 :]


def damage_layer(contents: dict[str, bytes]) -> None:
    flip(contents, 30)


def repack_layer(contents: dict[str, bytes]) -> None:
    flip(contents, 4)  # the time in gzip's header: what comes out is the same


def replace_layer(contents: dict[str, bytes]) -> None:
    contents[layer_blob(contents)] = gzip.compress(b"not a tar" * 100)


def drop_layer(contents: dict[str, bytes]) -> None:
    del contents[layer_blob(contents)]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (damage_layer, "damaged: its content has the digest"),
        (repack_layer, "damaged: its content has the digest"),
        (replace_layer, "damaged: its content has the digest|longer than"),
        (drop_layer, "incomplete: it does not hold blobs/sha256/"),
        (lambda contents: contents.update({"index.json": b"{"}), "damaged"),
        (lambda contents: [contents.pop("index.json"), contents.pop("manifest.json")], "of no image"),
        (dict.clear, "empty archive"),
    ],
)
def test_a_damaged_archive_is_refused_and_leaves_nothing(
    bench: Bench, change: Callable[[dict[str, bytes]], object], says: str
) -> None:
    path = bench.archive("web.tar", {f"file{n}": File(content=os.urandom(999)) for n in range(20)})
    rewrite(path, change)
    with pytest.raises(Rejected, match=says):
        run(bench.store.load(str(path)))
    assert bench.layers() == []
    assert run(bench.store.list()) == ()
    bench.assert_clean()


@pytest.mark.parametrize("size", [0, 1, 400, 512, 2000, 5000, 12000])
def test_an_archive_cut_off_anywhere_is_refused(bench: Bench, size: int) -> None:
    path = bench.archive("web.tar", {"file": File(content=os.urandom(9999))})
    os.truncate(path, size)
    with pytest.raises(Rejected, match=r"web\.tar"):
        run(bench.store.load(str(path)))
    bench.assert_clean()


def test_a_layer_that_differs_from_the_configuration_is_refused(bench: Bench) -> None:
    """The blob's own digest is right, yet it holds other files than the configuration promises."""
    path = bench.archive("web.tar")

    def lie(contents: dict[str, bytes]) -> None:
        del contents["index.json"]  # docker save names configurations and layers, not digests
        saved = json.loads(contents["manifest.json"])
        config = json.loads(contents[saved[0]["Config"]])
        config["rootfs"]["diff_ids"] = ["sha256:" + "0" * 64]
        contents[saved[0]["Config"]] = json.dumps(config).encode()

    rewrite(path, lie)
    with pytest.raises(Rejected, match="and not sha256:0000"):
        run(bench.store.load(str(path)))
    assert bench.layers() == []


def test_another_architecture_is_refused_by_name(bench: Bench) -> None:
    with pytest.raises(Rejected, match="is for linux/arm64, this worker is linux/amd64"):
        run(bench.store.load(str(bench.archive("web.tar", architecture="arm64"))))


def test_services_may_name_archives_below_image_dirs_only(bench: Bench) -> None:
    inside = bench.archive("web.tar")
    run(bench.store.ensure(f"oci-archive:{inside}"))
    assert bench.store.resolve(f"oci-archive:{inside}") is not None
    assert bench.store.resolve("example.org/web:1") is None
    outside = bench.home / "web.tar"
    shutil.copy(inside, outside)
    link = bench.archives / "link.tar"
    link.symlink_to(outside)
    for path in (outside, link, f"{bench.archives}/../web.tar"):
        with pytest.raises(Rejected, match=f"taken from {bench.archives}"):
            run(bench.store.ensure(f"oci-archive:{path}"))
    inside.unlink()
    run(bench.store.ensure(f"oci-archive:{inside}"))  # what is here is not fetched again
    with pytest.raises(Rejected, match="no regular file"):
        run(bench.store.ensure(f"oci-archive:{bench.archives}"))
    with pytest.raises(Rejected, match="no such file"):
        run(bench.store.ensure(f"oci-archive:{bench.archives}/missing.tar"))


def test_images_share_equal_layers(bench: Bench) -> None:
    run(bench.store.load(str(bench.archive("one.tar", BASE, {"one": File()}))))
    run(bench.store.load(str(bench.archive("two.tar", BASE, {"two": File()}))))
    assert len(bench.layers()) == 3
    run(bench.store.remove("example.org/one:1"))
    assert len(bench.layers()) == 2
    assert bench.store.resolve("example.org/two:1") is not None
    run(bench.store.remove("example.org/two:1"))
    assert bench.layers() == []
    assert names_in(bench.state / "images/locks") == ["catalog", "work"]
    run(bench.store.remove("example.org/two:1"))


def test_a_full_disk_is_told_and_nothing_is_left(bench: Bench, small_disk: Path) -> None:
    bench.state = small_disk
    store = bench.open()
    path = bench.archive("big.tar", {"zeros": File(content=bytes(12 << 20))})
    with pytest.raises(Unavailable, match=f"{small_disk}/images is full.*remove images"):
        run(store.load(str(path)))
    bench.assert_clean()
    assert bench.layers() == []
    packed = bench.archive("packed.tar", {"noise": File(content=os.urandom(12 << 20))})
    with pytest.raises(Unavailable, match="needs more than 13 MiB"):
        run(store.load(str(packed)))
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(Unavailable, match="is full"):
        run(store.load(str(path)))
    run(store.load(str(bench.archive("small.tar"))))
    bench.assert_clean()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    libc = ctypes.CDLL(None, use_errno=True)
    disk = tmp_path / "disk"
    disk.mkdir()
    assert libc.mount(b"none", os.fsencode(disk), b"tmpfs", 0, b"size=8m,mode=700") == 0
    yield disk
    assert libc.umount2(os.fsencode(disk), 0) == 0


def test_concurrent_calls_share_one_child(bench: Bench) -> None:
    """All arrive before the first child could have finished; one record of progress per listener tells it."""
    path = bench.archive("web.tar", {f"f{n}": File(content=os.urandom(5000)) for n in range(50)})
    seen: list[list[int]] = [[], [], []]

    async def one(mine: list[int]) -> None:
        await bench.store.ensure(f"oci-archive:{path}", progress=lambda done, _: mine.append(done))

    async def everybody() -> None:
        await asyncio.gather(*(one(mine) for mine in seen))

    run(everybody())
    assert seen[0] == seen[1] == seen[2] != []


def children() -> list[int]:
    listed = Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()
    return [int(pid) for pid in listed]


@pytest.fixture
def silent_url() -> Iterator[str]:
    """An archive at a server that never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/web.tar"


def test_cancelling_everybody_ends_the_child_but_cancelling_one_does_not(
    bench: Bench, silent_url: str
) -> None:

    async def story() -> None:
        before = set(children())
        one = asyncio.create_task(bench.store.ensure(silent_url))
        two = asyncio.create_task(bench.store.ensure(silent_url))
        await until(lambda: set(children()) - before)
        (child,) = set(children()) - before
        one.cancel()
        await asyncio.wait([one])
        assert child in children()
        two.cancel()
        await asyncio.wait([two])
        assert child not in children()

    run(story())
    run(bench.store.collect())
    bench.assert_clean()


def test_a_killed_child_is_reported_and_swept(bench: Bench, silent_url: str) -> None:

    async def story() -> None:
        before = set(children())
        pull = asyncio.create_task(bench.store.ensure(silent_url))
        await until(lambda: names_in(bench.work))
        (child,) = set(children()) - before
        (bench.work / names_in(bench.work)[0] / "half").mkdir()
        os.kill(child, signal.SIGKILL)
        with pytest.raises(Unavailable, match="ended with status -9"):
            await pull
        assert names_in(bench.work)
        await bench.store.collect()

    run(story())
    bench.assert_clean()


def test_the_child_ends_with_the_agent(bench: Bench, silent_url: str) -> None:
    """An agent killed in the middle of a pull leaves a child whose standard input is closed."""
    request = Request(
        do=Do.ENSURE,
        root=str(bench.state / "images"),
        architecture="amd64",
        subject=silent_url,
    )
    with started_child(request) as child:
        run(until(lambda: names_in(bench.work)))
        assert child.stdin is not None
        child.stdin.close()
        assert child.wait(timeout=60) == 3


@contextlib.contextmanager
def started_child(request: Request) -> Iterator[subprocess.Popen[bytes]]:
    child = subprocess.Popen(
        [sys.executable, "-m", "oakestra.runtime.images"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None
    child.stdin.write(msgspec.json.encode(request) + b"\n")
    child.stdin.flush()
    try:
        yield child
    finally:
        child.kill()
        child.wait()
        child.stdin.close()
        assert child.stdout is not None
        child.stdout.close()


def test_memory_is_bounded_whatever_the_size(bench: Bench) -> None:
    """A layer of 200 MiB and 3 000 files passes through a child of less than 60 MiB."""
    layer: Layer = {
        "big": File(content=bytes(200 << 20)),
        "noise": File(content=os.urandom(9 << 20)),
        **{f"d{n}": Directory() for n in range(3000)},
    }
    path = bench.archive("big.tar", layer)
    request = Request(do=Do.LOAD, root=str(bench.state / "images"), architecture="amd64", subject=str(path))
    with started_child(request) as child:
        assert child.stdout is not None
        highest_kib = 0
        for line in child.stdout:  # progress, in steps of a hundredth
            highest_kib = max(highest_kib, memory_kib(child.pid))
            answer = msgspec.json.decode(line, type=Answer)
    assert answer.done == "example.org/big:1", answer
    assert 10 << 10 < highest_kib < 60 << 10, f"{highest_kib >> 10} MiB"


def test_killed_at_any_point_it_leaves_whole_layers_or_none(bench: Bench) -> None:
    """Kill the child after its first line, its second, and so on until it gets through."""
    noise = [{f"noise{n}": File(content=os.urandom(600_000))} for n in range(4)]
    path = bench.archive("web.tar", *noise)
    request = Request(do=Do.LOAD, root=str(bench.state / "images"), architecture="amd64", subject=str(path))
    for lines in itertools.count(1):
        with started_child(request) as child:
            assert child.stdout is not None
            said = list(itertools.islice(child.stdout, lines))
        if len(said) < lines:
            break
        for kept in bench.layers():
            (file,) = (bench.state / "images/layers" / kept / "fs").iterdir()
            assert file.stat().st_size == 600_000
    assert lines > 5
    image = bench.store.resolve("example.org/web:1")
    assert image is not None
    for layer, entries in zip(image.layers, noise, strict=True):
        ((name, entry),) = entries.items()
        assert (layer / name).read_bytes() == entry.content
    bench.assert_clean()


def test_a_layer_that_somebody_is_about_to_use_is_not_removed(bench: Bench) -> None:
    """A pull holds its layers' locks until its image is on record; removing another image meanwhile spares them."""
    run(bench.store.load(str(bench.archive("web.tar"))))
    layout = Layout(bench.state / "images")
    (key,) = bench.layers()
    with contextlib.closing(layout.layer_lock(key)) as lock:
        assert lock.take(exclusive=False)
        run(bench.store.remove("example.org/web:1"))
        assert bench.layers() == [key]
    run(bench.store.collect())
    assert bench.layers() == []


def memory_kib(pid: int) -> int:
    """Return the most memory a process ever had; 0 when it just ended."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1])
    return 0


def test_unused_images_are_collected_by_age(bench: Bench) -> None:
    one, two, three = (bench.archive(f"{n}.tar", BASE, {n: File()}) for n in ("one", "two", "three"))
    for path in (one, two):
        run(bench.store.ensure(f"oci-archive:{path}"))
    run(bench.store.load(str(three)))
    used = bench.store.resolve(f"oci-archive:{two}")
    assert used is not None
    bench.in_use = {used.digest}
    bench.clock.ahead_s = 5 * DAY_S
    assert run(bench.store.collect(unused_s=6 * DAY_S, disk_ratio_max=1.0)).references == ()
    bench.clock.ahead_s = 7 * DAY_S
    assert run(bench.store.collect(unused_s=6 * DAY_S, disk_ratio_max=1.0)).references == (
        f"oci-archive:{one}",
    )
    assert bench.store.resolve(f"oci-archive:{one}") is None
    assert bench.store.resolve(f"oci-archive:{two}") is not None
    assert bench.store.resolve("example.org/three:1") is not None  # by hand: only a hand removes it
    assert len(bench.layers()) == 3


def test_under_disk_pressure_the_oldest_go_first_and_recent_ones_stay(bench: Bench) -> None:
    paths = [bench.archive(f"n{n}.tar", {f"n{n}": File(content=b"x")}) for n in range(3)]
    for path in paths:
        run(bench.store.ensure(f"oci-archive:{path}"))
        bench.clock.ahead_s += 20 * 60
    run(bench.store.ensure(f"oci-archive:{paths[2]}"))
    collected = run(bench.store.collect(disk_ratio_max=0.0))
    assert collected.references == (f"oci-archive:{paths[0]}", f"oci-archive:{paths[1]}")
    assert collected.freed_bytes == 2
    assert bench.store.resolve(f"oci-archive:{paths[2]}") is not None


def test_an_image_in_use_keeps_its_layers_when_its_name_means_another(bench: Bench) -> None:
    old_path = bench.archive("old.tar", {"old": File()}, reference="web:1")
    run(bench.store.load(str(old_path)))
    old = bench.store.resolve("web:1")
    assert old is not None
    bench.in_use = {old.digest}
    run(bench.store.load(str(bench.archive("new.tar", {"new": File()}, reference="web:1"))))
    run(bench.store.remove("web:1"))
    assert (old.layers[0] / "old").exists()
    assert len(bench.layers()) == 1
    bench.in_use = set()
    bench.clock.ahead_s = 3600.0
    run(bench.store.collect())
    assert bench.layers() == []


def test_half_a_power_cut_is_repaired(bench: Bench) -> None:
    """Files that a damaged file system lost count as absent and are fetched anew."""
    path = bench.archive("web.tar")
    reference = f"oci-archive:{path}"
    run(bench.store.ensure(reference))
    (layer,) = bench.layers()
    (bench.state / "images/layers" / layer / "layer.json").write_bytes(b"")
    shutil.rmtree(bench.state / "images/layers" / layer / "fs")
    assert bench.store.resolve(reference) is None
    run(bench.store.ensure(reference))
    assert bench.store.resolve(reference) is not None
    for record in (bench.state / "images/names").iterdir():
        record.write_bytes(b"\0\0\0")
    assert run(bench.store.list()) == ()
    run(bench.store.ensure(reference))
    assert len(run(bench.store.list())) == 1


def test_the_example_is_the_same_every_time(bench: Bench, need_program: Callable[[str, str], str]) -> None:
    need_program("busybox", "busybox-static")
    digest = build_example(bench.archives / "one.tar")
    assert build_example(bench.archives / "two.tar") == digest
    assert (bench.archives / "one.tar").read_bytes() == (bench.archives / "two.tar").read_bytes()
    bench.store = ImageStore(
        bench.state,
        image_dirs=[],
        in_use=set,
        clock=bench.clock,
        architecture=os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"),
    )
    assert run(bench.store.load(str(bench.archives / "one.tar"))).reference == "docker.io/oakestra/example:1"
    image = bench.store.resolve("oakestra/example:1")
    assert image is not None
    assert image.digest == digest
    assert image.command == ("serve",)
    assert (image.layers[0] / "bin/sh").readlink() == Path("busybox")
