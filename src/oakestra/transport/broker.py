"""Run the cluster's MQTT broker: Mosquitto, in a process of its own that outlives the cluster's.

Workers stay connected while the cluster process is restarted or upgraded: a new one finds the broker that runs on this
directory and adopts it. The distribution's own mosquitto service runs on another directory and is never touched.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import pwd
import shutil
import signal
import stat
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from random import Random

import msgspec

from oakestra.control import endings, logs, processes
from oakestra.control.failpoints import Point, reach
from oakestra.model.errors import OakestraError, Rejected, Unavailable
from oakestra.transport import tcp

logger = logging.getLogger(__name__)

READY_WITHIN_S = 10.0
STOPPED_WITHIN_S = 5.0
LOOK_EVERY_S = 0.05
STEADY_S = 60.0
"""A broker that ran for so long was a good one; the log is looked at as often."""
LOG_BYTES_MAX = 4 << 20

_RECORD = "mosquitto.json"
_LISTENER = """\
# Written by the Oakestra cluster that this broker serves; changes are overwritten.
listener {port} {listen}
allow_anonymous true
persistence false
set_tcp_nodelay true
sys_interval 0
log_dest stderr
"""
_LIMITS = """\
log_type error
log_type warning
log_type notice
connection_messages false
log_timestamp_format %Y-%m-%dT%H:%M:%S
# Per client; what does not fit is dropped, and the tiers send it again.
max_queued_messages 4000
# Messages are at most 1 MiB; the rest is for headers.
max_packet_size 1114112
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerProcess:
    """A running broker, and digests of the configuration it has."""

    pid: int
    started: int
    """When, in clock ticks since boot: process ids are used again."""
    listener: str = ""
    """Of the part that takes a restart; empty: unknown."""
    limits: str = ""
    """Of the part that is read again on SIGHUP."""


class Broker:
    """Mosquitto on `listen`:`port`, with its configuration and log in `directory`. One broker per directory."""

    def __init__(
        self, directory: Path, *, listen: str, port: int, random: Random, mosquitto: str = "mosquitto"
    ) -> None:
        self._directory = directory.absolute()
        self._configuration = self._directory / "mosquitto.conf"
        self._record = self._directory / _RECORD
        self._log = self._directory / "mosquitto.log"
        self._listen = listen
        self._port = port
        self._random = random
        self._mosquitto = mosquitto
        self._listener = _LISTENER.format(listen=listen, port=port)
        self._owner = _owner()
        if self._owner is not None:
            self._listener += f"user {self._owner.pw_name}\n"

    async def run(self) -> None:
        """Keep the broker running until cancelled; the broker goes on after that.

        Raises `Rejected` or `Unavailable` if it cannot be started in the first place.
        """
        process = await self.start()
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            since_s = loop.time()
            await self._until_dead(process)
            failures = 0 if loop.time() - since_s > STEADY_S else failures
            logger.error("the broker has died, starting it again", extra={"log": self._log})
            process, failures = await self._start_again(failures)

    async def _start_again(self, failures: int) -> tuple[BrokerProcess, int]:
        said = ""
        while True:
            failures += 1
            await asyncio.sleep(tcp.retry_s(failures, self._random))
            try:
                return await self.start(), failures
            except OakestraError as error:
                if str(error) != said:
                    said = str(error)
                    logger.error("the broker does not start, will retry", extra={"error": said})  # noqa: TRY400 - the sentence says it all

    async def start(self) -> BrokerProcess:
        """Make sure that the broker runs with our configuration: adopt it, reload it, restart it or start it.

        Raises `Rejected` if Mosquitto is missing or somebody else has the port, `Unavailable` if it does not come up.
        """
        wanted = BrokerProcess(
            pid=0, started=0, listener=_digest(self._mosquitto, self._listener), limits=_digest(_LIMITS)
        )
        process = self._running()
        if process is None or not self._adopt(process, wanted):
            if process is not None:
                logger.info("restarting the broker with another configuration", extra={"pid": process.pid})
                await _end(process)
            self._configure()
            process = await self._spawn()
            reach(Point.TRANSPORT_BROKER_STARTED)
        process = replace(wanted, pid=process.pid, started=process.started)
        _write(self._record, msgspec.json.encode(asdict(process)))
        return process

    def _adopt(self, process: BrokerProcess, wanted: BrokerProcess) -> bool:
        """Take over a running broker; tell whether that is possible without a restart."""
        if process.listener != wanted.listener:
            return False
        if process.limits != wanted.limits:
            if not self._reads_again():
                return False
            self._configure()
            os.kill(process.pid, signal.SIGHUP)
        logger.info("found the broker running", extra={"pid": process.pid, "port": self._port})
        return True

    def _reads_again(self) -> bool:
        """Tell whether the broker, no longer root, can still reach its configuration."""
        return self._owner is None or all(
            parent.stat().st_mode & stat.S_IXOTH for parent in self._directory.parents
        )

    async def stop(self) -> None:
        """End the broker, if it runs."""
        process = self._running()
        if process is not None:
            await _end(process)
        self._record.unlink(missing_ok=True)

    def _configure(self) -> None:
        """Write the configuration where the user that the broker runs as can read it."""
        self._directory.mkdir(parents=True, exist_ok=True)
        _write(self._configuration, (self._listener + _LIMITS).encode())
        if self._owner is not None:  # it may read, no more: what it could write here, root would follow
            for path, mode in ((self._directory, 0o750), (self._configuration, 0o640)):
                os.chown(path, -1, self._owner.pw_gid)
                path.chmod(mode)

    async def _spawn(self) -> BrokerProcess:
        program = shutil.which(self._mosquitto, path=processes.PATH)
        if program is None:
            raise Rejected(
                f"there is no program {self._mosquitto!r} on this machine; install it: apt-get install mosquitto"
            )
        self._check_port()
        log = os.open(self._log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o640)
        try:
            pid = os.posix_spawn(  # noqa: ASYNC221 - takes a millisecond; asyncio's way would end it with us
                program,
                (program, "-c", str(self._configuration)),
                {"PATH": processes.PATH},
                file_actions=[(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)],
                setsid=True,
                setsigdef=[signal.SIGPIPE],
            )
        finally:
            os.close(log)
        process = BrokerProcess(pid=pid, started=_started(pid) or 0)
        await self._until_ready(process)
        logger.info("started the broker", extra={"pid": pid, "listen": self._listen, "port": self._port})
        return process

    def _check_port(self) -> None:
        try:
            tcp.listen(self._listen, self._port).close()
        except Rejected as error:
            raise Rejected(
                f"the broker cannot have {self._listen} port {self._port}: {error.__cause__}. See who has it with "
                f"`ss -ltnp 'sport = :{self._port}'` and stop that, or give the cluster another MQTT port"
            ) from error

    async def _until_ready(self, process: BrokerProcess) -> None:
        """Return when the broker accepts connections. Raises `Unavailable` if it ends or never does."""
        address = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self._listen, self._listen)  # noqa: S104 - compared
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(READY_WITHIN_S):
                while _alive(process):
                    try:
                        _, writer = await asyncio.open_connection(address, self._port)
                    except OSError:
                        await asyncio.sleep(LOOK_EVERY_S)
                    else:
                        writer.close()
                        return
        await _end(process)
        raise Unavailable(f"Mosquitto did not come up; it said: {self._last_words()}")

    def _last_words(self) -> str:
        lines = self._log.read_text(errors="replace").splitlines()
        return " / ".join(lines[-3:]) or "nothing"

    def _running(self) -> BrokerProcess | None:
        """Return the broker that runs on this directory, whoever started it."""
        recorded = recorded_broker(self._directory)
        for pid in processes.find_by_argument(str(self._configuration)):
            if processes.arguments(pid)[1:] != ("-c", str(self._configuration)):
                continue
            started = _started(pid)
            if recorded is not None and (recorded.pid, recorded.started) == (pid, started):
                return recorded
            if started is not None:
                return BrokerProcess(pid=pid, started=started)
        return None

    async def _until_dead(self, process: BrokerProcess) -> None:
        """Return when the process has ended; meanwhile keep its log small."""
        while not await endings.gone_within(process.pid, process.started, STEADY_S):
            logs.keep_small(self._log, bytes_max=LOG_BYTES_MAX)


def recorded_broker(directory: Path) -> BrokerProcess | None:
    """Return the broker that was last started on this directory, whether it lives or not."""
    try:
        return msgspec.json.decode((directory / _RECORD).read_bytes(), type=BrokerProcess)
    except (OSError, msgspec.DecodeError):
        return None


def _owner() -> pwd.struct_passwd | None:
    """Return the user that Mosquitto becomes when root starts it; None if we are not root and it stays who we are."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("mosquitto")
    except KeyError:
        return pwd.getpwnam("nobody")


def _digest(*texts: str) -> str:
    return hashlib.blake2b("\0".join(texts).encode(), digest_size=8).hexdigest()


def _write(path: Path, content: bytes) -> None:
    """Replace a file at once: a reader sees the old content or the new."""
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(content)
    draft.replace(path)


async def _end(process: BrokerProcess) -> None:
    for order in (signal.SIGTERM, signal.SIGKILL):
        if not _alive(process):
            break
        processes.kill(process.pid, order)
        if await endings.gone_within(process.pid, process.started, STOPPED_WITHIN_S):
            break


def _alive(process: BrokerProcess) -> bool:
    return processes.is_running(process.pid, process.started)


def _started(pid: int) -> int | None:
    """Return when the process was started; None if it has ended."""
    seen = processes.look(pid)
    return seen.start_ticks if seen else None
