"""Say in the OCI runtime's words how a container is to be run (opencontainers/runtime-spec 1.0.2, config.md). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from oakestra.model.errors import Rejected
from oakestra.model.service import Resources
from oakestra.runtime import ContainerSpec
from oakestra.runtime.oci.rootfs import User
from oakestra.runtime.oci.seccomp import profile

DEFAULT_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PIDS_MAX = 4096
"""Processes and threads of one container: enough for any server, too few for a fork bomb to matter."""
CPU_SHARES_PER_VCPU = 1024
CPU_SHARES_LEAST = 128
"""For services that ask for no CPU: an eighth of one that asks for a core."""
SHARED_MEMORY = "64m"
OUT_OF_MEMORY_SCORE = 200
"""When the machine runs out of memory, a container goes before the agent and what else keeps the machine alive."""
_HOSTNAME_LENGTH_MAX = 63

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)
"""What servers that start as root need to give up being root. No raw sockets: they could speak for neighbours."""

_SYSCTL = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Low ports and ping belong to the container's own network, so they need neither root nor a capability there."""

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
_READ_ONLY = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys/fs/cgroup")
_NAMESPACES = ("pid", "ipc", "uts", "mount", "cgroup")
_QUIET = ("nosuid", "noexec", "nodev")


class ImageSettings(Protocol):
    """What an image says about running it."""

    @property
    def entrypoint(self) -> tuple[str, ...]: ...
    @property
    def command(self) -> tuple[str, ...]: ...
    @property
    def environment(self) -> tuple[str, ...]: ...
    @property
    def working_dir(self) -> str: ...
    @property
    def architecture(self) -> str: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class HostFacts:
    """What of the machine the description depends on."""

    architecture: str
    limits_memory: bool = True
    """Whether there is a memory controller; boards like the Raspberry Pi boot without."""
    limits_swap: bool = True
    capabilities: tuple[str, ...] = CAPABILITIES
    """All that the agent has, for privileged containers."""
    devices: tuple[Mapping[str, Any], ...] = ()
    """The machine's device nodes, for privileged containers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where things of this one container are."""

    rootfs: str
    cgroup: str
    user: User
    files: Mapping[str, str]
    """Path in the container → file on the machine that is to be there."""


def render(spec: ContainerSpec, image: ImageSettings, host: HostFacts, place: Place) -> dict[str, Any]:
    """Return config.json. Raises `Rejected` if neither the service nor the image says what to run."""
    return {
        "ociVersion": "1.0.2",
        "hostname": spec.hostname[:_HOSTNAME_LENGTH_MAX],
        "root": {"path": place.rootfs},
        "process": _process(spec, image, host, place.user),
        "mounts": _mounts(spec, place.files),
        "linux": _linux(spec, image, host, place),
    }


def environment(image: tuple[str, ...], service: tuple[str, ...]) -> list[str]:
    """Return the variables: the service's win over the image's, and there is always a PATH."""
    variables = dict(entry.partition("=")[::2] for entry in (DEFAULT_PATH, *image, *service))
    return [f"{name}={value}" for name, value in variables.items() if name]


def _process(spec: ContainerSpec, image: ImageSettings, host: HostFacts, user: User) -> dict[str, Any]:
    command = spec.command or (*image.entrypoint, *image.command)
    if not command:
        raise Rejected(
            f"neither the service nor its image {spec.image} says what to run; give the service a command"
        )
    held = list(host.capabilities if spec.privileged else CAPABILITIES)
    # Who is not root has no use for them beyond the bounding set, which programs with file capabilities draw on.
    effective = held if user.uid == 0 else []
    return {
        "args": list(command),
        "env": environment(image.environment, spec.environment),
        "cwd": image.working_dir if image.working_dir.startswith("/") else f"/{image.working_dir}",
        "user": {"uid": user.uid, "gid": user.gid, "additionalGids": list(user.groups)},
        "capabilities": {"bounding": held, "effective": effective, "permitted": effective},
        "noNewPrivileges": not spec.privileged,
        "oomScoreAdj": OUT_OF_MEMORY_SCORE,
    }


def _mounts(spec: ContainerSpec, files: Mapping[str, str]) -> list[dict[str, Any]]:
    access = "rw" if spec.privileged else "ro"
    return [
        _mount("/proc", "proc", *_QUIET),
        _mount("/dev", "tmpfs", "nosuid", "noexec", "strictatime", "mode=755", "size=64k"),
        _mount(
            "/dev/pts", "devpts", "nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"
        ),
        _mount("/dev/shm", "tmpfs", *_QUIET, "mode=1777", f"size={SHARED_MEMORY}"),  # noqa: S108 - the container's
        _mount("/dev/mqueue", "mqueue", *_QUIET),
        _mount("/sys", "sysfs", *_QUIET, access),
        _mount("/sys/fs/cgroup", "cgroup", *_QUIET, "relatime", access),
        *(
            _mount(target, "bind", "bind", "rprivate", *_QUIET, source=source)
            for target, source in files.items()
        ),
    ]


def _mount(target: str, kind: str, *options: str, source: str = "") -> dict[str, Any]:
    return {"destination": target, "type": kind, "source": source or kind, "options": list(options)}


def _linux(spec: ContainerSpec, image: ImageSettings, host: HostFacts, place: Place) -> dict[str, Any]:
    network = {"type": "network", **({"path": spec.netns_path} if spec.netns_path else {})}
    shared = {
        "namespaces": [*({"type": name} for name in _NAMESPACES), network],
        "cgroupsPath": place.cgroup,
        "rootfsPropagation": "rprivate",
        "sysctl": dict(_SYSCTL),
    }
    resources = _resources(spec.resources, host)
    if spec.privileged:
        resources["devices"] = [{"allow": True, "access": "rwm"}]
        return {**shared, "resources": resources, "devices": [dict(device) for device in host.devices]}
    return {
        **shared,
        "resources": resources,
        "seccomp": profile(host.architecture, image.architecture),
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
    }


def _resources(wanted: Resources, host: HostFacts) -> dict[str, Any]:
    shares = wanted.vcpus * CPU_SHARES_PER_VCPU or CPU_SHARES_LEAST
    resources: dict[str, Any] = {
        "devices": [{"allow": False, "access": "rwm"}],
        "cpu": {"shares": shares},
        "pids": {"limit": PIDS_MAX},
    }
    if wanted.memory_mib and host.limits_memory:
        limit_bytes = wanted.memory_mib << 20
        resources["memory"] = {"limit": limit_bytes, **({"swap": limit_bytes} if host.limits_swap else {})}
    return resources
