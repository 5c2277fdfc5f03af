"""The tar reader agrees with Python's on what that writes, and never does worse than refuse what is broken."""

from __future__ import annotations

import contextlib
import io
import tarfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.runtime.images.layer.streams import CHUNK_BYTES, Damaged, buffered
from oakestra.runtime.images.layer.tar import Kind, Member, TarReader

KINDS = {
    tarfile.REGTYPE: Kind.FILE,
    tarfile.DIRTYPE: Kind.DIRECTORY,
    tarfile.SYMTYPE: Kind.SYMLINK,
    tarfile.LNKTYPE: Kind.HARD_LINK,
    tarfile.FIFOTYPE: Kind.FIFO,
    tarfile.CHRTYPE: Kind.DEVICE,
}

names = st.text(
    st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=300
).filter(lambda name: name.strip("/") and not name.endswith("/"))
members = st.builds(
    lambda name, kind, content, mode, uid, gid, mtime, link: (
        name,
        kind,
        content,
        mode,
        uid,
        gid,
        mtime,
        link,
    ),
    names,
    st.sampled_from(list(KINDS)),
    st.binary(max_size=1500),
    st.integers(0, 0o7777),
    st.integers(0, 2**32 - 2),
    st.integers(0, 2**32 - 2),
    st.integers(-(2**31), 2**33 - 1),
    names,
)
Drawn = tuple[str, bytes, bytes, int, int, int, int, str]


def write(drawn: list[Drawn], form: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, kind, content, mode, uid, gid, mtime, link in drawn:
            member = tarfile.TarInfo(name)
            member.type, member.mode, member.uid, member.gid, member.mtime = kind, mode, uid, gid, mtime
            if kind == tarfile.REGTYPE:
                member.size = len(content)
            if kind in {tarfile.SYMTYPE, tarfile.LNKTYPE}:
                member.linkname = link
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def read(data: bytes) -> list[tuple[Member, bytes]]:
    reader = TarReader(buffered(io.BytesIO(data)), what="x")
    found = []
    while (member := reader.next()) is not None:
        content = b""
        while chunk := reader.read(CHUNK_BYTES):
            content += chunk
        found.append((member, content))
    return found


@pytest.mark.parametrize("form", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
@given(drawn=st.lists(members, max_size=6))
def test_what_python_writes_is_read_back(form: int, drawn: list[Drawn]) -> None:
    found = read(write(drawn, form))
    assert len(found) == len(drawn)
    for (member, seen), (name, kind, content, mode, uid, gid, mtime, link) in zip(found, drawn, strict=True):
        assert member.name.rstrip("/") == name
        assert (member.kind, member.mode, member.uid, member.gid) == (KINDS[kind], mode, uid, gid)
        assert member.mtime_ns == mtime * 10**9
        if member.kind is Kind.FILE:
            assert seen == content
        if member.kind in {Kind.SYMLINK, Kind.HARD_LINK}:
            assert member.link == link


@given(data=st.data())
def test_damage_is_refused_or_harmless(data: st.DataObject) -> None:
    """Change some bytes of a good archive, and cut it: whatever is wrong comes out as `Damaged`, at once."""
    drawn = data.draw(st.lists(members, min_size=1, max_size=3))
    broken = bytearray(write(drawn, data.draw(st.sampled_from([tarfile.PAX_FORMAT, tarfile.GNU_FORMAT]))))
    for position in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=8)):
        broken[position] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(broken)))
    with contextlib.suppress(Damaged):
        read(bytes(broken[:cut]))


def with_checksum(header: bytearray) -> bytes:
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@given(st.binary(min_size=512, max_size=512), st.sampled_from(b"0123567xgLKS"), st.binary(max_size=2048))
def test_a_header_of_random_fields_is_refused_or_harmless(fields: bytes, kind: int, rest: bytes) -> None:
    header = bytearray(fields)
    header[156] = kind
    with contextlib.suppress(Damaged):
        read(with_checksum(header) + rest)


def test_extended_attributes_are_bytes() -> None:
    member = tarfile.TarInfo("x")
    member.pax_headers = {
        "SCHILY.xattr.security.capability": b"\1\0\0\2\xff=\n".decode("utf-8", "surrogateescape")
    }
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        archive.addfile(member)
    ((found, _),) = read(buffer.getvalue())
    assert found.xattrs == {"security.capability": b"\1\0\0\2\xff=\n"}


def test_a_header_of_a_gigabyte_is_not_read() -> None:
    header = bytearray(tarfile.TarInfo("x").tobuf(tarfile.USTAR_FORMAT))
    header[156:157] = b"x"
    header[124:136] = b"%011o\0" % (1 << 30)
    with pytest.raises(Damaged, match="1073741824 bytes is more than any file needs"):
        read(with_checksum(header))


def test_a_header_cut_out_of_the_middle_is_noticed() -> None:
    """Python's own reader takes a broken header in the middle for the end."""
    archive = write(
        [("a", tarfile.REGTYPE, b"a", 0, 0, 0, 0, ""), ("b", tarfile.REGTYPE, b"b", 0, 0, 0, 0, "")], 2
    )
    with pytest.raises(Damaged, match="checksum"):
        read(archive[:1024] + b"\7" * 512 + archive[1536:])
