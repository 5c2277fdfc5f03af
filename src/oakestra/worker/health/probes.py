"""Ask instances whether they are well: over the machine's own network, or by a command inside."""

from __future__ import annotations

import asyncio
import errno
import os
from contextlib import aclosing
from typing import Protocol

from oakestra.model.errors import Rejected, Unavailable
from oakestra.model.service import CheckKind
from oakestra.runtime import CommandEnded, Runtime
from oakestra.worker.health.course import Patient, Probed, Verdict

ANSWER_BYTES_MAX = 8 * 1024
SAID_BYTES_MAX = 200
"""Of what a command inside says, the end is repeated in the reason."""
_GOOD_STATUS = range(200, 400)
_OWN_TROUBLE = {
    errno.EACCES, errno.EADDRNOTAVAIL, errno.EMFILE, errno.ENETDOWN, errno.ENETUNREACH, errno.ENFILE,
    errno.ENOBUFS, errno.ENOMEM, errno.EPERM,
}  # fmt: skip
"""What connecting fails with before anything was sent to the instance."""


class Prober(Protocol):
    """Asks instances on this machine."""

    async def probe(self, patient: Patient) -> Probed:
        """Ask once, for at most the check's timeout. What keeps the prober itself from asking is UNCLEAR."""


class MachineProber:
    """Implements `Prober` for instances in network namespaces that this machine reaches."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    async def probe(self, patient: Patient) -> Probed:
        match patient.check.kind:
            case CheckKind.EXEC:
                return await self._exec(patient)
            case CheckKind.HTTP | CheckKind.TCP:
                return await _over_network(patient)
            case CheckKind.UNKNOWN:
                return Probed(Verdict.UNCLEAR, "this worker does not know this kind of check; upgrade it")

    async def _exec(self, patient: Patient) -> Probed:
        check = patient.check
        said = bytearray()
        try:
            pieces = self._runtime.exec(patient.number, check.command, timeout_s=check.timeout_s)
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, CommandEnded):
                        return _judged(check.command[0], piece, bytes(said))
                    said += piece.data
                    del said[:-SAID_BYTES_MAX]
        except Rejected as error:
            return Probed(Verdict.FAILED, str(error))
        except Unavailable as error:
            return Probed(Verdict.UNCLEAR, str(error))
        raise AssertionError("a command tells how it ended")


def _judged(program: str, ended: CommandEnded, said: bytes) -> Probed:
    if ended.exit_code == 0:
        return Probed(Verdict.PASSED)
    how = ended.reason or f"ended with exit code {ended.exit_code}"
    lines = said.decode(errors="replace").split("\n")
    last = next((line.strip() for line in reversed(lines) if line.strip()), "")
    return Probed(Verdict.FAILED, f"{program} {how}{f': {last}' if last else ''}")


async def _over_network(patient: Patient) -> Probed:
    check = patient.check
    what = f"port {check.port}" if check.kind is CheckKind.TCP else f"GET :{check.port}{check.path}"
    try:
        async with asyncio.timeout(check.timeout_s):
            return await _connected(patient, what)
    except TimeoutError:
        return Probed(Verdict.FAILED, f"{what}: no answer within {check.timeout_s:g} s")
    except OSError as error:
        own = error.errno in _OWN_TROUBLE
        return Probed(Verdict.UNCLEAR if own else Verdict.FAILED, f"{what}: {_why(error)}")


def _why(error: OSError) -> str:
    """Return what the system says, without the addresses that asyncio adds."""
    return str(error) if error.errno is None else os.strerror(error.errno).lower()


async def _connected(patient: Patient, what: str) -> Probed:
    check, host = patient.check, patient.address.v4 or patient.address.v6
    reader, writer = await asyncio.open_connection(host, check.port, limit=ANSWER_BYTES_MAX)
    try:
        if check.kind is CheckKind.TCP:
            return Probed(Verdict.PASSED)
        shown = f"[{host}]" if ":" in host else host
        writer.write(
            f"GET {check.path} HTTP/1.1\r\nHost: {shown}:{check.port}\r\nUser-Agent: oakestra\r\n"
            "Accept: */*\r\nConnection: close\r\n\r\n".encode()
        )
        try:
            line = await reader.readline()
        except ValueError:
            line = b"an endless first line"
        return _answered(line, what)
    finally:
        writer.transport.abort()


def _answered(line: bytes, what: str) -> Probed:
    version, _, rest = line.partition(b" ")
    code = rest[:3]
    if not version.startswith(b"HTTP/") or not code.isdigit():
        return Probed(
            Verdict.FAILED, f"{what}: the answer is not HTTP" if line else f"{what}: an empty answer"
        )
    status = int(code)
    return Probed(Verdict.PASSED if status in _GOOD_STATUS else Verdict.FAILED, f"{what} answered {status}")
