"""Passwords are kept as hashes; tokens say who somebody is until they end or are revoked."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import jwt
import pytest

from oakestra.identity.passwords import WAITING_MAX, Passwords
from oakestra.identity.tokens import Claims, TokenExpired, TokenKind, Tokens, TokenUnreadable, new_secret
from oakestra.model.errors import Unavailable
from oakestra.model.ids import OrganizationId, UserId
from root_api import HandClock

CLAIMS = Claims(
    user=UserId("b" * 24),
    name="ann",
    organization=OrganizationId("a" * 24),
    kind=TokenKind.ACCESS,
    generation=2,
)


def fast() -> Passwords:
    return Passwords(memory_kib=8, passes=1)


def test_a_password_fits_its_own_hash_only() -> None:
    async def story() -> None:
        passwords = fast()
        kept = await passwords.hash("sesame")
        assert "sesame" not in kept
        assert kept != await passwords.hash("sesame")
        assert await passwords.fits("sesame", kept)
        assert not await passwords.fits("Sesame", kept)
        assert not await passwords.fits("sesame", "")
        assert not await passwords.fits("nobody has this password", "")
        assert not await passwords.fits("sesame", "garbage")
        assert not await passwords.fits("x" * 100_000, kept)
        assert not await passwords.fits("\ud800", kept)

    asyncio.run(story())


def test_a_flood_of_logins_is_turned_away() -> None:
    async def story() -> None:
        passwords = fast()
        kept = await passwords.hash("sesame")
        tries = (passwords.fits("sesame", kept) for _ in range(WAITING_MAX + 6))
        outcomes = await asyncio.gather(*tries, return_exceptions=True)
        assert sum(isinstance(outcome, Unavailable) for outcome in outcomes) == 6
        assert await passwords.fits("sesame", kept)

    asyncio.run(story())


def tokens(clock: HandClock, secret: str = "s" * 64) -> Tokens:
    return Tokens(secret, clock=clock, random=Random(1))


def test_a_token_says_what_was_put_in() -> None:
    clock = HandClock()
    token = tokens(clock).issue(CLAIMS, roles=("Admin",))
    assert tokens(clock).read(token) == CLAIMS
    shown = jwt.decode(token, options={"verify_signature": False})
    assert shown["sub"] == shown["user"] == "ann"
    assert shown["roles"] == ["Admin"]
    assert shown["exp"] - shown["iat"] == 600
    assert shown["type"] == "access"
    assert shown["fresh"] is False


def test_access_ends_after_ten_minutes_and_refresh_after_thirty_days() -> None:
    clock = HandClock()
    issuer = tokens(clock)
    access = issuer.issue(CLAIMS, roles=())
    refresh = issuer.issue(replace(CLAIMS, kind=TokenKind.REFRESH), roles=())
    clock.now_s += 599
    assert issuer.read(access).name == "ann"
    clock.now_s += 1
    with pytest.raises(TokenExpired):
        issuer.read(access)
    clock.now_s += 29 * 86_400
    assert issuer.read(refresh).kind is TokenKind.REFRESH
    clock.now_s += 86_400
    with pytest.raises(TokenExpired):
        issuer.read(refresh)


def test_what_is_not_ours_is_refused() -> None:
    clock = HandClock()
    good = tokens(clock).issue(CLAIMS, roles=())
    head, body, signature = good.split(".")
    unsigned = jwt.encode({"sub": "ann"}, "", algorithm="none")
    claimless = jwt.encode({"sub": "ann"}, "s" * 64, algorithm="HS256")
    strange = jwt.encode(
        {**jwt.decode(good, options={"verify_signature": False}), "type": "other"},
        "s" * 64,
        algorithm="HS256",
    )
    for bad in (
        "",
        "x",
        "a.b.c",
        f"{head}.{body}.",
        f"{head}.{body[:-2]}.{signature}",
        unsigned,
        claimless,
        strange,
    ):
        with pytest.raises(TokenUnreadable):
            tokens(clock).read(bad)
    with pytest.raises(TokenUnreadable, match="Signature verification failed"):
        tokens(clock, "t" * 64).read(good)


def test_secrets_are_long_and_different() -> None:
    random = Random(1)
    first, second = new_secret(random), new_secret(random)
    assert len(first) == len(second) == 64
    assert first != second
