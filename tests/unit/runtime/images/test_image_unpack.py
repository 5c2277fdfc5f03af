"""Layers become what overlayfs expects, and nothing in them reaches out of their directory.

Root: owners, whiteouts and overlayfs itself need it.
"""

from __future__ import annotations

import ctypes
import io
import os
import stat
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from oakestra.runtime.images.layer.streams import Damaged, buffered
from oakestra.runtime.images.layer.tar import TarReader
from oakestra.runtime.images.layer.unpack import OPAQUE_XATTR, Unpacked, unpack

pytestmark = pytest.mark.root

Entry = tuple[str, bytes, dict[str, object]]
CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")
"""cap_net_bind_service, effective, as `setcap` writes it."""


def file(name: str, content: bytes = b"", **fields: object) -> Entry:
    return name, content, {"mode": 0o644, **fields}


def directory(name: str, **fields: object) -> Entry:
    return name, b"", {"type": tarfile.DIRTYPE, "mode": 0o755, **fields}


def symlink(name: str, target: str) -> Entry:
    return name, b"", {"type": tarfile.SYMTYPE, "linkname": target}


def hard_link(name: str, target: str) -> Entry:
    return name, b"", {"type": tarfile.LNKTYPE, "linkname": target}


def layer(root: Path, *entries: Entry) -> Unpacked:
    """Unpack a layer of the entries, in their order, into `root`."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content, fields in entries:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            for field, value in fields.items():
                setattr(member, field, value)
            archive.addfile(member, io.BytesIO(content))
    buffer.seek(0)
    root.mkdir(exist_ok=True)
    return unpack(
        TarReader(buffered(buffer), what="layer x"), root, what="layer x", on_written=lambda _: None
    )


def is_whiteout(path: Path) -> bool:
    seen = path.lstat()
    return stat.S_ISCHR(seen.st_mode) and seen.st_rdev == 0


def is_opaque(path: Path) -> bool:
    return OPAQUE_XATTR in os.listxattr(path) and os.getxattr(path, OPAQUE_XATTR) == b"y"


@pytest.fixture
def merge(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts directories, lowest first, as one."""
    libc = ctypes.CDLL(None, use_errno=True)
    mounted: list[Path] = []

    def mount(*lowers: Path) -> Path:
        target = tmp_path / f"merged{len(mounted)}"
        target.mkdir()
        options = "lowerdir=" + ":".join(str(lower) for lower in reversed(lowers))
        assert libc.mount(b"overlay", os.fsencode(target), b"overlay", 1, options.encode()) == 0, (
            ctypes.get_errno()
        )
        mounted.append(target)
        return target

    yield mount
    for target in mounted:
        assert libc.umount2(os.fsencode(target), 0) == 0


def test_everything_about_a_file_is_kept(tmp_path: Path) -> None:
    root = tmp_path / "root"
    layer(
        root,
        directory("./", mode=0o751, uid=7),
        directory("usr", mtime=1000),
        file("usr/su", b"#!", mode=0o4755, uid=3, gid=4, mtime=12345),
        file("usr/cap", b"x", uid=5, pax_headers={"SCHILY.xattr.security.capability": _text(CAPABILITY)}),
        file("usr/user", pax_headers={"SCHILY.xattr.user.note": "hi", "mtime": "99.5"}),
        symlink("usr/link", "/does/not/exist"),
        hard_link("usr/again", "usr/su"),
        ("usr/pipe", b"", {"type": tarfile.FIFOTYPE, "mode": 0o622}),
        directory("tmp", mode=0o1777),
    )
    su = (root / "usr/su").stat()
    assert (su.st_mode, su.st_uid, su.st_gid, su.st_mtime) == (stat.S_IFREG | 0o4755, 3, 4, 12345)
    assert su.st_ino == (root / "usr/again").stat().st_ino
    assert os.getxattr(root / "usr/cap", "security.capability") == CAPABILITY
    assert os.getxattr(root / "usr/user", "user.note") == b"hi"
    assert (root / "usr/user").stat().st_mtime == 99.5
    assert (root / "usr/link").readlink() == Path("/does/not/exist")
    assert (root / "usr/pipe").lstat().st_mode == stat.S_IFIFO | 0o622
    assert (root / "usr").stat().st_mtime == 1000
    assert (root / "tmp").stat().st_mode & 0o7777 == 0o1777
    assert (root.stat().st_mode & 0o7777, root.stat().st_uid) == (0o751, 7)


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def test_whiteouts_hide_what_lower_layers_have(tmp_path: Path, merge: Callable[..., Path]) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    layer(one, file("keep"), file("gone"), file("d/old"), file("e/old"), file("f/old"), file("g/h/old"))
    layer(
        two,
        file(".wh.gone"),
        file("d/.wh..wh..opq"),
        file("d/new"),
        file(".wh.e"),
        file("e/new"),  # removed and made again, whiteout first
        file("f/new"),
        file(".wh.f"),  # the same, whiteout last
        file(".wh.g"),
    )
    assert is_whiteout(two / "gone")
    assert is_opaque(two / "d")
    assert is_opaque(two / "e")
    assert is_opaque(two / "f")
    merged = merge(one, two)
    seen = sorted(str(path.relative_to(merged)) for path in merged.rglob("*"))
    assert seen == ["d", "d/new", "e", "e/new", "f", "f/new", "keep"]


def test_a_whiteout_does_not_hide_its_own_layer(tmp_path: Path) -> None:
    root = tmp_path / "root"
    layer(root, file("a", b"new"), file(".wh.a"), file(".wh.b"), file("b", b"new"))
    assert (root / "a").read_bytes() == (root / "b").read_bytes() == b"new"


def test_links_on_the_way_are_followed_as_in_the_container(tmp_path: Path) -> None:
    root = tmp_path / "root"
    layer(
        root,
        symlink("lib", "usr/lib"),
        file("lib/one", b"1"),
        symlink("absolute", "/usr/lib"),
        file("absolute/two", b"2"),
        symlink("above", "../../../../usr"),
        file("above/lib/three", b"3"),
        hard_link("lib/four", "above/lib/three"),
    )
    assert sorted(path.name for path in (root / "usr/lib").iterdir()) == ["four", "one", "three", "two"]
    assert (root / "lib").is_symlink()


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Path]:
    """Something precious next to the layer; must be as it was."""
    precious = tmp_path / "outside"
    precious.mkdir()
    (precious / "file").write_text("precious")
    (precious / "file").chmod(0o600)
    yield precious
    assert [path.name for path in precious.iterdir()] == ["file"]
    assert (precious / "file").read_text() == "precious"
    assert (precious / "file").stat().st_mode & 0o7777 == 0o600
    assert (precious / "file").stat().st_nlink == 1


@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ([file("../outside/file", b"x")], "leads out"),
        ([file("a/../../outside/file", b"x")], "leads out"),
        ([directory("..")], "leads out"),
        ([hard_link("x", "../outside/file")], "leads out"),
        ([symlink("d", "{outside}"), file("d/../../outside/new", b"x")], "leads out"),
        ([hard_link("x", "{outside}/file")], "not in the layer"),
        ([symlink("d", "{outside}"), hard_link("x", "d/file")], "not in the layer"),
        ([directory("d"), hard_link("x", "d")], "no file"),
        ([file(".wh.a"), hard_link("x", "a")], "no file"),
        ([hard_link("x", "/")], "directory"),
        ([file(".wh...")], "hides nothing"),
        ([file(".wh..")], "hides nothing"),
        ([file(".wh.")], "hides nothing"),
        ([symlink("a", "b"), symlink("b", "a"), file("a/x")], "too many levels"),
        ([file("x" * 256)], "file name too long"),
        ([file("d/" * 300 + "x")], "200 directories"),
        ([file("a", uid=2**32 - 1)], "owner"),
        ([file("a", pax_headers={"path": "a\0b"})], "zero byte"),
        ([symlink("a", "")], "nothing"),
    ],
)
def test_attacks_are_refused(tmp_path: Path, outside: Path, entries: list[Entry], says: str) -> None:
    aimed = [
        (name, content, {key: _aim(value, outside) for key, value in fields.items()})
        for name, content, fields in entries
    ]
    with pytest.raises(Damaged, match=says):
        layer(tmp_path / "root", *aimed)


def _aim(value: object, outside: Path) -> object:
    return value.replace("{outside}", str(outside)) if isinstance(value, str) else value


def test_links_that_point_out_stay_links(tmp_path: Path, outside: Path) -> None:
    """Through a link to an absolute path one gets to that path *within* the layer, for every kind of member."""
    root = tmp_path / "root"
    layer(
        root,
        symlink("d", str(outside)),
        symlink("f", str(outside / "file")),
        file("d/file", b"inside"),
        directory("d/new", mode=0o777),
        file("d/.wh.file2"),
        file("d/sub/.wh..wh..opq"),
        symlink("d/link", "x"),
        file("f", b"replaced"),
        directory("d", mode=0o700),
    )
    inside = root / str(outside).lstrip("/")
    assert (inside / "file").read_bytes() == b"inside"
    assert (inside / "new").is_dir()
    assert is_whiteout(inside / "file2")
    assert (root / "f").read_bytes() == b"replaced"
    assert (root / "d").is_dir()
    assert not (root / "d").is_symlink()


def test_absolute_names_are_names_in_the_image(tmp_path: Path, outside: Path) -> None:
    root = tmp_path / "root"
    layer(root, file(f"{outside}/file", b"inside"))
    assert (root / str(outside).lstrip("/") / "file").read_bytes() == b"inside"


def test_devices_are_left_out_and_noted(tmp_path: Path) -> None:
    root = tmp_path / "root"
    unpacked = layer(
        root,
        ("dev/sda", b"", {"type": tarfile.BLKTYPE, "devmajor": 8}),
        ("dev/fake-whiteout", b"", {"type": tarfile.CHRTYPE}),
        file("a"),
    )
    assert unpacked.skipped == ["dev/sda: device node", "dev/fake-whiteout: device node"]
    assert [path.name for path in root.iterdir()] == ["a"]


def test_a_layer_cannot_speak_to_overlayfs(tmp_path: Path) -> None:
    root = tmp_path / "root"
    refused = {
        "SCHILY.xattr.trusted.overlay.redirect": "/etc",
        "SCHILY.xattr.user.overlay.opaque": "y",
        "SCHILY.xattr.security.selinux": "x",
    }
    layer(root, directory("d", pax_headers=refused), file("f", pax_headers=refused))
    assert os.listxattr(root / "d") == os.listxattr(root / "f") == []


def test_later_members_replace_earlier_ones(tmp_path: Path) -> None:
    root = tmp_path / "root"
    layer(
        root,
        file("a", b"1"),
        file("a", b"2"),
        directory("d"),
        file("d/x"),
        directory("d", mode=0o700),
        file("e"),
        directory("e"),
        file("g/x/y"),
        file("g", b"file"),
        file("h"),
        file("h/x"),
    )
    assert (root / "a").read_bytes() == b"2"
    assert (root / "d/x").exists()
    assert (root / "d").stat().st_mode & 0o777 == 0o700
    assert (root / "e").is_dir()
    assert (root / "g").read_bytes() == b"file"
    assert (root / "h/x").exists()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def test_thousands_of_directories_need_few_open_files(tmp_path: Path) -> None:
    root = tmp_path / "root"
    before = open_files()
    layer(root, *(file(f"{n % 7}/{n % 31}/{n}/x") for n in range(2000)))
    assert open_files() == before
    assert sum(1 for _ in root.rglob("x")) == 2000
