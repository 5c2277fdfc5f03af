"""Carry out a worker's steps: the only place where it touches runtime and network."""

from __future__ import annotations

from dataclasses import dataclass
from typing import assert_never

import msgspec

from oakestra.control.failpoints import Point, reach
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.instance import InstanceKey
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.network import Endpoint, Network
from oakestra.runtime import ContainerSpec, Runtime
from oakestra.worker.desired import Desired, LocalInstance, namespace_address
from oakestra.worker.observe import StepKind
from oakestra.worker.overlay import host_name, resolv_conf
from oakestra.worker.plan import NAMESPACE_LABEL, RUN_LABEL, Act, run_name

KEY_LABEL = "oakestra.key"
RESTART_LABEL = "oakestra.restart"
ADDRESS_LABEL = "oakestra.address"
SPEC_LABEL = "oakestra.spec"

_DONE = {
    StepKind.PULL: Point.WORKER_PULLED,
    StepKind.ATTACH: Point.WORKER_ATTACHED,
    StepKind.CREATE: Point.WORKER_CREATED,
    StepKind.START: Point.WORKER_STARTED,
    StepKind.STOP: Point.WORKER_STOPPED,
    StepKind.DELETE: Point.WORKER_DELETED,
    StepKind.DETACH: Point.WORKER_DETACHED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Namespace:
    """An instance's network namespace."""

    path: str
    address: InstanceAddress


@dataclass(frozen=True, slots=True, kw_only=True)
class Machinery:
    """What steps act on."""

    runtime: Runtime
    network: Network
    stop_grace_s: float
    namespaces: dict[int, Namespace]
    """Of each instance that this agent attached."""


async def carry_out(step: Act, desired: Desired, machinery: Machinery) -> None:
    """Do one step. Raises `Unavailable` or `Rejected` with a sentence when it did not work; idempotent."""
    runtime, network, number = machinery.runtime, machinery.network, step.number
    match step.kind:
        case StepKind.PULL:
            await runtime.ensure_image(desired.by_number[number].spec.image)
        case StepKind.ATTACH:
            if desired.by_number[number].restart == 0:
                await runtime.forget_log(
                    number
                )  # of another instance, should the state of this worker have been lost
            await _attach(desired, number, machinery)
        case StepKind.CREATE:
            namespace = machinery.namespaces.get(number) or await _attach(desired, number, machinery)
            await runtime.create(_container(desired, number, namespace, network.name_servers()))
        case StepKind.START:
            await runtime.start(number)
        case StepKind.STOP:
            await runtime.stop(number, grace_s=machinery.stop_grace_s)
        case StepKind.DELETE:
            await runtime.delete(number)
        case StepKind.DETACH:
            machinery.namespaces.pop(number, None)
            await network.detach(number)
        case StepKind.SAVE:
            raise AssertionError("the pass itself writes down what comes next")
        case _:
            assert_never(step.kind)
    reach(_DONE[step.kind])


async def _attach(desired: Desired, number: int, machinery: Machinery) -> Namespace:
    address = namespace_address(desired, number)
    assert address is not None, "the plan attaches only what has an address"
    tenant = desired.by_number[number].spec.tenant
    path = await machinery.network.attach(Endpoint(number=number, namespace=address, tenant=tenant))
    namespace = machinery.namespaces[number] = Namespace(path=path, address=address)
    return namespace


def _container(
    desired: Desired, number: int, namespace: Namespace, name_servers: tuple[str, ...]
) -> ContainerSpec:
    instance = desired.by_number[number]
    spec = instance.spec
    return ContainerSpec(
        number=number,
        labels={**labels(instance), NAMESPACE_LABEL: namespace.address.v4},
        image=spec.image,
        command=spec.command,
        environment=(*_environment(instance), *spec.environment),
        resources=spec.resources,
        privileged=spec.privileged,
        hostname=host_name(desired, number),
        netns_path=namespace.path,
        resolv_conf=resolv_conf(name_servers),
    )


def _environment(instance: LocalInstance) -> tuple[str, ...]:
    return (
        f"OAKESTRA_SERVICE={instance.spec.name}",
        f"OAKESTRA_INSTANCE={instance.key.number}",
        f"OAKESTRA_INSTANCE_IP={instance.address.v4}",
        f"OAKESTRA_SERVICE_IP={instance.spec.addresses.round_robin_v4}",
    )


def labels(instance: LocalInstance) -> dict[str, str]:
    """Return what a container carries, enough to take it over should the desired set be lost."""
    return {
        RUN_LABEL: run_name(instance),
        KEY_LABEL: msgspec.json.encode(instance.made_as or instance.key).decode(),  # as in the run's name
        RESTART_LABEL: str(instance.restart),
        ADDRESS_LABEL: msgspec.json.encode(instance.address).decode(),
        SPEC_LABEL: msgspec.json.encode(instance.spec).decode(),
    }


def found(container: ContainerSeen) -> LocalInstance | None:
    """Return the instance that a container's labels describe, or None if they do not."""
    try:
        return LocalInstance(
            key=msgspec.json.decode(container.labels[KEY_LABEL], type=InstanceKey),
            number=container.number,
            address=msgspec.json.decode(container.labels[ADDRESS_LABEL], type=InstanceAddress),
            spec=msgspec.json.decode(container.labels[SPEC_LABEL], type=ServiceSpec),
            restart=int(container.labels[RESTART_LABEL]),
            healthy=container.state is ContainerState.RUNNING,  # until the contrary is shown
        )
    except (KeyError, ValueError, msgspec.DecodeError):
        return None
