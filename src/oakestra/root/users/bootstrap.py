"""What must be there before anybody can log in: an administrator, his organization, a secret to sign tokens with."""

from __future__ import annotations

import asyncio
import logging
import os
from dataclasses import replace
from pathlib import Path
from random import Random

from oakestra.control.clock import Clock
from oakestra.control.entropy import new_id
from oakestra.identity.passwords import Passwords
from oakestra.identity.tokens import new_secret
from oakestra.model.ids import UserId
from oakestra.root.state import Member, OrganizationRecord, RootState, UserRecord
from oakestra.root.users.access import ADMIN, ROLES
from oakestra.root.users.accounts import ROOT_ORGANIZATION, organization_id, today

logger = logging.getLogger(__name__)

_SECRET = "token_secret"  # noqa: S105 - the name of a setting
_ALPHABET = "abcdefghijkmnpqrstuvwxyzABCDEFGHJKLMNPQRSTUVWXYZ23456789"
"""Without characters that look alike."""
_PASSWORD_LENGTH = 20
_WEAK_BELOW = 10


async def bootstrap(
    state: RootState,
    *,
    passwords: Passwords,
    clock: Clock,
    random: Random,
    admin_password: str | None,
    password_file: Path,
) -> str:
    """Make sure that the user Admin can log in; return the secret that signs tokens.

    `admin_password`, if given, is his password from now on. Otherwise a new Admin gets the one in `password_file`, as
    before records were lost, or a random one, kept in that file, which only its owner can read. The file is removed once it tells the truth no more. Calling
    this again changes nothing.
    """
    admin = next((user for user in state.users.values() if user.name == ADMIN), None)
    password = admin_password
    if admin is None:
        admin = UserRecord(id=UserId(new_id(random)), name=ADMIN, created_at=today(clock))
        if password is None:
            password = await asyncio.to_thread(_read_secret, password_file)
        if not password:
            password = "".join(random.choice(_ALPHABET) for _ in range(_PASSWORD_LENGTH))
            await asyncio.to_thread(_write_secret, password_file, password)
            logger.info("chose a password for Admin", extra={"file": password_file})
    if password is not None and not await passwords.fits(password, admin.password_hash):
        admin = await _with_password(admin, password, passwords)
    if password is None or password == admin_password:
        await _remove_stale(password_file, admin, passwords)
    state.users.put(admin.id, admin)
    _have_organization(state, admin, random)
    if _SECRET not in state.settings:
        state.settings.put(_SECRET, new_secret(random))
    await state.commit()
    return state.settings[_SECRET]


async def _with_password(admin: UserRecord, password: str, passwords: Passwords) -> UserRecord:
    if len(password) < _WEAK_BELOW:
        logger.warning("the password of Admin is weak; whoever reaches this root can try it out")
    return replace(
        admin,
        password_hash=await passwords.hash(password),
        token_generation=admin.token_generation + 1,
    )


def _have_organization(state: RootState, admin: UserRecord, random: Random) -> None:
    """Let there be the operators' organization, and somebody in it who may do everything."""
    organization = next(
        (known for known in state.organizations.values() if known.name == ROOT_ORGANIZATION), None
    )
    if organization is None:
        organization = OrganizationRecord(
            id=organization_id(state, ROOT_ORGANIZATION, random), name=ROOT_ORGANIZATION
        )
    if not any(ADMIN in member.roles and member.user in state.users for member in organization.members):
        others = tuple(member for member in organization.members if member.user != admin.id)
        organization = replace(organization, members=(*others, Member(user=admin.id, roles=ROLES)))
    state.organizations.put(organization.id, organization)


def _write_secret(file: Path, text: str) -> None:
    """Write a file that only its owner can read, complete or not at all."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
        stream.write(f"{text}\n")
        stream.flush()
        os.fsync(stream.fileno())
    draft.replace(file)


async def _remove_stale(file: Path, admin: UserRecord, passwords: Passwords) -> None:
    written = await asyncio.to_thread(_read_secret, file)
    if written is not None and not await passwords.fits(written, admin.password_hash):
        await asyncio.to_thread(file.unlink, missing_ok=True)
        logger.info("the password of Admin was changed, its file is removed", extra={"file": file})


def _read_secret(file: Path) -> str | None:
    try:
        return file.read_text(encoding="utf-8").strip()
    except OSError:
        return None
