"""Be the parent of a command at a terminal, of which a detached `runc exec` has let go, and end as it ends.

A program of its own, which knows nothing of the package so that it starts quickly: python parent.py PIDFILE RUNC WORD...
"""

from __future__ import annotations

import ctypes
import os
import sys

PR_SET_CHILD_SUBREAPER = 36
"""linux/prctl.h: whoever below loses its parent becomes our child."""


def main(pid_file: str, *start: str) -> int:
    """Start the command; return its exit code, or that of what could not start it."""
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    starter = os.fork()
    if starter == 0:
        os.execvp(start[0], start)  # noqa: S606 - without a shell, as it should be
    code = _ended(starter)
    if code:
        return code
    with open(pid_file, encoding="ascii") as file:  # noqa: PTH123 - importing pathlib takes as long as all else
        command = int(file.read())
    return _ended(command)


def _ended(pid: int) -> int:
    _, status = os.waitpid(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
