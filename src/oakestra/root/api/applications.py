"""Routes for applications, services and their instances, as the original has them."""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any

from msgspec import Meta
from starlette.requests import Request
from starlette.responses import Response

from oakestra.model.errors import Invalid, NotFound, Unauthenticated
from oakestra.model.ids import UserId
from oakestra.root.api.answers import DOUBLED, Message, doubled_response
from oakestra.root.api.gate import Gate
from oakestra.root.api.views import Views
from oakestra.root.operations import Operations
from oakestra.root.users.access import Principal
from oakestra.transport.http_server import (
    Endpoint,
    Refusal,
    Schema,
    decode_json,
    error_body,
    json_response,
    read_body,
    read_json,
    status_of,
)
from oakestra.wire.documents import ApplicationDocument, ServiceDocument
from oakestra.wire.sla import SERVICE_CHANGE_SCHEMA, SLA_SCHEMA, SlaInvalid, parse_sla, service_change

Name = Annotated[str, Meta(pattern="^[a-zA-Z0-9]{1,30}$")]
_SLA = Schema(name="Sla", schema=SLA_SCHEMA)
_CHANGE = Schema(
    name="ServiceOrSla",
    schema={"anyOf": [SERVICE_CHANGE_SCHEMA, SLA_SCHEMA]},
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApplicationPatch:
    """What to change of an application; what is absent stays as it is."""

    application_name: Name | None = None
    application_namespace: Name | None = None
    application_desc: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeployedService:
    """A service that was created."""

    service_name: str
    status: int = HTTPStatus.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class FailedService:
    """A service that was not created, and why."""

    service_name: str
    message: str
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ServicesReply:
    """What became of the services of an SLA."""

    job_id: str
    """Id of the last service created; empty: none was."""
    deployed_services: list[DeployedService]
    failed_services: list[FailedService]


class ApplicationsApi:
    """Answers what has to do with what users run."""

    def __init__(self, operations: Operations, views: Views, gate: Gate) -> None:
        self._operations = operations
        self._views = views
        self._gate = gate

    def endpoints(self) -> list[Endpoint]:
        """Return the routes."""
        return [*self._application_endpoints(), *self._service_endpoints(), *self._instance_endpoints()]

    def _application_endpoints(self) -> list[Endpoint]:
        one, many = "Application operations", "Applications operations"
        gate = self._gate.applications
        return [
            Endpoint(
                method="GET", path="/api/applications/", answer=gate(self.all_applications, admin=True),
                tag=many, summary="List everybody's applications", details=DOUBLED,
                reply=list[ApplicationDocument], doubled=True,
            ),
            Endpoint(
                method="GET", path="/api/applications/{user_id}", answer=gate(self.applications_of),
                tag=many, summary="List a user's applications", details=DOUBLED,
                reply=list[ApplicationDocument], doubled=True,
            ),
            Endpoint(
                method="POST", path="/api/application/", answer=gate(self.create_applications),
                tag=one, summary="Create the applications of an SLA", body=_SLA,
                details=f"The answer lists all applications of who asks. {DOUBLED}",
                reply=list[ApplicationDocument], doubled=True,
            ),
            Endpoint(
                method="GET", path="/api/application/{application_id}", answer=gate(self.application),
                tag=one, summary="Show an application", reply=ApplicationDocument,
            ),
            Endpoint(
                method="PUT", path="/api/application/{application_id}", answer=gate(self.update_application),
                tag=one, summary="Change an application", body=ApplicationPatch, reply=Message,
            ),
            Endpoint(
                method="DELETE", path="/api/application/{application_id}",
                answer=gate(self.delete_application), tag=one,
                summary="Delete an application with everything in it", reply=Message,
            ),
        ]  # fmt: skip

    def _service_endpoints(self) -> list[Endpoint]:
        one, many = "Service operations", "Multiple services operations"
        gate = self._gate.services
        return [
            Endpoint(
                method="GET", path="/api/services/", answer=gate(self.all_services, admin=True),
                tag=many, summary="List everybody's services", details=DOUBLED,
                reply=list[ServiceDocument], doubled=True,
            ),
            Endpoint(
                method="GET", path="/api/services/{application_id}", answer=gate(self.services_of),
                tag=many, summary="List an application's services", details=DOUBLED,
                reply=list[ServiceDocument], doubled=True,
            ),
            Endpoint(
                method="POST", path="/api/service/", answer=gate(self.create_services), tag=one,
                summary="Add services to an application", body=_SLA, reply=ServicesReply,
                details="The first application of the SLA has an `applicationID`; others are not looked at.",
            ),
            Endpoint(
                method="GET", path="/api/service/{service_id}", answer=gate(self.service),
                tag=one, summary="Show a service with its instances", details=DOUBLED,
                reply=ServiceDocument, doubled=True,
            ),
            Endpoint(
                method="PUT", path="/api/service/{service_id}", answer=gate(self.update_service),
                tag=one, summary="Change a service: make a new revision",
                details="A microservice with the keys that are to be other than they are, or an SLA that has just it.",
                body=_CHANGE, reply=Message,
            ),
            Endpoint(
                method="DELETE", path="/api/service/{service_id}", answer=gate(self.delete_service),
                tag=one, summary="Delete a service with its instances", reply=Message,
            ),
        ]  # fmt: skip

    def _instance_endpoints(self) -> list[Endpoint]:
        gate = self._gate.services
        return [
            Endpoint(
                method="POST", path="/api/service/{service_id}/instance", answer=gate(self.deploy),
                tag="Deployment", summary="Ask for one more instance", reply=Message,
            ),
            Endpoint(
                method="DELETE", path="/api/service/{service_id}/instance/{number}",
                answer=gate(self.undeploy), tag="Deployment", summary="Remove an instance; -1: all",
                reply=Message, integers=("number",),
            ),
        ]  # fmt: skip

    # --- applications ------------------------------------------------------------------------------------------

    async def all_applications(self, asker: Principal, request: Request) -> Response:
        """List everything."""
        del request
        return doubled_response(
            [self._views.application(record) for record in self._operations.applications(asker)]
        )

    async def applications_of(self, asker: Principal, request: Request) -> Response:
        """List one's own applications; an administrator may list anybody's."""
        owner = UserId(request.path_params["user_id"])
        if owner != asker.user and not asker.admin:
            raise Unauthenticated("you can list your own applications only")
        found = self._operations.applications(asker, owner=owner)
        return doubled_response([self._views.application(record) for record in found])

    async def create_applications(self, asker: Principal, request: Request) -> Response:
        """Create applications; answer with all that the asker owns."""
        body = decode_json(await read_body(request))
        try:
            sla = parse_sla(body)
        except SlaInvalid as error:
            status = HTTPStatus.UNPROCESSABLE_ENTITY
            raise Refusal(status, error_body(status, str(error))) from error
        await self._operations.create_applications(asker, sla)
        found = self._operations.applications(asker, owner=asker.user)
        return doubled_response([self._views.application(record) for record in found])

    async def application(self, asker: Principal, request: Request) -> Response:
        """Show an application."""
        record = self._operations.application(asker, request.path_params["application_id"])
        return json_response(self._views.application(record))

    async def update_application(self, asker: Principal, request: Request) -> Response:
        """Change an application."""
        wanted: ApplicationPatch = await read_json(request, ApplicationPatch)
        await self._operations.update_application(
            asker,
            request.path_params["application_id"],
            name=wanted.application_name,
            namespace=wanted.application_namespace,
            description=wanted.application_desc,
        )
        return json_response(Message(message="Application is updated"))

    async def delete_application(self, asker: Principal, request: Request) -> Response:
        """Delete an application."""
        await self._operations.delete_application(asker, request.path_params["application_id"])
        return json_response(Message(message="Application Deleted"))

    # --- services ----------------------------------------------------------------------------------------------

    async def all_services(self, asker: Principal, request: Request) -> Response:
        """List everything."""
        del request
        return doubled_response(self._views.services(self._operations.services(asker)))

    async def services_of(self, asker: Principal, request: Request) -> Response:
        """List an application's services."""
        application = self._operations.application(asker, request.path_params["application_id"])
        return doubled_response(self._views.services(self._operations.services_of(application)))

    async def create_services(self, asker: Principal, request: Request) -> Response:
        """Add services; each that could not be created is named with the reason."""
        body = decode_json(await read_body(request))
        if not body:
            raise NotFound("the body is empty; send an SLA document")
        sla = parse_sla(body)
        try:
            added = await self._operations.create_services(asker, sla)
        except NotFound as error:
            raise Invalid(
                str(error)
            ) from error  # the original has one answer to all that is wrong with an SLA
        names = [_short_name(service.spec.name) for service in added.created]
        return json_response(
            ServicesReply(
                job_id=added.created[-1].spec.id if added.created else "",
                deployed_services=[DeployedService(service_name=name) for name in names],
                failed_services=[
                    FailedService(
                        service_name=refused.name,
                        message=str(refused.error),
                        status=status_of(refused.error),
                    )
                    for refused in added.refused
                ],
            )
        )

    async def service(self, asker: Principal, request: Request) -> Response:
        """Show a service."""
        record = self._operations.service(asker, request.path_params["service_id"])
        return doubled_response(self._views.service(record))

    async def update_service(self, asker: Principal, request: Request) -> Response:
        """Change a service; the original cannot."""
        change = service_change(await read_json(request, dict[str, Any]))
        await self._operations.update_service(asker, request.path_params["service_id"], change)
        return json_response(Message(message="Job updated"))

    async def delete_service(self, asker: Principal, request: Request) -> Response:
        """Delete a service."""
        await self._operations.delete_service(asker, request.path_params["service_id"])
        return json_response(Message(message="Job deleted"))

    # --- instances ---------------------------------------------------------------------------------------------

    async def deploy(self, asker: Principal, request: Request) -> Response:
        """Ask for one more instance."""
        await self._operations.deploy(asker, request.path_params["service_id"])
        return json_response(Message(message="ok"))

    async def undeploy(self, asker: Principal, request: Request) -> Response:
        """Remove an instance, or all."""
        number = whole_number(request.path_params["number"], "an instance number, or -1 for all")
        await self._operations.undeploy(asker, request.path_params["service_id"], number)
        return json_response(Message(message="ok"))


def whole_number(text: str, what: str) -> int:
    """Return the number in a part of an address. Raises `Invalid` saying `what` was expected."""
    digits = text.removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) < len(str(1 << 63))):
        raise Invalid(f"expected {what}, found {text[:40]!r}")
    return int(text)


def _short_name(name: str) -> str:
    return name.split(".")[2]
