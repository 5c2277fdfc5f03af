"""Run commands as their last ancestor: whatever they leave behind becomes a child of this process.

Reads one JSON object a line: `{"run": [...], "environment": {...}, "kill_after_s": 0.2}` runs a command, kills it after
that time if there is one, and answers `{"code": ..., "said": "..."}` when it has ended. `{"left": true}` answers
`{"left": [...]}`: every process that lives and was started, directly or not, by any of the commands.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import subprocess
import sys
import tempfile
from typing import Any

from oakestra.control import processes

PR_SET_CHILD_SUBREAPER = 36


def main() -> None:
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    for line in sys.stdin:
        order = json.loads(line)
        print(json.dumps(_run(order) if "run" in order else {"left": _left()}), flush=True)


def _run(order: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryFile("w+") as output:
        child = subprocess.Popen(
            order["run"], stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=order["environment"]
        )
        ending = os.pidfd_open(child.pid)
        try:
            if not select.select([ending], [], [], order.get("kill_after_s"))[0]:
                child.kill()
            code = child.wait()
        finally:
            os.close(ending)
        output.seek(0)
        return {"code": code, "said": output.read()}


def _left() -> list[str]:
    _reap()
    children = [pid for pid in processes.descendants((os.getpid(),)) if pid != os.getpid()]
    return [" ".join(processes.arguments(pid)) for pid in children if processes.look(pid) is not None]


def _reap() -> None:
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


if __name__ == "__main__":
    main()
