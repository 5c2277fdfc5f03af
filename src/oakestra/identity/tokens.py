"""Access and refresh tokens: signed JSON that says who logged in, and until when that counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from random import Random
from typing import Any

import jwt

from oakestra.control.clock import Clock
from oakestra.model.errors import Unauthenticated
from oakestra.model.ids import OrganizationId, UserId

ACCESS_S = 600
REFRESH_S = 30 * 24 * 3600
SECRET_BITS = 256
_ALGORITHM = "HS256"
_EXPECTED = ("sub", "type", "exp", "iat", "jti", "user_id", "organization", "generation")


class TokenKind(StrEnum):
    """What a token is good for."""

    ACCESS = "access"
    REFRESH = "refresh"


@dataclass(frozen=True, slots=True, kw_only=True)
class Claims:
    """What a token says. Roles are not read back: they are looked up whenever somebody asks for something."""

    user: UserId
    name: str
    """The user's name when it was issued; a name may pass to somebody else, an id never does."""
    organization: OrganizationId
    kind: TokenKind
    generation: int
    """The user's token generation when it was issued; raising the user's revokes all that came before."""


class TokenExpired(Unauthenticated):
    """The token was good once."""


class TokenUnreadable(Unauthenticated):
    """Not a token of ours; the message is for developers of clients."""


def new_secret(random: Random) -> str:
    """Return a fresh signing secret."""
    return f"{random.getrandbits(SECRET_BITS):064x}"


class Tokens:
    """Issues and reads tokens signed with one secret."""

    def __init__(self, secret: str, *, clock: Clock, random: Random) -> None:
        self._secret = secret
        self._clock = clock
        self._random = random

    def issue(self, claims: Claims, *, roles: Sequence[str]) -> str:
        """Return a token; the roles in it are for clients to show, nothing more."""
        now_s = int(self._clock.wall_s())
        life_s = ACCESS_S if claims.kind is TokenKind.ACCESS else REFRESH_S
        payload = {
            "fresh": False,
            "iat": now_s,
            "nbf": now_s,
            "exp": now_s + life_s,
            "jti": self._nonce(),
            "type": claims.kind.value,
            "sub": claims.name,
            "csrf": self._nonce(),
            "user": claims.name,
            "user_id": claims.user,
            "roles": list(roles),
            "organization": claims.organization,
            "generation": claims.generation,
        }
        return jwt.encode(payload, self._secret, algorithm=_ALGORITHM)

    def read(self, token: str) -> Claims:
        """Return what a token says. Raises `TokenExpired` or `TokenUnreadable`."""
        try:
            # The library would look at the machine's own clock; ours is handed in.
            payload: dict[str, Any] = jwt.decode(
                token,
                self._secret,
                algorithms=[_ALGORITHM],
                options={
                    "require": list(_EXPECTED),
                    "verify_exp": False,
                    "verify_iat": False,
                    "verify_nbf": False,
                },
            )
        except jwt.InvalidTokenError as error:
            raise TokenUnreadable(str(error)) from error
        claims = _claims(payload)
        if int(payload["exp"]) <= self._clock.wall_s():
            raise TokenExpired("Token has expired")
        return claims

    def _nonce(self) -> str:
        return f"{self._random.getrandbits(128):032x}"


def _claims(payload: dict[str, Any]) -> Claims:
    kinds = [kind for kind in TokenKind if kind.value == payload["type"]]
    generation, expires = payload["generation"], payload["exp"]
    if not kinds or not isinstance(generation, int) or not isinstance(expires, int):
        raise TokenUnreadable("the token's claims have unexpected types")
    return Claims(
        user=UserId(str(payload["user_id"])),
        name=str(payload["sub"]),
        organization=OrganizationId(str(payload["organization"])),
        kind=kinds[0],
        generation=generation,
    )
