"""Who may do what. Roles are looked up for every request; what a token says about them counts for nothing."""

from __future__ import annotations

from dataclasses import dataclass

from oakestra.model.errors import Forbidden
from oakestra.model.ids import OrganizationId, UserId
from oakestra.model.service import Application

ADMIN = "Admin"
ORGANIZATION_ADMIN = "Organization_Admin"
APPLICATION_PROVIDER = "Application_Provider"
INFRASTRUCTURE_PROVIDER = "Infrastructure_Provider"
ROLES = (ADMIN, ORGANIZATION_ADMIN, APPLICATION_PROVIDER, INFRASTRUCTURE_PROVIDER)

NOT_ALLOWED = "You have not enough permissions!"
"""The original's words; its dashboard shows them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Principal:
    """Somebody who is logged in: a user, in one organization, with the roles he has there now."""

    user: UserId
    name: str
    organization: OrganizationId
    roles: frozenset[str] = frozenset()

    @property
    def admin(self) -> bool:
        """May see and do everything."""
        return ADMIN in self.roles

    def may_see(self, application: Application) -> bool:
        """Tell whether the application is his, or his organization's to administer."""
        if self.admin:
            return True
        if application.tenant != self.organization:
            return False
        return application.owner == self.user or ORGANIZATION_ADMIN in self.roles

    def must_be_admin(self) -> None:
        """Raise `Forbidden` unless he may do everything."""
        if not self.admin:
            raise Forbidden(NOT_ALLOWED)

    def must_provide_applications(self) -> None:
        """Raise `Forbidden` unless he may create and change applications."""
        if not self.roles & {ADMIN, ORGANIZATION_ADMIN, APPLICATION_PROVIDER}:
            raise Forbidden(
                f"{NOT_ALLOWED} Running applications needs the role {APPLICATION_PROVIDER}; "
                "ask an administrator of your organization for it"
            )

    def must_keep_infrastructure(self) -> None:
        """Raise `Forbidden` unless he may take machines out."""
        if not self.roles & {ADMIN, INFRASTRUCTURE_PROVIDER}:
            raise Forbidden(f"{NOT_ALLOWED} Taking machines out needs the role {INFRASTRUCTURE_PROVIDER}")

    def must_see_infrastructure(self) -> None:
        """Raise `Forbidden` unless he may look at machines."""
        if not self.roles & {ADMIN, INFRASTRUCTURE_PROVIDER}:
            raise Forbidden(f"{NOT_ALLOWED} Looking at workers needs the role {INFRASTRUCTURE_PROVIDER}")

    def must_administer(self, organization: OrganizationId) -> None:
        """Raise `Forbidden` unless the organization's users are his to manage."""
        if self.admin or (organization == self.organization and ORGANIZATION_ADMIN in self.roles):
            return
        raise Forbidden(NOT_ALLOWED)
