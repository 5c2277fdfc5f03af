"""Network namespaces of instances: made, bound to a path, and taken away again."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path

from oakestra.control.failpoints import Point, reach
from oakestra.network.netlink import ROUTE, Netlink

_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_MS_BIND = 0x1000
_MNT_DETACH = 2
OWN = "/proc/thread-self/ns/net"
"""The calling thread's network namespace; `/proc/self` would be the main thread's."""


def make(path: Path, prepare: Callable[[Netlink], None]) -> Netlink:
    """Make a namespace, prepare it, bind it to `path`, and return a socket that speaks with its kernel.

    A thread of its own goes there and ends there, so that nothing ever has to find back.
    """
    made: list[Netlink] = []
    raised: list[BaseException] = []

    def there() -> None:
        try:
            _enter_new()
            made.append(Netlink(ROUTE))
            prepare(made[0])
            reach(Point.NETWORK_NAMESPACE_MADE)
            _bind(path)
        except BaseException as error:  # noqa: BLE001 - raised again where it belongs
            raised.append(error)

    thread = threading.Thread(target=there)
    thread.start()
    thread.join()
    if raised:
        for netlink in made:
            netlink.close()
        raise raised[0]
    return made[0]


def is_bound(path: Path) -> bool:
    """Tell whether a namespace is bound to `path`."""
    try:
        return path.stat().st_dev != path.parent.stat().st_dev
    except FileNotFoundError:
        return False


def take_away(path: Path) -> None:
    """Unbind `path`; the namespace goes when no process is in it. No-op when there is none."""
    with contextlib.suppress(FileNotFoundError):
        _call(_libc.umount2(os.fsencode(path), _MNT_DETACH), ignore={22})  # EINVAL: nothing is mounted there
        reach(Point.NETWORK_NAMESPACE_UNBOUND)
        path.unlink()


def _enter_new() -> None:
    _call(_libc.unshare(_CLONE_NEWNET))


def _bind(path: Path) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    path.touch(mode=0o400)
    _call(_libc.mount(OWN.encode(), os.fsencode(path), b"none", _MS_BIND, None))


def _call(result: int, *, ignore: frozenset[int] | set[int] = frozenset()) -> None:
    number = ctypes.get_errno()
    if result != 0 and number not in ignore:
        raise OSError(number, os.strerror(number))
