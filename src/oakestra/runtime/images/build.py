"""Build small images without a container engine: the example, and what tests need. The same input gives the same bytes.

`python -m oakestra.runtime.images.build --example OUT.tar` writes the example image, made of a static busybox and
the two scripts next to this file.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import io
import shutil
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path

import msgspec

from oakestra.model.errors import Rejected
from oakestra.runtime.images.reference import parse

EXAMPLE_REFERENCE = "docker.io/oakestra/example:1"
EXAMPLE_PORT = 80
_EPOCH = "1970-01-01T00:00:00Z"
_ELF_MAGIC = b"\x7fELF"
_ELF_MACHINES = {62: "amd64", 183: "arm64", 40: "arm", 243: "riscv64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class File:
    """A regular file. Its name may begin with `.wh.` to hide what a lower layer has."""

    content: bytes = b""
    mode: int = 0o644
    uid: int = 0
    gid: int = 0
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Directory:
    """A directory; those on the way to other entries need not be named."""

    mode: int = 0o755
    uid: int = 0
    gid: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Symlink:
    """A symbolic link."""

    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HardLink:
    """Another name of a file of the same layer."""

    target: str


Entry = File | Directory | Symlink | HardLink
Layer = Mapping[str, Entry]
"""What a layer holds, by path without a leading slash."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How an image is run by default."""

    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",)
    working_dir: str = "/"
    user: str = ""
    stop_signal: str = ""


def build_archive(
    path: Path,
    reference: str,
    layers: Sequence[Layer],
    *,
    architecture: str,
    settings: Settings | None = None,
) -> str:
    """Write an OCI archive holding one image, which `docker load` takes as well; return the image's digest."""
    name = parse(reference).name
    tars = [_tar(layer) for layer in layers]
    packed = [gzip.compress(content, mtime=0) for content in tars]
    config = _json(_config(settings or Settings(), [_digest(content) for content in tars], architecture))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": _descriptor("application/vnd.oci.image.config.v1+json", config),
            "layers": [_descriptor("application/vnd.oci.image.layer.v1.tar+gzip", blob) for blob in packed],
        }
    )
    names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    listed = {
        **_descriptor("application/vnd.oci.image.manifest.v1+json", manifest),
        "platform": {"architecture": architecture, "os": "linux"},
        "annotations": names,
    }
    saved = {
        "Config": _blob_path(config),
        "RepoTags": [name],
        "Layers": [_blob_path(blob) for blob in packed],
    }
    members = {
        "oci-layout": _json({"imageLayoutVersion": "1.0.0"}),
        "index.json": _json({"schemaVersion": 2, "manifests": [listed]}),
        "manifest.json": _json([saved]),
        **{_blob_path(blob): blob for blob in (manifest, config, *packed)},
    }
    path.write_bytes(_tar({member: File(content=content) for member, content in members.items()}))
    return _digest(manifest)


def build_busybox_image(
    path: Path,
    reference: str,
    *,
    extra_files: Mapping[str, bytes | Entry] | None = None,
    command: Sequence[str] = ("/bin/sh",),
    settings: Settings | None = None,
) -> str:
    """Write an OCI archive with this machine's busybox and `extra_files` (bytes: made executable); return the digest.

    `command` is used unless `settings` are given. Raises `Rejected` if there is no static busybox.
    """
    binary, architecture = _busybox()
    extra = {
        name: File(content=entry, mode=0o755) if isinstance(entry, bytes) else entry
        for name, entry in (extra_files or {}).items()
    }
    settings = settings or Settings(command=tuple(command))
    return build_archive(
        path,
        reference,
        [_base_layer(binary), *([extra] if extra else [])],
        architecture=architecture,
        settings=settings,
    )


def build_example(path: Path) -> str:
    """Write the example image; return its digest.

    Its default command answers HTTP on port 80; the command `client` fetches the URL in SERVER every second.
    """
    return build_busybox_image(
        path,
        EXAMPLE_REFERENCE,
        extra_files={
            "bin/serve": _script("serve.sh"),
            "bin/client": _script("client.sh"),
            "www/cgi-bin/index.cgi": _script("page.sh"),
        },
        command=("serve",),
    )


def _script(name: str) -> bytes:
    return (resources.files("oakestra.runtime.images") / "example" / name).read_bytes()


def _busybox() -> tuple[Path, str]:
    """Return this machine's busybox and the architecture it is for."""
    found = shutil.which("busybox")
    if found is None:
        raise Rejected("there is no busybox on this machine; install the package busybox-static")
    path = Path(found).resolve()
    content = path.read_bytes()
    if b"/ld-linux" in content or b"/ld-musl" in content:
        raise Rejected(
            f"{path} needs libraries that an image does not have; install the package busybox-static"
        )
    machine = int.from_bytes(content[18:20], "little")
    if not content.startswith(_ELF_MAGIC) or machine not in _ELF_MACHINES:
        raise Rejected(f"{path} is for no known architecture (ELF machine {machine})")
    return path, _ELF_MACHINES[machine]


def _base_layer(busybox: Path) -> Layer:
    """Return what every Linux program expects: busybox under all its names, users, and the usual directories."""
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return {
        **{f"bin/{applet}": Symlink(target="busybox") for applet in listed if applet != "busybox"},
        "bin/busybox": File(content=busybox.read_bytes(), mode=0o755),
        **{name: Directory() for name in ("dev", "etc", "proc", "sys", "run", "var", "usr", "www")},
        "root": Directory(mode=0o700),
        "tmp": Directory(mode=0o1777),
        "usr/bin": Symlink(target="../bin"),
        "sbin": Symlink(target="bin"),
        "etc/passwd": File(
            content=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        ),
        "etc/group": File(content=b"root:x:0:\nnogroup:x:65534:\n"),
    }


def _config(settings: Settings, diff_ids: Sequence[str], architecture: str) -> Mapping[str, object]:
    run = {
        "Entrypoint": settings.entrypoint,
        "Cmd": settings.command,
        "Env": settings.environment,
        "WorkingDir": settings.working_dir,
        "User": settings.user,
        "StopSignal": settings.stop_signal,
    }
    return {
        "created": _EPOCH,
        "architecture": architecture,
        "os": "linux",
        "config": {key: value for key, value in run.items() if value},
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        "history": [{"created": _EPOCH, "created_by": "oakestra"} for _ in diff_ids],
    }


def _tar(layer: Layer) -> bytes:
    """Return a tar of the entries in order of their paths, but hard links last: what they name must come first."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, entry in sorted(layer.items(), key=lambda item: (isinstance(item[1], HardLink), item[0])):
            member = tarfile.TarInfo(path)
            content = b""
            match entry:
                case File():
                    content = entry.content
                    member.size, member.mode, member.uid, member.gid = (
                        len(content),
                        entry.mode,
                        entry.uid,
                        entry.gid,
                    )
                    member.pax_headers = {
                        f"SCHILY.xattr.{key}": value.decode("utf-8", "surrogateescape")
                        for key, value in entry.xattrs.items()
                    }
                case Directory():
                    member.type = tarfile.DIRTYPE
                    member.mode, member.uid, member.gid = entry.mode, entry.uid, entry.gid
                case Symlink():
                    member.type, member.mode, member.linkname = tarfile.SYMTYPE, 0o777, entry.target
                case HardLink():
                    member.type, member.linkname = tarfile.LNKTYPE, entry.target
            archive.addfile(member, io.BytesIO(content))
    return buffer.getvalue()


def _json(value: object) -> bytes:
    return msgspec.json.encode(value)


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _descriptor(media_type: str, content: bytes) -> Mapping[str, object]:
    return {"mediaType": media_type, "digest": _digest(content), "size": len(content)}


def _blob_path(content: bytes) -> str:
    return f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def main() -> None:
    """Write the example image to the file named on the command line."""
    parser = argparse.ArgumentParser(prog="python -m oakestra.runtime.images.build", description=__doc__)
    parser.add_argument(
        "--example", metavar="OUT.tar", type=Path, required=True, help=f"write {EXAMPLE_REFERENCE}"
    )
    chosen = parser.parse_args()
    try:
        digest = build_example(chosen.example)
    except Rejected as error:
        parser.exit(1, f"{error.message}\n")
    parser.exit(0, f"{chosen.example}: {EXAMPLE_REFERENCE} {digest}\n")


if __name__ == "__main__":
    main()
