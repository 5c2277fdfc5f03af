"""Which of an image's platforms runs here, and what is said when none does."""

from __future__ import annotations

import json

import pytest

from oakestra.model.errors import Rejected
from oakestra.runtime.images.manifest import (
    Descriptor,
    Index,
    Manifest,
    Platform,
    choose_platform,
    decode_image,
    decode_manifest,
)

DIGEST = "sha256:" + "ab" * 32


def entry(architecture: str, variant: str = "", os: str = "linux") -> Descriptor:
    return Descriptor(digest=DIGEST, platform=Platform(architecture=architecture, variant=variant, os=os))


ENTRIES = [
    entry("unknown", os="unknown"),
    entry("arm", "v5"),
    entry("arm", "v7"),
    entry("amd64", "v3"),
    entry("amd64"),
    entry("arm64", "v8"),
    entry("amd64", os="windows"),
]


@pytest.mark.parametrize(("architecture", "chosen"), [("arm", 2), ("amd64", 4), ("arm64", 5)])
def test_the_best_variant_is_chosen(architecture: str, chosen: int) -> None:
    assert choose_platform(ENTRIES, architecture, name="x") is ENTRIES[chosen]


def test_a_missing_platform_names_those_there_are() -> None:
    with pytest.raises(
        Rejected, match=r"linux/riscv64.*linux/amd64, linux/amd64/v3, linux/arm/v5.*windows/amd64"
    ) as no:
        choose_platform(ENTRIES, "riscv64", name="x")
    assert "unknown" not in str(no.value)


def test_a_variant_that_this_machine_may_lack_is_not_chosen() -> None:
    with pytest.raises(Rejected, match="linux/amd64/v3"):
        choose_platform([entry("amd64", "v3")], "amd64", name="x")


def config(**changes: object) -> bytes:
    return json.dumps(
        {
            "architecture": "amd64",
            "os": "linux",
            "rootfs": {"type": "layers", "diff_ids": [DIGEST]},
            **changes,
        }
    ).encode()


def test_settings_may_be_null_or_absent() -> None:
    settings = {
        "Entrypoint": None,
        "Cmd": ["a", "b"],
        "Env": ["K=v"],
        "User": "1000:1000",
        "StopSignal": "SIGINT",
    }
    image = decode_image(
        config(config=settings), [Descriptor(digest=DIGEST)], digest=DIGEST, names=["x"], architecture="amd64"
    )
    assert (image.entrypoint, image.command, image.environment) == ((), ("a", "b"), ("K=v",))
    assert (image.user, image.working_dir, image.stop_signal) == ("1000:1000", "", "SIGINT")


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (config(architecture="arm64"), "x is for linux/arm64, this worker is linux/amd64"),
        (config(os="windows"), "x is for windows/amd64"),
        (config(rootfs={"diff_ids": []}), "contradicts itself"),
        (config(rootfs={"diff_ids": ["sha256:../../x"]}), "no digest"),
        (config(config=[]), "damaged"),
        (b"", "damaged"),
        (b"\xff", "damaged"),
    ],
)
def test_an_unusable_configuration_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        decode_image(data, [Descriptor(digest=DIGEST)], digest=DIGEST, names=["x"], architecture="amd64")


def manifest(**changes: object) -> bytes:
    descriptor = {"digest": DIGEST, "size": 3}
    return json.dumps({"schemaVersion": 2, "config": descriptor, "layers": [descriptor], **changes}).encode()


def test_manifest_and_index_are_told_apart_by_what_they_hold() -> None:
    assert isinstance(decode_manifest(manifest(), name="x"), Manifest)
    index = json.dumps({"schemaVersion": 2, "manifests": [{"digest": DIGEST}]}).encode()
    assert isinstance(decode_manifest(index, name="x"), Index)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (
            manifest(config={"digest": DIGEST, "mediaType": "application/vnd.cncf.helm.config.v1+json"}),
            "not a container",
        ),
        (manifest(layers=[{"digest": DIGEST, "mediaType": "application/wasm"}]), "application/wasm"),
        (manifest(layers=[{"digest": "sha256:../../../etc/passwd"}]), "no digest"),
        (manifest(layers=[{"digest": DIGEST, "size": -1}]), "no digest"),
        (b'{"schemaVersion": 1, "fsLayers": []}', "schema 1"),
        (b'{"schemaVersion": 2}', "damaged"),
        (b"<html>", "damaged"),
        (b'{"x":' + b"[" * 200_000, "nested too deeply"),
        (b"\xff\xfe", "damaged"),
    ],
)
def test_an_unusable_manifest_is_rejected(data: bytes, says: str) -> None:
    with pytest.raises(Rejected, match=says):
        decode_manifest(data, name="x")
