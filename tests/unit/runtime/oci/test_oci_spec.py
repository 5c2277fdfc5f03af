"""What a container is given, as the OCI runtime is told."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest

from oakestra.model.errors import Rejected
from oakestra.model.service import Resources
from oakestra.runtime import ContainerSpec
from oakestra.runtime.oci.rootfs import User
from oakestra.runtime.oci.seccomp import ALLOWED, profile
from oakestra.runtime.oci.spec import (
    CAPABILITIES,
    CPU_SHARES_LEAST,
    PIDS_MAX,
    HostFacts,
    Place,
    environment,
    render,
)


@dataclass(frozen=True)
class Image:
    entrypoint: tuple[str, ...] = ("/entry",)
    command: tuple[str, ...] = ("default",)
    environment: tuple[str, ...] = ()
    working_dir: str = ""
    architecture: str = "amd64"


HOST = HostFacts(architecture="amd64", capabilities=("CAP_EVERYTHING",), devices=({"path": "/dev/kvm"},))
PLACE = Place(rootfs="/b/rootfs", cgroup="/oak/7", user=User(), files={"/etc/hosts": "/b/hosts"})


def wanted(**settings: Any) -> ContainerSpec:
    return replace(ContainerSpec(number=7, labels={}, image="i", hostname="web"), **settings)


def rendered(
    host: HostFacts = HOST, place: Place = PLACE, image: Image | None = None, **settings: Any
) -> dict[str, Any]:
    return render(wanted(**settings), image or Image(), host, place)


def test_the_command_replaces_entrypoint_and_command() -> None:
    assert rendered()["process"]["args"] == ["/entry", "default"]
    assert rendered(command=("mine",))["process"]["args"] == ["mine"]
    with pytest.raises(Rejected, match="what to run"):
        rendered(image=Image(entrypoint=(), command=()))


def test_later_variables_win_and_there_is_a_path() -> None:
    assert environment((), ()) == ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    assert environment(("PATH=/x", "A=1=2", "B"), ("A=3", "=odd")) == ["PATH=/x", "A=3", "B="]


def test_an_ordinary_container_is_confined() -> None:
    found = rendered()
    assert found["process"]["noNewPrivileges"] is True
    assert found["process"]["capabilities"]["bounding"] == list(CAPABILITIES)
    assert "CAP_SYS_ADMIN" not in CAPABILITIES
    assert {space["type"] for space in found["linux"]["namespaces"]} == {
        "pid", "ipc", "uts", "mount", "cgroup", "network",
    }  # fmt: skip
    assert found["linux"]["seccomp"]["defaultAction"] == "SCMP_ACT_ERRNO"
    assert "/proc/kcore" in found["linux"]["maskedPaths"]
    assert "/proc/sys" in found["linux"]["readonlyPaths"]
    assert found["linux"]["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    mounts = {mount["destination"]: mount for mount in found["mounts"]}
    assert "ro" in mounts["/sys"]["options"]
    assert "ro" in mounts["/sys/fs/cgroup"]["options"]
    assert mounts["/etc/hosts"]["source"] == "/b/hosts"


def test_a_privileged_container_is_not() -> None:
    found = rendered(privileged=True)
    assert found["process"]["capabilities"]["effective"] == ["CAP_EVERYTHING"]
    assert found["linux"]["devices"] == [{"path": "/dev/kvm"}]
    assert not {"seccomp", "maskedPaths", "readonlyPaths"} & found["linux"].keys()


def test_who_is_not_root_has_no_effective_capabilities() -> None:
    process = rendered(place=replace(PLACE, user=User(uid=5, gid=6, groups=(7,))))["process"]
    assert process["user"] == {"uid": 5, "gid": 6, "additionalGids": [7]}
    assert process["capabilities"]["effective"] == process["capabilities"]["permitted"] == []


def test_resources_become_limits() -> None:
    resources = rendered(resources=Resources(memory_mib=64, vcpus=2))["linux"]["resources"]
    assert resources["memory"] == {"limit": 64 << 20, "swap": 64 << 20}
    assert resources["cpu"] == {"shares": 2048}
    assert resources["pids"] == {"limit": PIDS_MAX}
    none = rendered()["linux"]["resources"]
    assert "memory" not in none
    assert none["cpu"] == {"shares": CPU_SHARES_LEAST}


def test_only_what_the_kernel_can_limit_is_asked_for() -> None:
    no_swap = replace(HOST, limits_swap=False)
    assert rendered(no_swap, resources=Resources(memory_mib=1))["linux"]["resources"]["memory"] == {
        "limit": 1 << 20
    }
    nothing = replace(HOST, limits_memory=False)
    assert "memory" not in rendered(nothing, resources=Resources(memory_mib=1))["linux"]["resources"]


def test_the_network_is_joined_or_its_own() -> None:
    assert {"type": "network"} in rendered()["linux"]["namespaces"]
    assert {"type": "network", "path": "/run/netns/x"} in rendered(netns_path="/run/netns/x")["linux"][
        "namespaces"
    ]


def test_names_and_directories_fit() -> None:
    assert len(rendered(hostname="x" * 200)["hostname"]) == 63
    assert rendered(image=Image(working_dir="app"))["process"]["cwd"] == "/app"
    assert rendered()["process"]["cwd"] == "/"


@pytest.mark.parametrize(
    "call",
    [
        "bpf",
        "perf_event_open",
        "userfaultfd",
        "io_uring_setup",
        "io_uring_enter",
        "keyctl",
        "add_key",
        "request_key",
        "mount",
        "umount2",
        "fsopen",
        "fsmount",
        "move_mount",
        "open_tree",
        "mount_setattr",
        "pivot_root",
        "setns",
        "unshare",
        "ptrace",
        "process_vm_readv",
        "process_vm_writev",
        "kexec_load",
        "kexec_file_load",
        "init_module",
        "finit_module",
        "delete_module",
        "reboot",
        "swapon",
        "swapoff",
        "settimeofday",
        "clock_settime",
        "open_by_handle_at",
        "pidfd_getfd",
        "quotactl",
        "acct",
        "iopl",
        "ioperm",
        "kcmp",
        "syslog",
        "vhangup",
        "nfsservctl",
    ],
)
def test_dangerous_calls_are_not_on_the_list(call: str) -> None:
    assert call not in ALLOWED


def test_calls_whose_arguments_decide() -> None:
    rules = profile("amd64", "amd64")["syscalls"]
    assert not {"clone", "clone3", "socket", "personality"} & set(ALLOWED)
    clone = next(rule for rule in rules if rule["names"] == ["clone"])
    assert clone["args"] == [
        {"index": 0, "op": "SCMP_CMP_MASKED_EQ", "value": 0x7E020000, "valueTwo": 0},
    ]
    assert next(rule for rule in rules if rule["names"] == ["clone3"])["errnoRet"] == 38


def test_a_second_architecture_only_when_the_image_needs_it() -> None:
    assert profile("amd64", "amd64")["architectures"] == ["SCMP_ARCH_X86_64"]
    assert profile("arm64", "arm")["architectures"] == ["SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"]
