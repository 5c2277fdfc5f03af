"""Read SLA documents v2.0: what users want to run, as JSON. Keys we do not know are kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any

import msgspec

from oakestra.model.errors import Invalid
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.service import (
    Constraint,
    ConstraintKind,
    DisconnectPolicy,
    HealthCheck,
    PublishedPort,
    Resources,
    RestartPolicy,
    ServiceAddresses,
    ServiceSpec,
    TransportProtocol,
    UpdatePolicy,
)
from oakestra.wire.checks import (
    Check,
    Mistakes,
    Rule,
    both,
    bounded,
    described,
    each,
    fields,
    flag,
    matching,
    number,
    one_of,
    said,
    schema_of,
    text,
    whole,
)
from oakestra.wire.disconnecting import DISCONNECT, disconnect_policy
from oakestra.wire.health import HEALTH_CHECK, health_check
from oakestra.wire.updating import UPDATE_POLICY, update_policy

VERSION = "v2.0"
TEXT_BYTES_MAX = 1 << 20
APPLICATIONS_MAX = 100
MICROSERVICES_MAX = 1000
NAME_MAX = 30
PORT_MAX = 65535
TUNNEL_PORT = 50103
"""The overlay's own port on every worker; nobody can publish it."""
ROUND_ROBIN_V4 = ip_network("10.30.0.0/16")
ROUND_ROBIN_V6 = ip_network("fdff:2000::/21")
_REQUIREMENTS = ("memory", "vcpus", "vgpus", "vtpus", "bandwidth_in", "bandwidth_out", "storage")
_VIRTUALIZATIONS = {"container": "docker"}
"""Names for one runtime: the first is what people write, the second what tiers say."""


class SlaInvalid(Invalid):
    """An SLA document that cannot be accepted; the message names every mistake and its place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WantedAddresses:
    """Service addresses the user chose; empty ones are for root to choose."""

    round_robin_v4: str = ""
    round_robin_v6: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Microservice:
    """One microservice of an SLA, understood."""

    name: str
    namespace: str
    virtualization: str
    image: str
    resources: Resources
    command: tuple[str, ...] = ()
    environment: tuple[str, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    architectures: tuple[str, ...] = ()
    csi_drivers: tuple[str, ...] = ()
    privileged: bool = False
    one_shot: bool = False
    restart: RestartPolicy = RestartPolicy.ALWAYS
    health_check: HealthCheck | None = None
    update: UpdatePolicy = field(default_factory=UpdatePolicy)
    disconnect: DisconnectPolicy = field(default_factory=DisconnectPolicy)
    constraints: tuple[Constraint, ...] = ()
    addresses: WantedAddresses = field(default_factory=WantedAddresses)
    document: dict[str, Any] = field(default_factory=dict)
    """The object as it was sent, whole numbers made integers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SlaApplication:
    """One application of an SLA."""

    name: str
    namespace: str
    description: str = ""
    id: str = ""
    """Of the existing application that the microservices are for; empty when it is to be created."""
    microservices: tuple[Microservice, ...] = ()
    extra: dict[str, Any] = field(default_factory=dict)
    """Its other keys."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sla:
    """A whole SLA document."""

    customer: str
    applications: tuple[SlaApplication, ...] = ()


def parse_sla(document: object) -> Sla:
    """Return what an SLA says; `document` is JSON text or the object in it.

    Raises `SlaInvalid` with all mistakes at once.
    """
    if isinstance(document, str | bytes | bytearray | memoryview):
        document = _decoded(document)
    mistakes = Mistakes()
    bounded(document, mistakes)
    if not mistakes:
        _check_version(document, mistakes)
    if not mistakes:
        _SLA("", document, mistakes)
    if not mistakes and isinstance(document, dict):
        _check_duplicates(document["applications"], mistakes)
    if mistakes or not isinstance(document, dict):
        raise SlaInvalid(f"the SLA cannot be accepted: {mistakes.text()}")
    return Sla(
        customer=document["customerID"],
        applications=tuple(_application(found) for found in document["applications"]),
    )


def service_spec(
    wanted: Microservice,
    *,
    id: ServiceId,
    application_id: ApplicationId,
    tenant: OrganizationId,
    application: tuple[str, str],
    addresses: ServiceAddresses,
) -> ServiceSpec:
    """Return the spec of a microservice; `application` is the application's name and namespace."""
    return ServiceSpec(
        id=id,
        application_id=application_id,
        tenant=tenant,
        name=".".join((*application, wanted.name, wanted.namespace)),
        virtualization=wanted.virtualization,
        image=wanted.image,
        command=wanted.command,
        environment=wanted.environment,
        resources=wanted.resources,
        ports=wanted.ports,
        architectures=wanted.architectures,
        csi_drivers=wanted.csi_drivers,
        privileged=wanted.privileged,
        restart=wanted.restart,
        one_shot=wanted.one_shot,
        health_check=wanted.health_check,
        update=wanted.update,
        disconnect=wanted.disconnect,
        constraints=wanted.constraints,
        addresses=addresses,
    )


def parse_microservice(document: object) -> Microservice:
    """Return what a microservice object of an SLA says. Raises `SlaInvalid` with all mistakes at once."""
    mistakes = Mistakes()
    bounded(document, mistakes)
    if not mistakes:
        _MICROSERVICE("", document, mistakes)
    if mistakes or not isinstance(document, dict):
        raise SlaInvalid(f"the service cannot be accepted: {mistakes.text()}")
    return _microservice(document)


def service_change(document: object) -> dict[str, Any]:
    """Return the keys of a microservice in a body of the original's: itself, or an SLA that has just one.

    Raises `Invalid` if it is neither.
    """
    if not isinstance(document, dict):
        raise Invalid("expected an object: a microservice, or an SLA with one")
    if "applications" not in document:
        return document
    try:
        (found,) = (service for part in document["applications"] for service in part["microservices"])
    except (TypeError, KeyError, ValueError) as error:
        raise Invalid(
            "applications: expected one application with one microservice, the one to change"
        ) from error
    if not isinstance(found, dict):
        raise Invalid("applications[0].microservices[0]: expected an object")
    return found


def checked_name(name: str) -> str:
    """Return a name of an application or a namespace. Raises `Invalid` if it cannot be one."""
    mistakes = Mistakes()
    _NAME(name or "the name", name, mistakes)
    if mistakes:
        raise Invalid(mistakes.text())
    return name


def parse_ports(text: str) -> tuple[PublishedPort, ...]:
    """Return the ports in `host:container[/tcp|/udp]` joined by `;`; one number alone stands for both.

    Raises `Invalid` naming the part that is wrong.
    """
    ports = tuple(_port(part.strip()) for part in text.split(";") if part.strip())
    published = [(port.protocol, port.host_port) for port in ports]
    for one in published:
        if published.count(one) > 1:
            raise Invalid(f"host port {one[1]}/{one[0]} is named twice")
    return ports


# --- rules ---------------------------------------------------------------------------------------------------


def _ports(path: str, value: Any, mistakes: Mistakes) -> None:
    try:
        parse_ports(value)
    except Invalid as error:
        mistakes.add(path, str(error))


def _address(network: Any, kind: type[IPv4Address | IPv6Address]) -> Check:
    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        if value == "":
            return
        try:
            address = kind(value)
        except ValueError:
            mistakes.expected(path, f"an address in {network}", value)
            return
        edges = (network.network_address, network.broadcast_address)
        if address not in network or address in edges or "%" in value:
            mistakes.expected(path, f"an address in {network}", value)

    return check


def _variable(path: str, value: Any, mistakes: Mistakes) -> None:
    if value and not value.partition("=")[1]:
        mistakes.expected(path, "NAME=value", value)
    elif value.startswith("="):
        mistakes.expected(path, "NAME=value with a name before the =", value)


def _not_empty(path: str, value: Any, mistakes: Mistakes) -> None:
    if not value.strip():
        mistakes.expected(path, "an image reference or URL", value)


def _unikernel(path: str, value: Any, mistakes: Mistakes) -> None:
    if value.get("virtualization") == "unikernel" and not value.get("arch"):
        mistakes.add(path, "a unikernel needs 'arch', the list of architectures its images are for")


def _restart_twice(path: str, value: Any, mistakes: Mistakes) -> None:
    policy, short = value.get("restart_policy"), value.get("restart")
    if policy is not None and short is not None and policy != short:
        mistakes.add(
            path, f"'restart_policy' says {said(policy)} but 'restart' {said(short)}; keep one of them"
        )


def _called(name: str) -> Check:
    """A key that other systems have, and that nobody would notice being ignored."""

    def check(path: str, value: Any, mistakes: Mistakes) -> None:
        del value
        mistakes.add(path, f"is called {name!r} here")

    return Rule(check, {"not": {}})


_CALLED_HERE = {
    "healthcheck": "health_check",
    "healthCheck": "health_check",
    "restartPolicy": "restart_policy",
    "update": "update_policy",
    "update_config": "update_policy",
}
_RESTART = one_of([policy.value for policy in RestartPolicy])

_NAME = matching(f"[a-zA-Z0-9]{{1,{NAME_MAX}}}", f"1 to {NAME_MAX} letters and digits")
_TEXTS = each(text)

_CONSTRAINT = fields(
    {
        "type": text,
        "area": text,
        "cluster": text,
        "node": text,
        "location": text,
        "threshold": number,
        "rigidness": number,
        "convergence_time": whole,
        "needs": _TEXTS,
        "allowed": _TEXTS,
    },
    required=("type",),
)

_CONNECTIVITY = fields(
    {
        "target_microservice_id": text,
        "con_constraints": each(
            fields(
                {"type": text, "threshold": number, "rigidness": number, "convergence_time": whole},
                required=("type", "threshold", "rigidness", "convergence_time"),
            )
        ),
    },
    required=("target_microservice_id", "con_constraints"),
)

_VOLUME = fields(
    {"volume_id": text, "csi_driver": text, "mount_path": text, "config": fields({})},
    required=("volume_id", "csi_driver"),
)

_RR_IP = described(
    both(text, _address(ROUND_ROBIN_V4, IPv4Address)),
    f"The service's round-robin address, one of {ROUND_ROBIN_V4}; empty: root chooses.",
)
_RR_IP_V6 = described(
    both(text, _address(ROUND_ROBIN_V6, IPv6Address)),
    f"The same for IPv6, one of {ROUND_ROBIN_V6}.",
)

_ADDRESSES = fields(
    {
        "rr_ip": _RR_IP,
        "rr_ip_v6": _RR_IP_V6,
        "closest_ip": text,
        "closest_ip_v6": text,
        "instances": each(fields({"from": text, "to": text, "start": text})),
    }
)

_MICROSERVICE = both(
    fields(
        {
            "microserviceID": matching("", "nothing: root gives ids"),
            "microservice_name": _NAME,
            "microservice_namespace": _NAME,
            "virtualization": text,
            "code": described(
                both(text, _not_empty),
                "An image's reference, `oci-archive:` and a path, or a URL.",
                pattern=r"\S",
            ),
            **dict.fromkeys(_REQUIREMENTS, whole),
            "state": text,
            "port": described(
                both(text, _ports),
                "`host:container` or one number for both, `/tcp` or `/udp` behind; several joined by `;`.",
                example="8080:80/tcp;53/udp",
            ),
            "sla_violation_strategy": text,
            "target_node": text,
            "one_shot": flag,
            "privileged": flag,
            "restart_policy": _RESTART,
            "restart": described(_RESTART, "A shorter name for `restart_policy`."),
            "health_check": HEALTH_CHECK,
            "update_policy": UPDATE_POLICY,
            "disconnect": DISCONNECT,
            **{key: _called(name) for key, name in _CALLED_HERE.items()},
            "cmd": _TEXTS,
            "environment": each(both(text, _variable)),
            "added_files": _TEXTS,
            "args": _TEXTS,
            "arch": described(_TEXTS, "Architectures its images are for, e.g. `amd64`."),
            "addresses": _ADDRESSES,
            "RR_ip": described(
                _RR_IP, "An older place for `addresses.rr_ip`; counts if `addresses` is not there."
            ),
            "RR_ip_v6": described(_RR_IP_V6, "An older place for `addresses.rr_ip_v6`."),
            "volumes": each(_VOLUME),
            "constraints": each(_CONSTRAINT),
            "connectivity": each(_CONNECTIVITY),
        },
        required=("microservice_name", "microservice_namespace", "virtualization", "code"),
    ),
    both(_unikernel, _restart_twice),
)

_APPLICATION = fields(
    {
        "applicationID": text,
        "application_name": _NAME,
        "application_namespace": _NAME,
        "application_desc": text,
        "microservices": each(_MICROSERVICE),
    },
    required=("application_name", "application_namespace", "microservices"),
)

_SLA = fields(
    {
        "sla_version": one_of([VERSION]),
        "customerID": described(text, "Kept, and not looked at."),
        "args": _TEXTS,
        "applications": each(_APPLICATION),
    },
    required=("sla_version", "customerID", "applications"),
)
SLA_SCHEMA = schema_of(_SLA)
"""What an SLA may be, as a JSON schema; it lets through whatever `parse_sla` accepts, and a little more."""
SERVICE_CHANGE_SCHEMA = {key: value for key, value in schema_of(_MICROSERVICE).items() if key != "required"}
"""The keys of a microservice, none of which is required."""


def _check_version(document: object, mistakes: Mistakes) -> None:
    if not isinstance(document, dict):
        mistakes.expected("", "an object", document)
    elif document.get("sla_version") != VERSION:
        found = said(document["sla_version"]) if "sla_version" in document else "nothing"
        mistakes.add("sla_version", f"expected {VERSION!r}, the only version there is, found {found}")


def _check_duplicates(applications: list[dict[str, Any]], mistakes: Mistakes) -> None:
    if len(applications) > APPLICATIONS_MAX:
        mistakes.add("applications", f"more than {APPLICATIONS_MAX} in one document; send several")
    names = [(found["application_name"], found["application_namespace"]) for found in applications]
    for index in _repeated(names):
        mistakes.add(f"applications[{index}]", f"{'.'.join(names[index])} is there twice")
    for at, application in enumerate(applications):
        services = application["microservices"]
        if len(services) > MICROSERVICES_MAX:
            mistakes.add(f"applications[{at}].microservices", f"more than {MICROSERVICES_MAX}")
        inner = [(found["microservice_name"], found["microservice_namespace"]) for found in services]
        for index in _repeated(inner):
            mistakes.add(
                f"applications[{at}].microservices[{index}]", f"{'.'.join(inner[index])} is there twice"
            )


def _repeated(names: Sequence[tuple[str, str]]) -> Iterator[int]:
    seen: set[tuple[str, str]] = set()
    for index, name in enumerate(names):
        if name in seen:
            yield index
        seen.add(name)


# --- from checked documents to values --------------------------------------------------------------------------


def _decoded(document: str | bytes | bytearray | memoryview) -> object:
    if len(document) > TEXT_BYTES_MAX:
        raise SlaInvalid(f"the SLA cannot be accepted: it is larger than {TEXT_BYTES_MAX} bytes")
    try:
        return msgspec.json.decode(document)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise SlaInvalid(f"the SLA cannot be accepted: it is not JSON: {error}") from error


def _application(found: dict[str, Any]) -> SlaApplication:
    own = {"applicationID", "application_name", "application_namespace", "application_desc", "microservices"}
    dropped = own | {"_id", "action", "userId"}
    return SlaApplication(
        name=found["application_name"],
        namespace=found["application_namespace"],
        description=found.get("application_desc", ""),
        id=found.get("applicationID", ""),
        microservices=tuple(_microservice(service) for service in found["microservices"]),
        extra={key: value for key, value in found.items() if key not in dropped},
    )


def _microservice(sent: dict[str, Any]) -> Microservice:
    document: dict[str, Any] = {
        key: int(value) if key in _REQUIREMENTS else value for key, value in sent.items()
    }
    virtualization = document["virtualization"]
    one_shot = document.get("one_shot", False)
    default_restart = RestartPolicy.ON_FAILURE if one_shot else RestartPolicy.ALWAYS
    volumes = document.get("volumes", ())
    disconnect = disconnect_policy(document.get("disconnect", {}))
    return Microservice(
        name=document["microservice_name"],
        namespace=document["microservice_namespace"],
        virtualization=_VIRTUALIZATIONS.get(virtualization, virtualization),
        image=document["code"].strip(),
        resources=_resources(document),
        command=tuple(document.get("cmd", ())),
        environment=tuple(variable for variable in document.get("environment", ()) if variable),
        ports=parse_ports(document.get("port", "")),
        architectures=tuple(document.get("arch", ())),
        csi_drivers=tuple(dict.fromkeys(volume["csi_driver"] for volume in volumes if volume["csi_driver"])),
        privileged=document.get("privileged", False),
        one_shot=one_shot,
        restart=RestartPolicy(document.get("restart_policy", document.get("restart", default_restart))),
        health_check=health_check(document["health_check"]) if "health_check" in document else None,
        update=update_policy(document.get("update_policy", {}), two=disconnect.replace and not one_shot),
        disconnect=disconnect,
        constraints=tuple(_constraint(rule) for rule in document.get("constraints", ())),
        addresses=_wanted_addresses(document),
        document=document,
    )


def _resources(document: Mapping[str, Any]) -> Resources:
    return Resources(
        memory_mib=document.get("memory", 0),
        vcpus=document.get("vcpus", 0),
        vgpus=document.get("vgpus", 0),
        vtpus=document.get("vtpus", 0),
        storage_mib=document.get("storage", 0),
    )


def _constraint(rule: dict[str, Any]) -> Constraint:
    nodes = (node.strip() for node in rule.get("node", "").split(";"))
    return Constraint(
        kind=ConstraintKind(rule["type"]),
        cluster=rule.get("cluster", ""),
        nodes=tuple(node for node in nodes if node),
        allowed=tuple(rule.get("allowed", ())),
        needs=tuple(rule.get("needs", ())),
    )


def _wanted_addresses(document: Mapping[str, Any]) -> WantedAddresses:
    addresses = document.get("addresses")
    if addresses is None:
        v4, v6 = document.get("RR_ip", ""), document.get("RR_ip_v6", "")
    else:
        v4, v6 = addresses.get("rr_ip", ""), addresses.get("rr_ip_v6", "")
    return WantedAddresses(
        round_robin_v4=str(IPv4Address(v4)) if v4 else "",
        round_robin_v6=str(IPv6Address(v6)) if v6 else "",
    )


def _port(part: str) -> PublishedPort:
    ports, slash, protocol = part.partition("/")
    host, colon, container = ports.partition(":")
    try:
        carried = TransportProtocol(protocol.strip().lower()) if slash else TransportProtocol.TCP
        numbers = (_port_number(host), _port_number(container if colon else host))
    except ValueError:
        raise Invalid(
            f"expected host:container[/tcp|/udp] with ports from 1 to {PORT_MAX}, found {said(part)}"
        ) from None
    if numbers[0] == TUNNEL_PORT and carried is TransportProtocol.UDP:
        raise Invalid(f"host port {TUNNEL_PORT}/udp belongs to the overlay network; choose another")
    return PublishedPort(host_port=numbers[0], container_port=numbers[1], protocol=carried)


def _port_number(digits: str) -> int:
    digits = digits.strip()
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(PORT_MAX))):
        raise ValueError(digits)
    port = int(digits)
    if not 1 <= port <= PORT_MAX:
        raise ValueError(digits)
    return port
