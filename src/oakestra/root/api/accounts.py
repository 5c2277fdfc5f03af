"""Routes for logging in, users, permissions and organizations."""

from __future__ import annotations

from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Annotated

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Forbidden, Invalid, NotFound, Unauthenticated, Unavailable
from oakestra.model.ids import UserId
from oakestra.root.api.answers import DOUBLED, Message, doubled_response
from oakestra.root.api.gate import Gate
from oakestra.root.api.views import Views
from oakestra.root.state import Member
from oakestra.root.users.access import NOT_ALLOWED, ROLES, Principal
from oakestra.root.users.accounts import NAME_MAX, Accounts, UserChange
from oakestra.transport.http_server import Endpoint, decode_json, json_response, read_body, read_json
from oakestra.wire.documents import OrganizationDocument, UserDocument

UserName = Annotated[
    str, Meta(min_length=1, max_length=NAME_MAX, description="Letters, digits, and any of `. _ @ + -`.")
]
OrganizationName = Annotated[str, Meta(min_length=1, max_length=NAME_MAX, description="Without slashes.")]
Role = Annotated[str, Meta(extra_json_schema={"enum": list(ROLES)})]
Password = Annotated[str, Meta(min_length=1)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Who logs in; without an organization, in the operators' or else the user's first."""

    username: str
    password: str
    organization_name: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Registration:
    """A new user, who will belong to the organization of who asks."""

    name: UserName
    password: Password
    email: str = ""
    created_at: str = ""
    roles: tuple[Role, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class UserPatch:
    """What to change of a user. An empty password leaves it as it is."""

    name: UserName | None = None
    email: str | None = None
    password: str | None = None
    created_at: str | None = None
    roles: tuple[Role, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PasswordChange:
    """The old password proves who asks."""

    oldPassword: str  # noqa: N815 - the wire's name
    newPassword: Password  # noqa: N815 - the wire's name


@dataclass(frozen=True, slots=True, kw_only=True)
class ResetRequest:
    """Who forgot his password, and where the page is that the link is to lead to."""

    username: str
    domain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Reset:
    """What the link said, and the new password."""

    token: str
    password: Password


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationMember:
    """A member of an organization."""

    user_id: str
    roles: tuple[Role, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrganization:
    """An organization with its first members."""

    name: OrganizationName
    member: tuple[OrganizationMember, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrganizationPatch:
    """An organization; what is absent stays as it is."""

    name: OrganizationName | None = None
    member: tuple[OrganizationMember, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LoginReply:
    """An access token for ten minutes, and a refresh token to get more of them."""

    token: str
    refresh_token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenReply:
    """A new access token."""

    token: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """Roles in the organization that the token is for."""

    roles: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Nothing:
    """An empty object."""


class AccountsApi:
    """Answers what has to do with who somebody is."""

    def __init__(self, accounts: Accounts, views: Views, gate: Gate) -> None:
        self._accounts = accounts
        self._views = views
        self._gate = gate

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [*self._login_endpoints(), *self._user_endpoints(), *self._organization_endpoints()]

    def _login_endpoints(self) -> list[Endpoint]:
        return [
            Endpoint(
                method="POST", path="/api/auth/login", answer=self.login, tag="Login",
                summary="Log in", secured=False, body=Login, reply=LoginReply,
            ),
            Endpoint(
                method="POST", path="/api/auth/register",
                answer=self._gate.applications(self.register), tag="Login",
                summary="Create a user in the organization of who asks", body=Registration,
                reply=UserDocument,
            ),
            Endpoint(
                method="POST", path="/api/auth/refresh", answer=self.refresh, tag="Login",
                summary="Get a new access token", details="The bearer is a refresh token.", reply=TokenReply,
            ),
            Endpoint(
                method="POST", path="/api/v1/logout", answer=self._gate.own(self.logout), tag="Login",
                summary="Revoke every token of who asks", reply=Message,
            ),
            Endpoint(
                method="GET", path="/api/permission/{username}",
                answer=self._gate.services(self.permission), tag="Permissions",
                summary="Show a user's roles", reply=Roles,
            ),
        ]  # fmt: skip

    def _user_endpoints(self) -> list[Endpoint]:
        one, many = "User Operations", "Multiple Users Operations"
        return [
            Endpoint(
                method="GET", path="/api/users/", answer=self._gate.services(self.users, admin=True),
                tag=many, summary="List all users", reply=list[UserDocument],
            ),
            Endpoint(
                method="GET", path="/api/users/{organization_id}", answer=self._gate.services(self.members),
                tag=many, summary="List an organization's users", reply=list[UserDocument],
            ),
            Endpoint(
                method="GET", path="/api/user/{username}", answer=self._gate.services(self.user),
                tag=one, summary="Show a user", reply=UserDocument,
            ),
            Endpoint(
                method="PUT", path="/api/user/{username}", answer=self._gate.services(self.update_user),
                tag=one, summary="Change a user", body=UserPatch, reply=str,
            ),
            Endpoint(
                method="DELETE", path="/api/user/{username}", answer=self._gate.services(self.delete_user),
                tag=one, summary="Delete a user", details="The answer lists who is left.",
                reply=list[UserDocument],
            ),
            Endpoint(
                method="POST", path="/api/user/{username}", answer=self._gate.services(self.change_password),
                tag=one, summary="Change one's own password", body=PasswordChange, reply=Nothing,
            ),
            Endpoint(
                method="POST", path="/api/user/", answer=self.request_reset, tag=one,
                summary="Ask for a link to set a new password", secured=False, body=ResetRequest,
                status=HTTPStatus.SERVICE_UNAVAILABLE, details="Not available: this root sends no mail.",
            ),
            Endpoint(
                method="PUT", path="/api/user/", answer=self.reset, tag=one,
                summary="Set a new password through a link", secured=False, body=Reset,
                status=HTTPStatus.BAD_REQUEST,
                details="Not available: this root sends no mail, so there are no links.",
            ),
        ]  # fmt: skip

    def _organization_endpoints(self) -> list[Endpoint]:
        tag = "Organization operations"
        return [
            Endpoint(
                method="GET", path="/api/organization/",
                answer=self._gate.applications(self.organizations, admin=True),
                tag=tag, summary="List organizations", details=DOUBLED,
                reply=list[OrganizationDocument], doubled=True,
            ),
            Endpoint(
                method="POST", path="/api/organization/",
                answer=self._gate.applications(self.create_organization, admin=True),
                tag=tag, summary="Create an organization", body=NewOrganization,
                details=f"The answer is its id. {DOUBLED}", reply=str, doubled=True,
            ),
            Endpoint(
                method="PUT", path="/api/organization/{organization_id}",
                answer=self._gate.applications(self.update_organization, admin=True),
                tag=tag, summary="Change an organization", body=OrganizationPatch, reply=Message,
            ),
            Endpoint(
                method="DELETE", path="/api/organization/{organization_id}",
                answer=self._gate.applications(self.delete_organization, admin=True),
                tag=tag, summary="Delete an organization", reply=Message,
            ),
        ]  # fmt: skip

    # --- logging in --------------------------------------------------------------------------------------------

    async def login(self, request: Request) -> Response:
        """Give tokens for a user name and password."""
        body = await read_body(request)
        if not body:
            raise Forbidden("send a JSON body with username and password")
        wanted: Login = decode_json(body, Login)
        return json_response(
            await self._accounts.login(wanted.username, wanted.password, wanted.organization_name)
        )

    async def refresh(self, request: Request) -> Response:
        """Give a new access token for a refresh token."""
        try:
            token = self._accounts.refresh(self._gate.refresh_claims(request))
        except Unauthenticated as error:
            raise NotFound(str(error)) from error
        return json_response(TokenReply(token=token))

    async def logout(self, asker: Principal, request: Request) -> Response:
        """Revoke all tokens of the asker."""
        del request
        await self._accounts.logout(asker)
        return json_response(Message(message="ok"))

    async def register(self, asker: Principal, request: Request) -> Response:
        """Create a user."""
        wanted: Registration = await read_json(request, Registration)
        user = await self._accounts.register(
            asker,
            name=wanted.name,
            email=wanted.email,
            password=wanted.password,
            created_at=wanted.created_at,
            roles=wanted.roles,
        )
        return json_response(self._views.user(user, wanted.roles))

    async def permission(self, asker: Principal, request: Request) -> Response:
        """Show one's own roles."""
        if request.path_params["username"] != asker.name:
            raise Forbidden(NOT_ALLOWED)
        return json_response(Roles(roles=sorted(asker.roles)))

    # --- users -------------------------------------------------------------------------------------------------

    async def users(self, asker: Principal, request: Request) -> Response:
        """List all users."""
        del request
        return json_response([self._views.user(user) for user in self._accounts.users(asker)])

    async def members(self, asker: Principal, request: Request) -> Response:
        """List an organization's users."""
        members = self._accounts.members(asker, request.path_params["organization_id"])
        return json_response([self._views.user(user, roles) for user, roles in members])

    async def user(self, asker: Principal, request: Request) -> Response:
        """Show a user."""
        user, roles = self._accounts.user(asker, request.path_params["username"])
        return json_response(self._views.user(user, roles))

    async def update_user(self, asker: Principal, request: Request) -> Response:
        """Change a user."""
        wanted: UserPatch = await read_json(request, UserPatch)
        change = UserChange(
            name=wanted.name,
            email=wanted.email,
            password=wanted.password,
            created_at=wanted.created_at,
            roles=wanted.roles,
        )
        await self._accounts.update_user(asker, request.path_params["username"], change)
        return json_response("ok")

    async def delete_user(self, asker: Principal, request: Request) -> Response:
        """Delete a user and list who is left."""
        await self._accounts.delete_user(asker, request.path_params["username"])
        left = self._accounts.users(asker) if asker.admin else []
        return json_response([self._views.user(user) for user in left])

    async def change_password(self, asker: Principal, request: Request) -> Response:
        """Change one's own password."""
        wanted: PasswordChange = await read_json(request, PasswordChange)
        name = request.path_params["username"]
        await self._accounts.change_password(asker, name, old=wanted.oldPassword, new=wanted.newPassword)
        return json_response(Nothing())

    async def request_reset(self, request: Request) -> Response:
        """Say what to do instead of a mail."""
        await read_json(request, ResetRequest)
        raise Unavailable("this root sends no mail; ask an administrator to set a new password for you")

    async def reset(self, request: Request) -> Response:
        """Refuse: without mail there are no links."""
        await read_json(request, Reset)
        raise Invalid("Link invalid! Please request a new one!")

    # --- organizations -----------------------------------------------------------------------------------------

    async def organizations(self, asker: Principal, request: Request) -> Response:
        """List organizations."""
        del request
        found = self._accounts.organizations(asker)
        return doubled_response([self._views.organization(record) for record in found])

    async def create_organization(self, asker: Principal, request: Request) -> Response:
        """Create an organization; answer its id."""
        wanted: NewOrganization = await read_json(request, NewOrganization)
        record = await self._accounts.create_organization(asker, wanted.name, _members(wanted) or ())
        return doubled_response(record.id)

    async def update_organization(self, asker: Principal, request: Request) -> Response:
        """Change an organization."""
        wanted: OrganizationPatch = await read_json(request, OrganizationPatch)
        id = request.path_params["organization_id"]
        await self._accounts.update_organization(asker, id, name=wanted.name, members=_members(wanted))
        return json_response(Message(message="Organization is updated"))

    async def delete_organization(self, asker: Principal, request: Request) -> Response:
        """Delete an organization."""
        await self._accounts.delete_organization(asker, request.path_params["organization_id"])
        return json_response(Message(message="Organization deleted"))


def _members(wanted: NewOrganization | OrganizationPatch) -> tuple[Member, ...] | None:
    if wanted.member is None:
        return None
    return tuple(Member(user=UserId(member.user_id), roles=member.roles) for member in wanted.member)
