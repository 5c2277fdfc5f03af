"""Let in who is logged in. The original answers bad tokens in two ways, and its clients know both."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from http import HTTPStatus

from starlette.requests import Request
from starlette.responses import Response

from oakestra.identity.tokens import Claims, TokenExpired, TokenKind, TokenUnreadable
from oakestra.model.errors import Unauthenticated
from oakestra.root.users.access import Principal
from oakestra.root.users.accounts import Accounts
from oakestra.transport.http_server import Answer, Refusal, error_body

Handler = Callable[[Principal, Request], Awaitable[Response]]
"""Answers a request of somebody who is logged in."""

_MISSING = "Missing Authorization Header"
_SCHEME = "Missing 'Bearer' type in 'Authorization' header. Expected 'Authorization: Bearer <JWT>'"  # the original's
_NOT_ACCESS = "Only non-refresh tokens are allowed"
_NOT_REFRESH = "Only refresh tokens are allowed"


class Gate:
    """Turns handlers that need a login into answers, each in one of three dialects of refusing."""

    def __init__(self, accounts: Accounts) -> None:
        self._accounts = accounts

    def applications(self, handler: Handler, *, admin: bool = False) -> Answer:
        """Refuse as the original's application, organization and login routes do: `msg`, 401 or 422."""

        async def answer(request: Request) -> Response:
            return await handler(self._strictly(request, TokenKind.ACCESS, admin=admin), request)

        return answer

    def services(self, handler: Handler, *, admin: bool = False) -> Answer:
        """Refuse as the original's service and user routes do: one 401 for everything."""

        async def answer(request: Request) -> Response:
            try:
                asker = self._accounts.principal(self._claims(request, TokenKind.ACCESS))
            except Unauthenticated as error:
                body = error_body(HTTPStatus.UNAUTHORIZED, "Missing authentication token")
                raise Refusal(HTTPStatus.UNAUTHORIZED, {**body, "reason": str(error)}) from error
            if admin:
                asker.must_be_admin()
            return await handler(asker, request)

        return answer

    def own(self, handler: Handler) -> Answer:
        """Refuse as everything under `/api/v1` does: 401 and a sentence."""

        async def answer(request: Request) -> Response:
            return await handler(self._accounts.principal(self._claims(request, TokenKind.ACCESS)), request)

        return answer

    def refresh_claims(self, request: Request) -> Claims:
        """Return what a request's refresh token says. Refuses as `applications` does."""
        try:
            return self._claims(request, TokenKind.REFRESH)
        except Unauthenticated as error:
            raise _refused(error) from error

    def somebody(self, request: Request) -> Principal | None:
        """Return who asks, or None if nobody is logged in."""
        try:
            return self._accounts.principal(self._claims(request, TokenKind.ACCESS))
        except Unauthenticated:
            return None

    def _strictly(self, request: Request, kind: TokenKind, *, admin: bool) -> Principal:
        try:
            asker = self._accounts.principal(self._claims(request, kind))
        except Unauthenticated as error:
            raise _refused(error) from error
        if admin:
            asker.must_be_admin()
        return asker

    def _claims(self, request: Request, kind: TokenKind) -> Claims:
        header = request.headers.get("authorization")
        if not header:
            raise Unauthenticated(_MISSING)
        scheme, _, token = header.partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise Unauthenticated(_SCHEME)
        claims = self._accounts.read(token.strip())
        if claims.kind is not kind:
            raise TokenUnreadable(_NOT_ACCESS if kind is TokenKind.ACCESS else _NOT_REFRESH)
        return claims


def _refused(error: Unauthenticated) -> Refusal:
    unreadable = isinstance(error, TokenUnreadable) and not isinstance(error, TokenExpired)
    status = HTTPStatus.UNPROCESSABLE_ENTITY if unreadable else HTTPStatus.UNAUTHORIZED
    return Refusal(status, {**error_body(status, str(error)), "msg": str(error)})
