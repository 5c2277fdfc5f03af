"""Somebody who uses the fleet, and remembers what root acknowledged: the truth that nothing may lose."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from oakestra.model.errors import OakestraError
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import Slot
from oakestra.root.operations import Operations
from oakestra.root.state import ApplicationRecord, ServiceRecord, SlotRecord
from oakestra.root.users.access import ADMIN, Principal
from oakestra.simulation.hosts import RootHost
from oakestra.simulation.losing import Kept, Named
from oakestra.wire.sla import parse_sla

ASKED_MAX = 6
"""More instances at once nobody asks for."""
ADMINISTRATOR = Principal(
    user=UserId("1" * 24),
    name=ADMIN,
    organization=OrganizationId("2" * 24),
    roles=frozenset({ADMIN}),
)


IMAGES = tuple(f"docker.io/library/image{number}:1" for number in range(4))


@dataclass(slots=True, kw_only=True)
class Believed:
    """What was acknowledged about one service."""

    id: ServiceId
    application: ApplicationId
    name: str
    slots: set[int] = field(default_factory=set)
    deleted: bool = False
    doubtful: bool = False
    """The last request about it got no answer, so both its outcomes are right until root is asked."""
    may: set[int] = field(default_factory=set)
    """Slots that may come back: root lost its records, and somebody else may have them."""
    may_return: bool = False
    """The service itself may come back."""

    def forget(self) -> None:
        """Expect nothing of it any more, whatever it was."""
        self.deleted, self.may_return = True, False
        self.slots, self.may = set(), set()

    def has(self, slots: set[int], *, besides: set[int]) -> None:
        """Expect exactly these slots, and none of some others that might have come back."""
        self.slots = slots
        self.may -= slots | besides

    def welcome(self, wanted: set[int], *, there: bool) -> None:
        """Take what root knows again for what it was."""
        if there and self.may_return:
            self.deleted = self.may_return = False
        self.slots |= wanted & self.may
        self.may -= wanted


async def scaled(root: Operations, id: ServiceId, instances: int) -> tuple[set[int], set[int]]:
    """Have so many instances of a service; return their numbers, and all that root knows to have been given out."""
    slots = await root.scale(ADMINISTRATOR, id, instances)
    return {slot.number for slot in slots}, set(range(root.service(ADMINISTRATOR, id).next_slot))


class User:
    """Asks root for things, one at a time."""

    def __init__(self, root: RootHost, *, random: Random, say: Callable[[str], None]) -> None:
        self.services: dict[ServiceId, Believed] = {}
        self.waiting = False
        """For an answer: until it comes, root may already do what nobody was told yet."""
        self._root = root
        self._random = random
        self._say = say
        self._applications = 0
        self._doubtful_names: set[str] = set()
        self._reconciles = random.random() < 0.2  # noqa: PLR2004 - a few
        """Nearly all services of this user have soon a replacement, and a word about which of the two stays."""

    async def act(self) -> None:
        """Do something that users do."""
        here = sorted(service.id for service in self.services.values() if not service.deleted)
        chosen = self._random.random()
        if not here or chosen < 0.2:  # noqa: PLR2004 - how often users do what
            await self.create(self._sla())
            return
        service = self._random.choice(here)
        if chosen < 0.7:  # noqa: PLR2004
            await self.scale(service, self._random.randrange(ASKED_MAX))
        elif chosen < 0.8:  # noqa: PLR2004
            await self.undeploy_one(service)
        elif chosen < 0.9:  # noqa: PLR2004
            await self.update(service)
        else:
            await self.delete(service)

    async def create(self, sla: dict[str, Any]) -> None:
        """Create the applications of an SLA."""
        names = {application["application_name"] for application in sla["applications"]}
        self._say(f"user creates {' '.join(sorted(names))}")
        created: list[ApplicationRecord] | None = await self._ask(
            lambda root: root.create_applications(ADMINISTRATOR, parse_sla(sla))
        )
        if created is None:
            self._doubtful_names |= names
            return
        for application in created:
            for id in application.services:
                operations = self._root.operations
                assert operations is not None, "it answered just now"
                spec = operations.service(ADMINISTRATOR, id).spec
                self.believe(spec.id, spec.application_id, spec.name)

    async def scale(self, id: ServiceId, instances: int) -> None:
        """Ask for so many instances of a service."""
        service = self.services[id]
        self._say(f"user scales {service.name} to {instances}")
        answer: tuple[set[int], set[int]] | None = await self._ask_about(
            service, lambda root: scaled(root, id, instances)
        )
        if answer is not None:
            numbers, given = answer
            service.has(numbers, besides=given)

    async def undeploy_one(self, id: ServiceId) -> None:
        """Take one instance of a service away."""
        service = self.services[id]
        if not service.slots:
            return
        number = self._random.choice(sorted(service.slots))
        self._say(f"user removes {service.name}.{number}")
        if await self._ask_about(service, lambda root: root.undeploy(ADMINISTRATOR, id, number)) is not None:
            service.has(service.slots - {number}, besides={number})

    async def update(self, id: ServiceId) -> None:
        """Change a service."""
        service = self.services[id]
        change = {"environment": [f"DRAWN={self._random.randrange(1000)}"]}
        self._say(f"user updates {service.name}")
        await self._ask_about(service, lambda root: root.update_service(ADMINISTRATOR, id, change))

    async def delete(self, id: ServiceId) -> None:
        """Delete a service, or its whole application."""
        whole = self._random.random() < 0.5  # noqa: PLR2004 - half of the time
        chosen = self.services[id]
        gone = [
            service
            for service in self.services.values()
            if service is chosen or (whole and service.application == chosen.application)
        ]
        self._say(f"user deletes {' '.join(service.name for service in gone)}")

        async def ask(root: Operations) -> bool:
            if whole:
                await root.delete_application(ADMINISTRATOR, chosen.application)
            else:
                await root.delete_service(ADMINISTRATOR, id)
            return True

        answer = await self._ask(ask)
        for service in gone:
            if answer is None:
                self._doubts(service)
            else:
                service.forget()

    def check(self, services: Sequence[ServiceRecord], slots: Iterable[SlotRecord]) -> list[str]:
        """Return what root lost or made up of what it had acknowledged; what was doubtful is settled by looking.

        The records are those on root's disk: an answer was given only when they were there.
        """
        there = {record.spec.id for record in services if not record.deleted}
        numbers: defaultdict[ServiceId, set[int]] = defaultdict(set)
        for slot in slots:
            if slot.wanted:
                numbers[slot.slot.service].add(slot.slot.number)
        self._settle(services, there, numbers)
        wrong: list[str] = []
        for service in self.services.values():
            deleted, wanted = service.id not in there, numbers[service.id]
            service.welcome(wanted, there=not deleted)
            if deleted != service.deleted:
                wrong.append(f"{service.name} is {'deleted' if deleted else 'there'}, against what root said")
            elif wanted != service.slots:
                said = sorted(service.slots)
                wrong.append(f"{service.name} has slots {sorted(wanted)}, root had said {said}")
        return wrong

    def owed(self) -> Kept:
        """Return what root must know again of others if it loses its records now."""
        sure = [one for one in self.services.values() if not (one.deleted or one.doubtful or self.waiting)]
        return Kept(
            services={one.id: Named(one.id, one.application, one.name) for one in sure},
            slots={Slot(one.id, number) for one in sure for number in one.slots},
        )

    def missing(self, owed: Kept) -> Kept:
        """Return what of this root does not know again yet, and nobody has asked it to delete since."""
        return Kept(
            services={id: named for id, named in owed.services.items() if self.services[id].may_return},
            slots={slot for slot in owed.slots if slot.number in self.services[slot.service].may},
        )

    def doubt(self, kept: Kept) -> None:
        """Expect nothing of root, which lost its records, but let it know again what it knew, or what is kept anywhere."""
        for named in kept.services.values():
            self.believe(named.id, named.application, named.name)
        for service in self.services.values():
            may = service.slots | service.may
            may |= {slot.number for slot in kept.slots if slot.service == service.id}
            if service.doubtful or self.waiting:
                may |= set(range(max(may, default=0) + ASKED_MAX))
            may_return = not service.deleted or service.may_return or service.id in kept.services
            service.forget()
            service.may, service.may_return = may, may_return

    def wanted(self) -> set[Slot]:
        """Return every slot that should run."""
        return {Slot(service.id, number) for service in self.services.values() for number in service.slots}

    def _settle(
        self, services: Iterable[ServiceRecord], there: set[ServiceId], numbers: Mapping[ServiceId, set[int]]
    ) -> None:
        for record in services:
            if record.spec.name.partition(".")[0] in self._doubtful_names:
                self.believe(record.spec.id, record.spec.application_id, record.spec.name)
        self._doubtful_names.clear()
        for service in self.services.values():
            if service.doubtful:
                service.deleted = service.id not in there
                service.slots = set(numbers.get(service.id, ()))
                service.doubtful = False

    def believe(self, id: ServiceId, application: ApplicationId, name: str) -> None:
        """Remember a service that root acknowledged."""
        if id not in self.services:
            self.services[id] = Believed(id=id, application=application, name=name)

    async def _ask_about(self, service: Believed, request: Callable[[Operations], Awaitable[Any]]) -> Any:
        """Ask; return the answer (True if it is nothing), or None if there was none and the outcome is unknown."""
        answer = await self._ask(request)
        if answer is None:
            self._doubts(service)
        return answer

    def _doubts(self, service: Believed) -> None:
        service.doubtful = True
        self._root.owed = {name: kept.without(service.id) for name, kept in self._root.owed.items()}

    async def _ask(self, request: Callable[[Operations], Awaitable[Any]]) -> Any:
        self.waiting = True
        try:
            answer = await self._root.ask(request)
        except OakestraError as error:
            self._say(f"the user is told: {error}")
            return None
        finally:
            self.waiting = False
        return True if answer is None else answer

    def _sla(self) -> dict[str, Any]:
        self._applications += 1
        services = [self._microservice(position) for position in range(self._random.randint(1, 3))]
        application = {
            "application_name": f"app{self._applications}",
            "application_namespace": "sim",
            "microservices": services,
        }
        return {"sla_version": "v2.0", "customerID": ADMIN, "applications": [application]}

    def _microservice(self, position: int) -> dict[str, Any]:
        random = self._random
        service: dict[str, Any] = {
            "microservice_name": f"s{position}",
            "microservice_namespace": "sim",
            "virtualization": "container",
            "code": IMAGES[random.randrange(len(IMAGES))],
            "memory": random.choice([0, 64, 200, 500]),
            "vcpus": random.choice([0, 1, 2]),
        }
        if random.random() < 0.2:  # noqa: PLR2004 - a few of each kind
            service["port"] = f"{8000 + random.randrange(3)}:80"
        if random.random() < 0.2:  # noqa: PLR2004
            service["one_shot"] = True
        if random.random() < 0.1:  # noqa: PLR2004
            service["arch"] = ["arm64"]
        if random.random() < (0.9 if self._reconciles else 0.2):
            service["disconnect"] = self._disconnect()
        if random.random() < 0.2:  # noqa: PLR2004
            service["update_policy"] = {
                "order": random.choice(["start_first", "stop_first"]),
                "parallel": random.randint(1, 3),
            }
        return service

    def _disconnect(self) -> dict[str, Any]:
        """Return what becomes of a service's instances that are out of reach."""
        random = self._random
        reconcile = {"reconcile": random.choice(["keep_original", "longest_running", "best_score"])}
        if self._reconciles:
            return reconcile | {"lost_after_s": random.choice([5, 20])}
        return random.choice(
            [
                {"replace": False},
                {"lost_after_s": 20},
                reconcile,
                {"stop_after_s": 40},
                {"stop_after_s": 30, "lost_after_s": 30},
            ]
        )
