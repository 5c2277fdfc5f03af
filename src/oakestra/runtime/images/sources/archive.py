"""Images in an archive file: an OCI image layout or what `docker save` writes, as tar, gzipped or not."""

from __future__ import annotations

import contextlib
import hashlib
import io
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

import msgspec

from oakestra.model.errors import Rejected
from oakestra.runtime.images.layer.streams import CHUNK_BYTES, Checked, Damaged, Stream, decompressed
from oakestra.runtime.images.layer.tar import Kind, TarReader
from oakestra.runtime.images.manifest import (
    DOCUMENT_BYTES_MAX,
    Descriptor,
    Image,
    Index,
    Manifest,
    choose_platform,
    decode_image,
    decode_json,
    decode_manifest,
)
from oakestra.runtime.images.reference import parse

_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_NESTING_MAX = 3
_LINKS_MAX = 5
_MEMBERS_MAX = 10_000
_GZIP_MAGIC = b"\x1f\x8b"


class _Saved(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    """An image as `docker save` lists it in manifest.json."""

    config: str
    repo_tags: tuple[str, ...] | None = None
    layers: tuple[str, ...]


class Archive:
    """The archive at `path`. `what` names it in messages. Implements `install.Blobs`.

    A gzipped one is first decompressed into `work`, as its content is needed in no particular order; `on_written` is
    told of it and may raise. Raises `Rejected` when it is no archive, `OSError` when this machine fails.
    """

    def __init__(self, path: Path, *, work: Path, what: str, on_written: Callable[[int], None]) -> None:
        self._what = what
        try:
            if not stat.S_ISREG(path.stat().st_mode):
                raise Rejected(f"{what} is no regular file, so no image archive")
            self._path = _plain(path, work, what=what, on_written=on_written)
            self._members, self._links = _scan(self._path, what=what)
        except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
            raise Rejected(f"{what} cannot be read: {(error.strerror or 'no such file').lower()}") from error

    def images(self, *, architecture: str, otherwise: str, loaded: bool) -> list[Image]:
        """Return the images for machines of `architecture`; one that has no name is called `otherwise`."""
        if "index.json" in self._members:
            return self._from_layout(architecture, otherwise, loaded=loaded)
        if "manifest.json" in self._members:
            return self._from_saved(architecture, otherwise, loaded=loaded)
        raise Rejected(
            f"{self._what} is a tar archive, but of no image: it has neither index.json (OCI) nor manifest.json (docker save)"
        )

    @contextlib.contextmanager
    def open(self, blob: Descriptor) -> Iterator[Stream]:
        offset, size = self._find(blob.path or _blob_path(blob.digest))
        with self._path.open("rb") as file:
            file.seek(offset)
            yield _Window(file, size, what=self._what)

    def _from_layout(self, architecture: str, otherwise: str, *, loaded: bool) -> list[Image]:
        top = decode_manifest(self._read("index.json"), name=self._what)
        if not isinstance(top, Index):
            raise Rejected(f"index.json in {self._what} lists no images")
        named: dict[str, list[Descriptor]] = {}
        for entry in top.manifests:
            named.setdefault(_name_of(entry) or otherwise, []).append(entry)
        names_of: dict[str, list[str]] = {}
        chosen: dict[str, Descriptor] = {}
        for name, entries in named.items():
            entry = self._choose(entries, architecture, name)
            chosen[entry.digest] = entry
            names_of.setdefault(entry.digest, []).append(name)
        return [
            self._image(entry, architecture, names_of[digest], loaded=loaded)
            for digest, entry in chosen.items()
        ]

    def _choose(self, entries: Sequence[Descriptor], architecture: str, name: str) -> Descriptor:
        """Return the one manifest among `entries`, and the indexes they may point at, that suits this machine."""
        for _ in range(_NESTING_MAX):
            entry = entries[0] if len(entries) == 1 else choose_platform(entries, architecture, name=name)
            document = decode_manifest(self._document(entry), name=name)
            if isinstance(document, Manifest):
                return entry
            entries = document.manifests
        raise Rejected(f"{name} in {self._what} has indexes within indexes within indexes")

    def _image(self, entry: Descriptor, architecture: str, names: Sequence[str], *, loaded: bool) -> Image:
        manifest = decode_manifest(self._document(entry), name=names[0])
        assert isinstance(manifest, Manifest)
        return decode_image(
            self._document(manifest.config),
            manifest.layers,
            digest=entry.digest,
            names=names,
            architecture=architecture,
            loaded=loaded,
        )

    def _from_saved(self, architecture: str, otherwise: str, *, loaded: bool) -> list[Image]:
        images = []
        for saved in self._saved():
            layers = [Descriptor(digest="", path=path, size=self._find(path)[1]) for path in saved.layers]
            config = self._read(saved.config)
            names = [parse(tag).name for tag in saved.repo_tags or ()] or [otherwise]
            digest = f"sha256:{_sha256(config)}"
            images.append(
                decode_image(
                    config, layers, digest=digest, names=names, architecture=architecture, loaded=loaded
                )
            )
        return images

    def _document(self, entry: Descriptor) -> bytes:
        data = self._read(_blob_path(entry.digest))
        Checked(io.BytesIO(data), entry.digest, what=f"{_blob_path(entry.digest)} in {self._what}").verify()
        return data

    def _saved(self) -> tuple[_Saved, ...]:
        try:
            return decode_json(self._read("manifest.json"), tuple[_Saved, ...])
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise Damaged(f"manifest.json in {self._what} is damaged: {error}") from error

    def _read(self, path: str) -> bytes:
        offset, size = self._find(path)
        if size > DOCUMENT_BYTES_MAX:
            raise Rejected(
                f"{path} in {self._what} has {size} bytes; {DOCUMENT_BYTES_MAX} would be large already"
            )
        with self._path.open("rb") as file:
            file.seek(offset)
            data = file.read(size)
        if len(data) < size:
            raise Damaged(f"{self._what} is cut off")
        return data

    def _find(self, path: str) -> tuple[int, int]:
        """Return where the content of a member is: its offset and size."""
        wanted = path
        for _ in range(_LINKS_MAX):
            if wanted in self._members:
                return self._members[wanted]
            if wanted not in self._links:
                break
            wanted = self._links[wanted]
        raise Damaged(f"{self._what} is incomplete: it does not hold {path}")


class _Window:
    """A piece of a file."""

    def __init__(self, file: BinaryIO, size: int, *, what: str) -> None:
        self._file = file
        self._left = size
        self._what = what

    def read(self, size: int, /) -> bytes:
        chunk = self._file.read(min(size, self._left))
        if not chunk and self._left and size:
            raise Damaged(f"{self._what} is cut off")
        self._left -= len(chunk)
        return chunk


def _plain(path: Path, work: Path, *, what: str, on_written: Callable[[int], None]) -> Path:
    """Return where the archive is as plain tar."""
    with path.open("rb") as file:
        start = file.read(len(_GZIP_MAGIC))
        file.seek(0)
        if start != _GZIP_MAGIC:
            return path
        plain = work / "archive.tar"
        stream = decompressed(file, what=what)
        with plain.open("wb") as out:
            while chunk := stream.read(CHUNK_BYTES):
                out.write(chunk)
                on_written(len(chunk))
    return plain


def _scan(path: Path, *, what: str) -> tuple[dict[str, tuple[int, int]], dict[str, str]]:
    """Return (where each file's content is, what each link points at) without reading content."""
    members: dict[str, tuple[int, int]] = {}
    links: dict[str, str] = {}
    with path.open("rb") as file:
        reader = TarReader(decompressed(file, what=what), what=what)
        while (member := reader.next(skip=lambda count: _skip(file, count))) is not None:
            if len(members) + len(links) >= _MEMBERS_MAX:
                raise Rejected(f"{what} holds more than {_MEMBERS_MAX} files, which no image archive does")
            name = _clean(member.name)
            if member.kind is Kind.FILE:
                members[name] = (reader.offset, member.size)
            elif member.kind is Kind.SYMLINK:
                links[name] = _clean(f"{name.rpartition('/')[0]}/{member.link}")
            elif member.kind is Kind.HARD_LINK:
                links[name] = _clean(member.link)
    if not members:
        raise Rejected(f"{what} is an empty archive")
    return members, links


def _skip(file: BinaryIO, count: int) -> None:
    file.seek(count, io.SEEK_CUR)


def _clean(path: str) -> str:
    """Return `path` without `.` and `..`; the result only looks up members, it is never opened."""
    parts: list[str] = []
    for part in path.split("/"):
        if part == "..":
            parts[-1:] = []
        elif part not in {"", "."}:
            parts.append(part)
    return "/".join(parts)


def _name_of(entry: Descriptor) -> str:
    """Return the full name a tool noted for this image; many note the tag alone, which names nothing."""
    for annotation in _NAME_ANNOTATIONS:
        text = (entry.annotations or {}).get(annotation, "")
        if "/" in text or ":" in text:
            with contextlib.suppress(Rejected):
                return parse(text).name
    return ""


def _blob_path(digest: str) -> str:
    algorithm, _, hexadecimal = digest.partition(":")
    return f"blobs/{algorithm}/{hexadecimal}"


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
