"""Try what a worker needs of the kernel, in a network and a mount namespace that vanish with the thread in them."""

from __future__ import annotations

import ctypes
import fcntl
import os
import struct
import subprocess
import tempfile
import threading
from collections.abc import Callable, Mapping
from ipaddress import IPv4Address
from pathlib import Path

from oakestra.model.address import Subnet
from oakestra.model.errors import OakestraError
from oakestra.model.ids import WorkerId
from oakestra.network import rules
from oakestra.network.names import GATEWAY_MAC, Names, tunnel_mac
from oakestra.network.namespaces import OWN
from oakestra.network.netlink import ROUTE, Message, Netlink
from oakestra.network.netlink import route as rt
from oakestra.runtime.oci import rootfs

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNS, _CLONE_NEWNET = 0x20000, 0x40000000
_MS_PRIVATE_ALL = 0x44000
_TUNSETIFF = 0x400454CA
_IFF_TUN_NO_PI = 0x1001
_NAMES = Names.of(WorkerId("doctor"))
_SUBNET = Subnet(v4="10.18.0.0/26", v6="fd18::/120")
_MTU = 1400
_PORT = 50103

Attempt = Callable[[], None]


def attempts(directory: Path, *, nft: str) -> Mapping[str, str]:
    """Return by name of what the kernel must have why it has not; empty text: it has. Nothing at all without root rights.

    Containers' files would be below `directory`; `nft` is the path of that program, without which rules are not tried.
    """
    found: dict[str, str] = {}

    def there() -> None:
        if not _leave():
            return
        for name, attempt in _all(directory, nft).items():
            found[name] = _trouble(attempt)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    return found


def _leave() -> bool:
    """Enter namespaces of our own; False if we may not."""
    if _libc.unshare(_CLONE_NEWNS | _CLONE_NEWNET):
        return False
    return not _libc.mount(b"none", b"/", None, _MS_PRIVATE_ALL, None)


def _all(directory: Path, nft: str) -> Mapping[str, Attempt]:
    rules_too: dict[str, Attempt] = {"nf_tables": lambda: _load_rules(nft)} if nft else {}
    return {
        "overlayfs": lambda: _mount_overlay(directory),
        "veth": _make_veth,
        "bridge": lambda: _make(rt.new_bridge(_NAMES.gateway, mac=GATEWAY_MAC, mtu=_MTU)),
        "vxlan": lambda: _make(
            rt.new_vxlan(
                _NAMES.tunnel, mac=tunnel_mac(1), mtu=_MTU, id=1, port=_PORT, local=IPv4Address("127.0.0.1")
            )
        ),
        **rules_too,
        "tun": _make_tun,
    }


def _trouble(attempt: Attempt) -> str:
    try:
        attempt()
    except OakestraError as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    return ""


def _mount_overlay(directory: Path) -> None:
    with tempfile.TemporaryDirectory(prefix=".oak-doctor-", dir=directory) as scratch:
        parts = {name: Path(scratch) / name for name in ("lower", "upper", "work", "target")}
        for part in parts.values():
            part.mkdir()
        rootfs.mount_layers(
            [parts["lower"]], upper=parts["upper"], work=parts["work"], target=parts["target"]
        )
        rootfs.unmount(parts["target"])


def _make_veth() -> None:
    here = os.open(OWN, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _make(
            rt.new_veth(
                _NAMES.instance(1),
                index=0,
                mac=GATEWAY_MAC,
                mtu=_MTU,
                peer=_NAMES.unfinished(1),
                peer_mac=tunnel_mac(1),
                peer_namespace=here,
            )
        )
    finally:
        os.close(here)


def _make(message: Message) -> None:
    netlink = Netlink(ROUTE)
    try:
        netlink.request([message])
    finally:
        netlink.close()


def _load_rules(nft: str) -> None:
    text = rules.render_table(
        _NAMES,
        [_SUBNET],
        tunnel_port=_PORT,
        found={name: {} for name in rules.SETS},
        sizes=rules.READY_SIZES,
    )
    done = subprocess.run((nft, "-f", "-"), input=text, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(0, (done.stderr.strip().splitlines() or ["nft said nothing"])[0])


def _make_tun() -> None:
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
    try:
        fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", b"oakdoctor", _IFF_TUN_NO_PI))
    finally:
        os.close(device)
