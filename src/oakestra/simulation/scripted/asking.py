"""What users and operators ask of a fleet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

from oakestra.model.errors import Invalid, OakestraError
from oakestra.model.ids import WorkerId
from oakestra.root.operations import Operations
from oakestra.simulation.hosts import ClusterHost
from oakestra.simulation.scripted.stage import Stage
from oakestra.simulation.scripted.words import Run, Verb, close_to, exactly, whole
from oakestra.simulation.user import ADMINISTRATOR, scaled
from oakestra.wire.sla import SERVICE_CHANGE_SCHEMA, parse_sla

_NOBODY = WorkerId("")


class Asking:
    """Asks root, and believes what it answers."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage

    def verbs(self) -> tuple[Verb, ...]:
        """Return what can be asked."""
        return (
            Verb("deploy NAME COPIES [KEY=VALUE …]", "run a service; keys are those of an SLA's microservice", self._deploy),
            Verb("scale NAME COPIES", "have so many instances of it", self._scale),
            Verb("remove NAME.N", "take one instance away", self._remove),
            Verb("delete NAME", "delete a service", self._delete),
            Verb("update NAME KEY=VALUE …", "make a new revision of a service", self._update),
            Verb("rollback NAME", "go back to the revision before", self._roll_back),
            Verb("cordon HOST", "let a worker or cluster take nothing new", self._availability("cordoned")),
            Verb("drain HOST", "move everything away from it", self._availability("draining")),
            Verb("uncordon HOST", "let it take instances again", self._availability("active")),
            Verb("forget HOST", "remove a worker or cluster that is gone for good", self._forget),
        )  # fmt: skip

    # --- what users do -------------------------------------------------------------------------------------------------

    async def _deploy(self, words: list[str], keys: dict[str, Any]) -> AsyncIterator[str]:
        name, copies = exactly(words, 2)
        whole(copies)
        _check(keys)
        service = {
            "microservice_name": name, "microservice_namespace": "sim", "virtualization": "container",
            "code": f"docker.io/library/{name}:1", **keys,
        }  # fmt: skip
        application = {"application_name": name, "application_namespace": "sim", "microservices": [service]}
        sla = {"sla_version": "v2.0", "customerID": "Admin", "applications": [application]}
        (created,) = await self._ask(lambda root: root.create_applications(ADMINISTRATOR, parse_sla(sla)))
        id = self._stage.names.ids[name] = created.services[0]
        self._stage.world.user.believe(id, created.application.id, name)
        try:
            told = await self._scaled(name, whole(copies))
        except OakestraError:
            await self._ask(lambda root: root.delete_application(ADMINISTRATOR, created.application.id))
            self._stage.world.user.services[id].deleted = True
            del self._stage.names.ids[name]
            raise
        yield told

    async def _scale(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        name, copies = exactly(words, 2)
        yield await self._scaled(name, whole(copies))

    async def _scaled(self, name: str, copies: int) -> str:
        id = self._stage.service(name)
        numbers, given = await self._ask(lambda root: scaled(root, id, copies))
        self._stage.world.user.services[id].has(numbers, besides=given)
        return f"{copies} {'instance' if copies == 1 else 'instances'} of {name} wanted"

    async def _remove(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        slot = self._stage.slot(exactly(words, 1)[0])
        await self._ask(lambda root: root.undeploy(ADMINISTRATOR, slot.service, slot.number))
        believed = self._stage.world.user.services[slot.service]
        believed.has(believed.slots - {slot.number}, besides={slot.number})
        yield f"{self._stage.names.slot(slot)} is not wanted any more"

    async def _delete(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        (name,) = exactly(words, 1)
        id = self._stage.service(name)
        believed = self._stage.world.user.services[id]
        await self._ask(lambda root: root.delete_application(ADMINISTRATOR, believed.application))
        believed.forget()
        yield f"{name} is deleted"

    async def _update(self, words: list[str], keys: dict[str, Any]) -> AsyncIterator[str]:
        (name,) = exactly(words, 1)
        _check(keys)
        id = self._stage.service(name)
        record = await self._ask(lambda root: root.update_service(ADMINISTRATOR, id, keys))
        yield f"{name} has revision {record.spec.revision}"

    async def _roll_back(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        (name,) = exactly(words, 1)
        id = self._stage.service(name)
        record = await self._ask(lambda root: root.roll_back_service(ADMINISTRATOR, id))
        yield f"{name} goes back, as revision {record.spec.revision}"

    async def _ask(self, request: Callable[[Operations], Awaitable[Any]]) -> Any:
        return await self._stage.world.root.ask(request)

    # --- what operators do ---------------------------------------------------------------------------------------------

    def _availability(self, word: str) -> Run:
        async def change(words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
            host = self._stage.host(exactly(words, 1)[0])
            await self._stage.world.set_availability(host, word)
            yield f"{host.name} is {word}"

        return change

    async def _forget(self, words: list[str], _: dict[str, Any]) -> AsyncIterator[str]:
        host = self._stage.host(exactly(words, 1)[0])
        if isinstance(host, ClusterHost):
            await self._ask(lambda root: root.remove_cluster(ADMINISTRATOR, host.id))
        else:
            worker = self._stage.worker(host.name)
            await self._stage.world.call_cluster(worker, "remove", {"worker": worker.id})
        yield f"{host.name} is no member any more"


def _check(keys: Mapping[str, Any]) -> None:
    """Raise `Invalid` for a key that no microservice has: root keeps such, so a slip would be seen by nobody."""
    known = SERVICE_CHANGE_SCHEMA["properties"]
    for key in keys:
        if key not in known:
            raise Invalid(
                f"a microservice has no key {key!r}; {close_to(key, known)}there are {', '.join(known)}"
            )
