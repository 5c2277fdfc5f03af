"""Users, organizations, logging in: who somebody is, and who may change that."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from oakestra.control.clock import Clock
from oakestra.control.entropy import new_id
from oakestra.control.failpoints import Point, reach
from oakestra.identity.passwords import PASSWORD_BYTES_MAX, Passwords
from oakestra.identity.tokens import Claims, TokenKind, Tokens, TokenUnreadable
from oakestra.model.errors import Conflict, Forbidden, Invalid, NotFound, Unauthenticated
from oakestra.model.ids import OrganizationId, UserId
from oakestra.root.state import Member, OrganizationRecord, RootState, UserRecord
from oakestra.root.users.access import ADMIN, NOT_ALLOWED, ROLES, Principal

logger = logging.getLogger(__name__)

ROOT_ORGANIZATION = "root"
"""The organization of the operators: it always exists, and always has an administrator."""
NAME_MAX = 64
_USER_NAME = re.compile(r"[\w.@+-]{1,64}")
_ORGANIZATION_NAME = re.compile(r"[^\s/](?:[^/\n\r]{0,62}[^\s/])?")


@dataclass(frozen=True, slots=True, kw_only=True)
class LoggedIn:
    """What somebody gets who logged in."""

    token: str
    refresh_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class UserChange:
    """What to change of a user; None leaves it as it is."""

    name: str | None = None
    email: str | None = None
    password: str | None = None
    created_at: str | None = None
    roles: tuple[str, ...] | None = None
    """In the organization of who asks."""


class Accounts:
    """Knows users and organizations. Changes are durable when a call returns."""

    def __init__(
        self, state: RootState, *, passwords: Passwords, tokens: Tokens, clock: Clock, random: Random
    ) -> None:
        self._state = state
        self._passwords = passwords
        self._tokens = tokens
        self._clock = clock
        self._random = random

    # --- logging in --------------------------------------------------------------------------------------------

    async def login(self, name: str, password: str, organization: str | None) -> LoggedIn:
        """Return tokens for a user in an organization; without one, the operators' or else his first.

        Raises `Unauthenticated` for a wrong name or password alike, `NotFound` for an organization that is not
        his.
        """
        user = self._named(name)
        if not await self._passwords.fits(password, user.password_hash if user else "") or user is None:
            logger.info("login refused", extra={"user": name[:64]})
            raise Unauthenticated("wrong user name or password")
        tenant = self._organization_for(user, organization)
        return LoggedIn(
            token=self._issue(user, tenant, TokenKind.ACCESS),
            refresh_token=self._issue(user, tenant, TokenKind.REFRESH),
        )

    def refresh(self, claims: Claims) -> str:
        """Return a new access token for a refresh token's claims; roles are those of now."""
        user, tenant = self._holder(claims)
        return self._issue(user, tenant, TokenKind.ACCESS)

    def principal(self, claims: Claims) -> Principal:
        """Return who a token's holder is now. Raises `Unauthenticated` if the token counts no more."""
        user, tenant = self._holder(claims)
        return Principal(
            user=user.id, name=user.name, organization=tenant.id, roles=frozenset(_roles(tenant, user.id))
        )

    def read(self, token: str) -> Claims:
        """Return what a token says. Raises `TokenExpired` or `TokenUnreadable`."""
        return self._tokens.read(token)

    async def logout(self, asker: Principal) -> None:
        """Let no token that the asker has count any more."""
        user = self._state.users[asker.user]
        self._state.users.put(user.id, _without_tokens(user))
        await self._commit("user logged out everywhere", asker, user=user.name)

    # --- users -------------------------------------------------------------------------------------------------

    async def register(
        self, asker: Principal, *, name: str, email: str, password: str, created_at: str, roles: Sequence[str]
    ) -> UserRecord:
        """Create a user who belongs to the asker's organization with these roles."""
        asker.must_administer(asker.organization)
        _check_user_name(name)
        _check_password(password)
        self._check_roles(asker, roles)
        password_hash = await self._passwords.hash(password)
        self._must_be_free(name)
        organization = self._organization(asker.organization)
        user = UserRecord(
            id=UserId(new_id(self._random)),
            name=name,
            email=email,
            password_hash=password_hash,
            created_at=created_at or today(self._clock),
        )
        self._state.users.put(user.id, user)
        self._state.organizations.put(organization.id, _with_roles(organization, user.id, roles))
        await self._commit("user created", asker, user=name)
        return user

    def users(self, asker: Principal) -> list[UserRecord]:
        """Return all users."""
        asker.must_be_admin()
        return list(self._state.users.values())

    def members(self, asker: Principal, organization: str) -> list[tuple[UserRecord, tuple[str, ...]]]:
        """Return an organization's users with their roles there; nobody if there is no such organization."""
        asker.must_administer(OrganizationId(organization))
        record = self._state.organizations.get(organization)
        members = record.members if record else ()
        return [
            (self._state.users[member.user], member.roles)
            for member in members
            if member.user in self._state.users
        ]

    def user(self, asker: Principal, name: str) -> tuple[UserRecord, tuple[str, ...]]:
        """Return a user with his roles in the asker's organization: oneself, or anybody for an administrator."""
        if name != asker.name:
            asker.must_be_admin()
        user = self._known(name)
        return user, _roles(self._organization(asker.organization), user.id)

    async def update_user(self, asker: Principal, name: str, change: UserChange) -> None:
        """Change a user. An administrator of an organization may change roles there, and nothing else.

        Everybody may change his own email address; clients send the rest of the user along as it is.
        """
        user = self._known(name) if name == asker.name else None
        if user is not None and not asker.admin and _changes_only_email(user, asker, change):
            self._state.users.put(user.id, self._changed(user, change, None))
            await self._commit("user changed", asker, user=name)
            return
        asker.must_administer(asker.organization)
        user = self._known(name)
        organization = self._organization(asker.organization)
        if not asker.admin:
            self._must_be_under(organization, user)
            change = UserChange(roles=change.roles)
        if change.roles is not None:
            self._check_roles(asker, change.roles)
        hashed = await self._passwords.hash(_checked_password(change.password)) if change.password else None
        user, organization = self._known(name), self._organization(asker.organization)
        if change.roles is not None:
            organization = _with_roles(organization, user.id, change.roles)
            self._must_leave_an_admin(instead=organization)
        self._state.users.put(user.id, self._changed(user, change, hashed))
        self._state.organizations.put(organization.id, organization)
        await self._commit("user changed", asker, user=name)

    async def change_password(self, asker: Principal, name: str, *, old: str, new: str) -> None:
        """Change one's own password; every token issued before counts no more."""
        if name != asker.name:
            raise Forbidden(NOT_ALLOWED)
        user = self._known(name)
        if not await self._passwords.fits(old, user.password_hash):
            raise Invalid("Old password is not valid!")
        if old == new:
            raise Invalid("Old password can't be the new password!")
        hashed = await self._passwords.hash(_checked_password(new))
        user = self._known(name)
        self._state.users.put(user.id, replace(_without_tokens(user), password_hash=hashed))
        await self._commit("password changed", asker, user=name)

    async def delete_user(self, asker: Principal, name: str) -> None:
        """Delete a user; an administrator of an organization only takes him out of it."""
        asker.must_administer(asker.organization)
        user = self._known(name)
        if not asker.admin:
            organization = self._organization(asker.organization)
            self._must_be_under(organization, user)
            self._leave(organization, user.id)
        else:
            self._must_own_nothing(user)
            self._must_leave_an_admin(without=user.id)
            for organization in list(self._state.organizations.values()):
                self._leave(organization, user.id)
            self._state.users.remove(user.id)
        await self._commit("user deleted", asker, user=name)

    # --- organizations -----------------------------------------------------------------------------------------

    def organizations(self, asker: Principal) -> list[OrganizationRecord]:
        """Return all organizations."""
        asker.must_be_admin()
        return list(self._state.organizations.values())

    async def create_organization(
        self, asker: Principal, name: str, members: Sequence[Member]
    ) -> OrganizationRecord:
        """Create an organization."""
        asker.must_be_admin()
        self._check_organization_name(name)
        self._check_members(members)
        record = OrganizationRecord(
            id=organization_id(self._state, name, self._random), name=name, members=tuple(members)
        )
        self._state.organizations.put(record.id, record)
        await self._commit("organization created", asker, created=name)
        return record

    async def update_organization(
        self, asker: Principal, id: str, *, name: str | None, members: Sequence[Member] | None
    ) -> None:
        """Change an organization's name or members; None leaves them as they are."""
        asker.must_be_admin()
        record = self._organization(OrganizationId(id))
        if name is not None and name != record.name:
            if record.name == ROOT_ORGANIZATION:
                raise Conflict(f"the organization {ROOT_ORGANIZATION!r} keeps its name: logins rely on it")
            self._check_organization_name(name)
            record = replace(record, name=name)
        if members is not None:
            self._check_members(members)
            record = replace(record, members=tuple(members))
        self._must_leave_an_admin(instead=record)
        self._state.organizations.put(record.id, record)
        await self._commit("organization changed", asker, changed=record.name)

    async def delete_organization(self, asker: Principal, id: str) -> None:
        """Delete an organization that has no applications."""
        asker.must_be_admin()
        record = self._organization(OrganizationId(id))
        if record.name == ROOT_ORGANIZATION:
            raise Conflict(f"the organization {ROOT_ORGANIZATION!r} cannot be deleted: logins rely on it")
        if any(known.application.tenant == record.id for known in self._state.applications.values()):
            raise Conflict(f"the organization {record.name} still has applications; delete them first")
        self._state.organizations.remove(record.id)
        await self._commit("organization deleted", asker, deleted=record.name)

    # --- rules -------------------------------------------------------------------------------------------------

    def _changed(self, user: UserRecord, change: UserChange, password_hash: str | None) -> UserRecord:
        if change.name is not None and change.name != user.name:
            _check_user_name(change.name)
            self._must_be_free(change.name)
            user = replace(user, name=change.name)
        if change.email is not None:
            user = replace(user, email=change.email)
        if change.created_at is not None:
            user = replace(user, created_at=change.created_at)
        if password_hash is not None:
            user = replace(_without_tokens(user), password_hash=password_hash)
        return user

    def _must_be_under(self, organization: OrganizationRecord, user: UserRecord) -> None:
        roles = _roles(organization, user.id)
        if not _belongs(organization, user.id):
            raise NotFound(f"there is no user {user.name!r} in your organization")
        if ADMIN in roles:
            raise Forbidden(NOT_ALLOWED)

    def _check_roles(self, asker: Principal, roles: Iterable[str]) -> None:
        unknown = [role for role in roles if role not in ROLES]
        if unknown:
            raise Invalid(f"there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")
        if ADMIN in roles and not asker.admin:
            raise Forbidden(f"only a user with the role {ADMIN} can give it to others")

    def _check_members(self, members: Sequence[Member]) -> None:
        for member in members:
            if member.user not in self._state.users:
                raise Invalid(f"there is no user with the id {member.user!r}")
            unknown = [role for role in member.roles if role not in ROLES]
            if unknown:
                raise Invalid(f"there is no role {unknown[0]!r}; there are {', '.join(ROLES)}")

    def _check_organization_name(self, name: str) -> None:
        if _ORGANIZATION_NAME.fullmatch(name) is None:
            raise Invalid("an organization's name has 1 to 64 characters, none of them a slash")
        if any(record.name == name for record in self._state.organizations.values()):
            raise Conflict(f"there is already an organization {name!r}")

    def _must_be_free(self, name: str) -> None:
        if self._named(name) is not None:
            raise Conflict("Username already exists")

    def _must_own_nothing(self, user: UserRecord) -> None:
        owned = [
            f"{record.application.name}.{record.application.namespace}"
            for record in self._state.applications.values()
            if record.application.owner == user.id and not record.application.deleted
        ]
        if owned:
            raise Conflict(f"{user.name} still owns {', '.join(owned[:5])}; delete these applications first")

    def _must_leave_an_admin(
        self, *, without: UserId | None = None, instead: OrganizationRecord | None = None
    ) -> None:
        for record in self._state.organizations.values():
            looked_at = instead if instead is not None and instead.id == record.id else record
            if looked_at.name == ROOT_ORGANIZATION and not any(
                ADMIN in member.roles and member.user != without for member in looked_at.members
            ):
                raise Conflict(
                    f"nobody in the organization {ROOT_ORGANIZATION!r} would have the role {ADMIN} any more; "
                    "give it to somebody else first"
                )

    # --- records -----------------------------------------------------------------------------------------------

    def _named(self, name: str) -> UserRecord | None:
        return next((user for user in self._state.users.values() if user.name == name), None)

    def _known(self, name: str) -> UserRecord:
        user = self._named(name)
        if user is None:
            raise NotFound(f"there is no user {name!r}")
        return user

    def _organization(self, id: OrganizationId) -> OrganizationRecord:
        record = self._state.organizations.get(id)
        if record is None:
            raise NotFound(f"there is no organization with the id {id!r}")
        return record

    def _organization_for(self, user: UserRecord, name: str | None) -> OrganizationRecord:
        his = [record for record in self._state.organizations.values() if _belongs(record, user.id)]
        if name is not None:
            his = [record for record in his if record.name == name]
        his.sort(key=lambda record: record.name != ROOT_ORGANIZATION)
        if not his:
            raise NotFound(
                f"you are in no organization {name!r}"
                if name
                else "you are in no organization; ask to be let in"
            )
        return his[0]

    def _holder(self, claims: Claims) -> tuple[UserRecord, OrganizationRecord]:
        user = self._state.users.get(claims.user)
        organization = self._state.organizations.get(claims.organization)
        if user is None or organization is None or not _belongs(organization, user.id):
            raise TokenUnreadable("the token's user is gone, or left the organization; log in again")
        if claims.generation != user.token_generation:
            raise TokenUnreadable("Token has been revoked")
        return user, organization

    def _issue(self, user: UserRecord, organization: OrganizationRecord, kind: TokenKind) -> str:
        claims = Claims(
            user=user.id,
            name=user.name,
            organization=organization.id,
            kind=kind,
            generation=user.token_generation,
        )
        return self._tokens.issue(claims, roles=_roles(organization, user.id))

    def _leave(self, organization: OrganizationRecord, user: UserId) -> None:
        members = tuple(member for member in organization.members if member.user != user)
        self._state.organizations.put(organization.id, replace(organization, members=members))

    async def _commit(self, what: str, asker: Principal, **about: Any) -> None:
        reach(Point.ROOT_CHANGED)
        await self._state.commit()
        reach(Point.ROOT_WRITTEN)
        logger.info(what, extra={"by": asker.name, "organization": asker.organization, **about})


def organization_id(state: RootState, name: str, random: Random) -> OrganizationId:
    """Return the id of a new organization: the same for the same name while nobody has it.

    So an organization made anew after root lost its records is the one whose services still run.
    """
    id = OrganizationId(hashlib.sha256(f"organization {name}".encode()).hexdigest()[:24])
    tenants = {record.application.tenant for record in state.applications.values()}
    return id if id not in state.organizations.keys() | tenants else OrganizationId(new_id(random))


def today(clock: Clock) -> str:
    """Return the date and time, UTC, as the original writes them."""
    return datetime.fromtimestamp(clock.wall_s(), UTC).strftime("%d/%m/%Y %H:%M")


def _changes_only_email(user: UserRecord, asker: Principal, change: UserChange) -> bool:
    return (
        change.name in (None, user.name)
        and not change.password
        and change.created_at in (None, user.created_at)
        and (change.roles is None or frozenset(change.roles) == asker.roles)
    )


def _belongs(organization: OrganizationRecord, user: UserId) -> bool:
    return any(member.user == user for member in organization.members)


def _roles(organization: OrganizationRecord, user: UserId) -> tuple[str, ...]:
    return next((member.roles for member in organization.members if member.user == user), ())


def _with_roles(organization: OrganizationRecord, user: UserId, roles: Sequence[str]) -> OrganizationRecord:
    others = (member for member in organization.members if member.user != user)
    return replace(organization, members=(*others, Member(user=user, roles=tuple(roles))))


def _without_tokens(user: UserRecord) -> UserRecord:
    return replace(user, token_generation=user.token_generation + 1)


def _check_user_name(name: str) -> None:
    if _USER_NAME.fullmatch(name) is None:
        raise Invalid("a user name has 1 to 64 letters, digits or any of . _ @ + -")


def _check_password(password: str) -> None:
    _checked_password(password)


def _checked_password(password: str) -> str:
    if not password or len(password.encode(errors="replace")) > PASSWORD_BYTES_MAX:
        raise Invalid(f"a password has 1 to {PASSWORD_BYTES_MAX} bytes")
    return password
