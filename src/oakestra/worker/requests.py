"""Answer what tiers above ask about single instances: their logs, and commands to run in them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import aclosing
from typing import Any

from oakestra.model.container import ContainerState
from oakestra.model.errors import Invalid, NotFound, Unavailable
from oakestra.model.ids import ServiceId
from oakestra.model.instance import InstanceKey
from oakestra.model.terminal import Terminal, TerminalSize
from oakestra.runtime import CommandEnded, CommandInput, OutputStream, Runtime
from oakestra.transport.calls import Conversation, Method
from oakestra.wire.execution import (
    TIMEOUT_S,
    CommandEnd,
    Entered,
    FrameKind,
    InputEnd,
    Written,
    decode_input,
    frame,
)
from oakestra.worker.desired import Desired, LocalInstance

logger = logging.getLogger(__name__)

COMMANDS_MAX = 16
"""Commands that run in instances of this worker at once, besides health checks."""
_KINDS = {OutputStream.STDOUT: FrameKind.STDOUT, OutputStream.STDERR: FrameKind.STDERR}


class Requests:
    """Answers with what this worker has."""

    def __init__(self, runtime: Runtime, desired: Callable[[], Desired], *, name: str) -> None:
        self._runtime = runtime
        self._desired = desired
        self._name = name
        self._commands = 0

    def methods(self) -> Mapping[str, Method]:
        """Return what can be asked, by name."""
        return {"logs": self.logs, "exec": self.exec}

    def conversations(self) -> Mapping[str, Conversation]:
        """Return what can be asked and is told more while it is answered, by name."""
        return {"session": self.session}

    async def logs(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Yield an instance's log."""
        tail = arguments.get("tail_bytes")
        instance = await self._instance(arguments)
        lines = self._runtime.logs(
            instance.number,
            tail_bytes=None if tail is None else int(tail),
            follow=bool(arguments.get("follow", False)),
        )
        async for piece in lines:
            yield piece

    def exec(self, arguments: dict[str, Any]) -> AsyncIterator[bytes]:
        """Run a command in an instance; yield frames. Closing the iterator ends the command."""
        return self._run(arguments, None, None)

    def session(
        self, arguments: dict[str, Any], entered: AsyncGenerator[bytes, None]
    ) -> AsyncIterator[bytes]:
        """As `exec`, of a command that reads what is entered: frames, too."""
        return self._run(arguments, _input(entered), _terminal(arguments.get("terminal")))

    async def _run(
        self,
        arguments: dict[str, Any],
        entered: AsyncGenerator[CommandInput, None] | None,
        terminal: Terminal | None,
    ) -> AsyncGenerator[bytes, None]:
        instance = await self._instance(arguments)
        command = tuple(str(word) for word in arguments.get("command", ()))
        if not command or not command[0] or any("\0" in word for word in command):
            raise Invalid("there is no command to run: expected a program and its arguments")
        if self._commands >= COMMANDS_MAX:
            raise Unavailable(
                f"{COMMANDS_MAX} commands run in instances of worker {self._name} already; try again when one has ended"
            )
        logger.info(
            "command run in an instance",
            extra={"instance": f"{instance.spec.name}.{instance.key.number}", "command": shown(command)},
        )
        timeout_s = float(arguments.get("timeout_s", TIMEOUT_S))
        pieces = self._runtime.exec(
            instance.number, command, timeout_s=timeout_s, entered=entered, terminal=terminal
        )
        self._commands += 1
        try:
            async with aclosing(pieces):
                async for piece in pieces:
                    if isinstance(piece, CommandEnded):
                        yield frame(CommandEnd(exit_code=piece.exit_code, reason=piece.reason))
                    else:
                        yield frame(Written(_KINDS[piece.stream], piece.data))
        finally:
            self._commands -= 1

    async def _instance(self, arguments: Mapping[str, Any]) -> LocalInstance:
        shown = InstanceKey(
            ServiceId(str(arguments.get("service", ""))),
            int(arguments.get("slot", -1)),
            int(arguments.get("placement", 0)),
            int(arguments.get("attempt", 0)),
        )
        attempts = [known for known in self._desired().instances if known.key.slot == shown.slot]
        if not attempts:
            raise NotFound(f"instance {shown.number} of this service is not on worker {self._name}")
        running = {
            seen.number for seen in await self._runtime.observe() if seen.state is ContainerState.RUNNING
        }
        return _meant(attempts, shown, running)


def _meant(attempts: Sequence[LocalInstance], shown: InstanceKey, running: Collection[int]) -> LocalInstance:
    """Return the attempt that somebody means who was shown this one; an older root does not tell which it shows.

    While an instance is updated where it is, its successor is the latest, and cannot answer yet.
    """
    return max(
        attempts,
        key=lambda known: (
            shown in (known.key, known.made_as),
            known.number in running and not known.withdrawn,
            known.key,
        ),
    )


async def _input(bodies: AsyncGenerator[bytes, None]) -> AsyncGenerator[CommandInput, None]:
    """Yield what a command is to read, until it is said that there is no more; root passes on nothing else."""
    async for body in bodies:
        for entered in decode_input(body):
            match entered:
                case Entered():
                    yield entered.data
                case TerminalSize():
                    yield entered
                case InputEnd():
                    return


def _terminal(asked: Any) -> Terminal | None:
    if not isinstance(asked, Mapping):
        return None
    size = TerminalSize(rows=int(asked["rows"]), columns=int(asked["columns"]))
    return Terminal(size=size, name=str(asked["name"]))


def shown(command: tuple[str, ...], *, length_max: int = 200) -> str:
    """Return a command as it would be typed, the end of a long one left out."""
    text = shlex.join(command)
    return text if len(text) <= length_max else f"{text[:length_max]}…"
