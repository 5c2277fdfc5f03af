"""The documents that describe an image: index, manifest, configuration (OCI image spec 1.1, Docker schema 2). Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from oakestra.model.errors import Rejected
from oakestra.runtime.images.reference import is_digest

DOCUMENT_BYTES_MAX = 8 << 20
"""Larger manifests and configurations are refused: registries allow 4 MiB."""
LAYERS_MAX = 500

INDEX_TYPES = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
MANIFEST_TYPES = (
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_CONFIG_TYPES = (
    "application/vnd.oci.image.config.v1+json",
    "application/vnd.docker.container.image.v1+json",
    "application/octet-stream",
    "",
)
_LAYER_TYPES = ("application/vnd.oci.image.layer.", "application/vnd.docker.image.rootfs.")

VARIANTS = {"arm": ("v7", "v6", "v5", ""), "arm64": ("", "v8"), "amd64": ("", "v1")}
"""Variants of an architecture that its machines run, best first; of others only the plain one."""


class Platform(msgspec.Struct, frozen=True, kw_only=True):
    """A kind of machine."""

    architecture: str = ""
    os: str = ""
    variant: str = ""


class Descriptor(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Points at content by its digest."""

    digest: str
    size: int = 0
    media_type: str = ""
    platform: Platform | None = None
    annotations: dict[str, str] | None = None
    path: str = ""
    """In an archive of `docker save`: where it is, because there is no digest."""


class Index(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Lists an image's manifests, one per platform."""

    manifests: tuple[Descriptor, ...]


class Manifest(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Lists an image's layers, lowest first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


class _Settings(msgspec.Struct, frozen=True, kw_only=True, rename="pascal"):
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    env: tuple[str, ...] | None = None
    working_dir: str | None = None
    user: str | None = None
    stop_signal: str | None = None


class _RootFs(msgspec.Struct, frozen=True, kw_only=True):
    diff_ids: tuple[str, ...] = ()


class _Config(msgspec.Struct, frozen=True, kw_only=True):
    architecture: str = ""
    os: str = ""
    variant: str | None = ""
    created: str | None = ""
    config: _Settings | None = None
    rootfs: _RootFs = msgspec.field(default_factory=_RootFs)


class _Head(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    schema_version: int = 0
    media_type: str = ""
    manifests: msgspec.Raw = msgspec.Raw()


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """A layer: what to fetch, and the digest of its tar once decompressed."""

    diff_id: str
    blob: Descriptor


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One platform's image, described but not fetched."""

    digest: str
    names: tuple[str, ...]
    architecture: str
    layers: tuple[Layer, ...]
    created: str = ""
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    stop_signal: str = ""
    loaded: bool = field(default=False)
    """Put here by hand: nothing would bring it back, so it is not removed by itself."""


_Document = TypeVar("_Document")


def decode_json(data: bytes, kind: type[_Document]) -> _Document:
    """Return the document in `data`. Raises `msgspec.MsgspecError` or `UnicodeDecodeError`, whatever a stranger sent."""
    try:
        return msgspec.json.decode(data, type=kind)
    except RecursionError as error:
        raise msgspec.DecodeError("it is nested too deeply") from error


def decode_manifest(data: bytes, *, name: str) -> Index | Manifest:
    """Return the manifest or index in `data`; `name` is used in messages. Raises `Rejected`."""
    head = _decode(data, _Head, name=name, what="manifest")
    if bytes(head.manifests):
        index = _decode(data, Index, name=name, what="index")
        _check(index.manifests, name=name)
        return index
    if head.schema_version == 1:
        raise Rejected(f"{name} is in the image format of 2015 (schema 1); push it again with a current tool")
    manifest = _decode(data, Manifest, name=name, what="manifest")
    if manifest.config.media_type not in _CONFIG_TYPES:
        raise Rejected(
            f"{name} is not a container image but something else kept in a registry ({manifest.config.media_type})"
        )
    _check((manifest.config, *manifest.layers), name=name)
    for layer in manifest.layers:
        if layer.media_type and not layer.media_type.startswith(_LAYER_TYPES):
            raise Rejected(f"{name} has a layer of an unknown kind ({layer.media_type})")
    return manifest


def decode_image(
    data: bytes,
    layers: Sequence[Descriptor],
    *,
    digest: str,
    names: Sequence[str],
    architecture: str,
    loaded: bool = False,
) -> Image:
    """Return the image whose configuration is `data`. Raises `Rejected` if it is for another `architecture`."""
    name = names[0]
    config = _decode(data, _Config, name=name, what="configuration")
    if (config.os or "linux") != "linux" or config.architecture not in {architecture, ""}:
        raise Rejected(
            f"{name} is for {config.os}/{config.architecture}, this worker is linux/{architecture}; "
            "place the service on a fitting worker, or build the image for this one as well"
        )
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(layers):
        raise Rejected(
            f"{name} contradicts itself: {len(layers)} layers, but its configuration has {len(diff_ids)}"
        )
    if not diff_ids or len(diff_ids) > LAYERS_MAX:
        raise Rejected(f"{name} has {len(diff_ids)} layers; between 1 and {LAYERS_MAX} can be run")
    for diff_id in diff_ids:
        if not is_digest(diff_id):
            raise Rejected(
                f"the configuration of {name} names a layer by '{diff_id[:80]}', which is no digest"
            )
    settings = config.config or _Settings()
    return Image(
        digest=digest,
        names=tuple(names),
        architecture=config.architecture or architecture,
        layers=tuple(
            Layer(diff_id=diff_id, blob=blob) for diff_id, blob in zip(diff_ids, layers, strict=True)
        ),
        created=config.created or "",
        entrypoint=settings.entrypoint or (),
        command=settings.cmd or (),
        environment=settings.env or (),
        working_dir=settings.working_dir or "",
        user=settings.user or "",
        stop_signal=settings.stop_signal or "",
        loaded=loaded,
    )


def choose_platform(manifests: Sequence[Descriptor], architecture: str, *, name: str) -> Descriptor:
    """Return the manifest that suits a Linux machine of `architecture`. Raises `Rejected` naming those there are."""
    variants = VARIANTS.get(architecture, ("",))
    fitting = [
        (variants.index(platform.variant), place, entry)
        for place, entry in enumerate(manifests)
        if (platform := entry.platform) is not None
        and platform.os == "linux"
        and platform.architecture == architecture
        and platform.variant in variants
    ]
    if fitting:
        return min(fitting, key=lambda candidate: candidate[:2])[2]
    there = sorted({_render(entry.platform) for entry in manifests if entry.platform} - {"unknown/unknown"})
    raise Rejected(
        f"{name} is not available for linux/{architecture}, which this worker is; "
        f"it exists for {', '.join(there) or 'no named platform'}"
    )


def _check(descriptors: Sequence[Descriptor], *, name: str) -> None:
    for descriptor in descriptors:
        if not is_digest(descriptor.digest) or descriptor.size < 0:
            raise Rejected(
                f"the manifest of {name} names content by '{descriptor.digest[:80]}', which is no digest"
            )


def _render(platform: Platform) -> str:
    return "/".join(part for part in (platform.os, platform.architecture, platform.variant) if part)


def _decode(data: bytes, kind: type[_Document], *, name: str, what: str) -> _Document:
    try:
        return decode_json(data, kind)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise Rejected(f"the {what} of {name} is damaged or of an unknown kind: {error}") from error
