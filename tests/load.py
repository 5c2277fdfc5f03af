"""Load from a lab's machines: requests one by one, and connections that stay open; what failed is known at the end."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lab_fixture import Fleet

_REQUESTS = """
import sys, threading, time, urllib.request

def ask(target):
    urllib.request.urlopen(target, timeout=5).read()

def worker(target):
    while not stop.is_set():
        begun_s = time.monotonic()
        try:
            ask(target)
        except OSError as error:
            failed.append(f"{target}: {error}")
        count[0] += 1
        stop.wait(max(0.0, 0.1 - (time.monotonic() - begun_s)))
"""
_LINES = """
import socket, sys, threading, time

def worker(target):
    host, port = target.rsplit(":", 1)
    try:
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            number = 0
            while not stop.is_set():
                number += 1
                line = b"%d\\n" % number
                connection.sendall(line)
                heard = b""
                while not heard.endswith(b"\\n"):
                    piece = connection.recv(100)
                    if not piece:
                        raise OSError("the other side hung up")
                    heard += piece
                if heard != line:
                    raise OSError(f"sent {line!r}, heard {heard!r}")
                count[0] += 1
                stop.wait(0.02)
    except OSError as error:
        failed.append(f"{target} after {number} lines: {error}")
"""
_ALL = """
import json
failed, count, stop = [], [0], threading.Event()
threads = [threading.Thread(target=worker, args=(target,)) for target in sys.argv[1:]]
for thread in threads:
    thread.start()
print("asking", flush=True)
sys.stdin.readline()
stop.set()
for thread in threads:
    thread.join()
print(json.dumps({"asked": count[0], "failed": failed}), flush=True)
"""


class Load:
    """What came of the load; known when it has ended."""

    asked = 0
    failed: Sequence[str] = ("it has not ended yet",)


@contextmanager
def requests(fleet: Fleet, host: str, *urls: str, threads: int = 10) -> Iterator[Load]:
    """Ask a hundred times a second from a host of the lab, each time over a connection of its own."""
    targets = [urls[number % len(urls)] for number in range(threads)]
    with _asking(fleet, host, _REQUESTS, targets) as load:
        yield load


@contextmanager
def connections(fleet: Fleet, host: str, *targets: str, each: int = 4) -> Iterator[Load]:
    """Keep connections open from a host of the lab to echoing servers, and hear every line again."""
    with _asking(fleet, host, _LINES, [target for target in targets for _ in range(each)]) as load:
        yield load


@contextmanager
def _asking(fleet: Fleet, host: str, code: str, targets: Sequence[str]) -> Iterator[Load]:
    command = fleet.oak.command(
        "lab", "exec", "--name", fleet.name, host, sys.executable, "-c", code + _ALL, *targets
    )
    result = Load()
    with subprocess.Popen(
        command, env=fleet.oak.variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as asking:
        assert asking.stdin is not None
        assert asking.stdout is not None
        assert asking.stdout.readline() == "asking\n"
        yield result
        asking.stdin.write("\n")
        asking.stdin.flush()
        told = json.loads(asking.stdout.readline())
        result.asked, result.failed = told["asked"], told["failed"]
