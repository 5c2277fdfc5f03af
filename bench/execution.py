"""How long a key that is pressed at `oak exec -it` takes to be seen, and how fast input passes through `oak exec -i`.

Needs a root that `oak` of who runs this can ask, and a service whose instance has `sh` and `cat`. A key goes from a
terminal through the command line, root, cluster and worker to a terminal in the container, and its echo back.
"""

from __future__ import annotations

import argparse
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable

from figures import Figures

OAK = (sys.executable, "-m", "oakestra", "exec")
PIPED_BYTES = 32 << 20
BEGUN = b"be-gun"


def main() -> None:
    """Press a key, wait for its echo, and again; then pipe some megabytes through."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("instance", help="a service, or SERVICE.NUMBER")
    arguments.add_argument("--keys", type=int, default=200)
    asked = arguments.parse_args()
    figures = Figures()
    figures.spread("key until its echo", "ms", _keys(asked.instance, asked.keys))
    figures.spread("piped through cat", "MB/s", [_piped(asked.instance) for _ in range(3)])
    figures.table()


def _keys(instance: str, count: int) -> list[float]:
    ours, inner = pty.openpty()
    words = (*OAK, "-it", instance, "--", "sh", "-c", "echo be-gun; exec cat")
    with subprocess.Popen(words, stdin=inner, stdout=inner, stderr=inner) as oak:
        os.close(inner)
        _until(ours, lambda seen: BEGUN in seen)
        found = [_key(ours) for _ in range(count)]
        os.write(ours, b"\x03")
        oak.wait()
    os.close(ours)
    return found


def _key(terminal: int) -> float:
    began_s = time.perf_counter()
    os.write(terminal, b"x")
    _until(terminal, lambda seen: b"x" in seen)
    return (time.perf_counter() - began_s) * 1e3


def _until(terminal: int, there: Callable[[bytes], bool]) -> None:
    seen = b""
    while not there(seen):
        seen += os.read(terminal, 65536)


def _piped(instance: str) -> float:
    began_s = time.perf_counter()
    sent = os.urandom(PIPED_BYTES)
    done = subprocess.run((*OAK, "-i", instance, "--", "cat"), input=sent, capture_output=True, check=True)
    assert done.stdout == sent
    return PIPED_BYTES / 1e6 / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
