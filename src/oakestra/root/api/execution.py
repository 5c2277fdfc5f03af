"""Run commands in instances, for who may deploy them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncGenerator, AsyncIterator

from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Invalid, OakestraError, Unavailable
from oakestra.root.api.gate import Gate
from oakestra.root.api.own import chosen
from oakestra.root.api.reach import CallWorker
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import Endpoint, read_json, streamed
from oakestra.wire.execution import MEDIA_TYPE, CommandEnd, Execution, frame

logger = logging.getLogger(__name__)

SHOWN_MAX = 200
"""Of a command, so much is put into the log."""


class ExecutionApi:
    """Answers what is asked to run."""

    def __init__(self, operations: Operations, views: Views, gate: Gate, *, call_worker: CallWorker) -> None:
        self._operations = operations
        self._views = views
        self._gate = gate
        self._call_worker = call_worker

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [
            Endpoint(
                method="POST", path="/api/v1/services/{service_id}/exec", answer=self._gate.own(self.exec),
                tag="oak", summary="Run a command in an instance",
                details=(
                    "As the instance's user, within its limits; it reads nothing, and what it leaves running ends "
                    "with it. The answer is a stream of frames, each one byte (1: standard output, 2: standard "
                    'error, 3: the end), four bytes of length, big-endian, and the content: of the end `{"exit_code": '
                    '0, "reason": ""}`. An exit code of null: it is not known, for that reason.'
                ),
                body=Execution, media=MEDIA_TYPE,
            ),
        ]  # fmt: skip

    async def exec(self, asker: Principal, request: Request) -> Response:
        """Run a command in an instance."""
        asker.must_provide_applications()
        record = self._operations.service(asker, request.path_params["service_id"])
        wanted: Execution = await read_json(request, Execution)
        if not wanted.command[0] or any("\0" in word for word in wanted.command):
            raise Invalid("command: expected a program and its arguments, without NUL characters")
        instance = chosen(self._views.own_services([record])[0], wanted.instance)
        if instance.cluster_id is None or not instance.worker_id:
            reason = instance.reason or instance.placement_reason or "it was asked for a moment ago"
            raise Unavailable(
                f"instance {instance.number} is on no worker yet, so no command can run in it: {reason}"
            )
        logger.info(
            "command run in an instance",
            extra={
                "by": asker.name,
                "organization": asker.organization,
                "service": record.spec.id,
                "instance": instance.number,
                "worker": instance.worker_id,
                "command": shlex.join(wanted.command)[:SHOWN_MAX],
            },
        )
        arguments = {
            "service": record.spec.id,
            "slot": instance.number,
            "command": wanted.command,
            "timeout_s": wanted.timeout_s,
        }
        pieces = self._call_worker(instance.cluster_id, instance.worker_id, "exec", arguments)
        first = await anext(pieces, b"")  # what is refused at once is refused with a status code
        return streamed(_rest(first, pieces), media_type=MEDIA_TYPE)


async def _rest(first: bytes, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    try:
        yield first
        async for piece in pieces:
            yield piece
    except OakestraError as error:
        yield frame(CommandEnd(exit_code=None, reason=str(error)))
    finally:
        if isinstance(pieces, AsyncGenerator):
            await pieces.aclose()  # the worker is told that nobody listens, and ends the command
