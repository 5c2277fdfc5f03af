"""Run commands in instances, for who may deploy them."""

from __future__ import annotations

import logging
import shlex
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Invalid, OakestraError, Unavailable
from oakestra.model.ids import ClusterId, WorkerId
from oakestra.root.api.answers import with_end
from oakestra.root.api.applications import whole_number
from oakestra.root.api.gate import Gate
from oakestra.root.api.own import chosen, named
from oakestra.root.api.reach import Reach
from oakestra.root.api.sessions import Sessions
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import Endpoint, Query, json_response, read_body, read_json, streamed
from oakestra.wire.execution import MEDIA_TYPE, CommandEnd, Execution, InputTaken, frame

logger = logging.getLogger(__name__)

SHOWN_MAX = 200
"""Of a command, so much is put into the log."""


class ExecutionApi:
    """Answers what is asked to run."""

    def __init__(
        self,
        operations: Operations,
        views: Views,
        gate: Gate,
        reach: Reach,
        *,
        sessions: Sessions,
    ) -> None:
        self._operations = operations
        self._views = views
        self._gate = gate
        self._reach = reach
        self._sessions = sessions

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [
            Endpoint(
                method="POST", path="/api/v1/services/{service_id}/exec", answer=self._gate.own(self.exec),
                tag="oak", summary="Run a command in an instance",
                details=(
                    "As the instance's user, within its limits; what it leaves running ends with it. The answer is a "
                    "stream of frames, each one byte (1: standard output, 2: standard error, 3: the end), four bytes "
                    'of length, big-endian, and the content: of the end `{"exit_code": 0, "reason": ""}`. An exit '
                    "code of null: it is not known, for that reason. With `stdin` the first frame, of kind 4, is "
                    '`{"session": ...}`, to which is posted what the command reads; else it reads nothing.'
                ),
                body=Execution, media=MEDIA_TYPE,
            ),
            Endpoint(
                method="POST", path="/api/v1/sessions/{session_id}/input", answer=self._gate.own(self.enter),
                tag="oak", summary="Enter something into a command that runs",
                details=(
                    "The body is made of frames as those of the command's answer: 5: standard input, 7: its end, 6: "
                    'the terminal\'s size, `{"rows": 24, "columns": 80}`; of nothing it is a sign of life, of which a '
                    "session needs one a minute. Post again what the answer's `next` does not count as taken."
                ),
                reply=InputTaken, query=(Query(name="sequence", about="Number of this post in its session, from 0.", kind=int),),
            ),
        ]  # fmt: skip

    async def exec(self, asker: Principal, request: Request) -> Response:
        """Run a command in an instance."""
        asker.must_provide_applications()
        record = self._operations.service(asker, request.path_params["service_id"])
        wanted: Execution = await read_json(request, Execution)
        if not wanted.command[0] or any("\0" in word for word in wanted.command):
            raise Invalid("command: expected a program and its arguments, without NUL characters")
        if wanted.terminal is not None and not wanted.stdin:
            raise Invalid("terminal: whoever is at a terminal types something; ask for stdin, too")
        shown = self._views.own_services([record])[0]
        instance = chosen(shown, wanted.instance)
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
            **named(shown, instance),
            "command": wanted.command,
            "timeout_s": wanted.timeout_s,
        }
        where = instance.cluster_id, instance.worker_id
        try:
            answer = await (
                self._session(asker, where, {**arguments, "terminal": wanted.terminal})
                if wanted.stdin
                else self._unattended(where, arguments)
            )
        except Unavailable as error:
            if instance.ready:
                raise
            state = f"{instance.phase}: {instance.reason}" if instance.reason else instance.phase
            raise Unavailable(
                f"{error} (it is {state}); see what it wrote: oak service logs {record.spec.name}.{instance.number}"
            ) from error
        return streamed(answer, media_type=MEDIA_TYPE)

    async def _unattended(
        self, where: tuple[ClusterId, WorkerId], arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        pieces = self._reach.call(*where, "exec", arguments)
        first = await anext(pieces, b"")  # what is refused at once is refused with a status code
        return with_end(first, pieces, _broken_off)

    async def _session(
        self, asker: Principal, where: tuple[ClusterId, WorkerId], arguments: Mapping[str, Any]
    ) -> AsyncGenerator[bytes, None]:
        pieces, entry = self._reach.converse(*where, "session", arguments)
        first = await anext(pieces, b"")
        return self._sessions.answer(asker, first, pieces, entry)

    async def enter(self, asker: Principal, request: Request) -> Response:
        """Enter something into a command."""
        sequence = whole_number(
            request.query_params.get("sequence", ""), "the number of this post in its session"
        )
        body = await read_body(request)
        taken = await self._sessions.enter(asker, request.path_params["session_id"], sequence, body)
        return json_response(InputTaken(next=taken))


def _broken_off(error: OakestraError) -> bytes:
    return frame(CommandEnd(exit_code=None, reason=str(error)))
