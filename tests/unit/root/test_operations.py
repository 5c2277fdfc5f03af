"""What users do is recorded as a wish, durable before it is answered, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path

import pytest

from oakestra.model.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from oakestra.model.ids import OrganizationId, UserId
from oakestra.model.instance import Placement, Slot
from oakestra.root.decisions import ForgetService, ForgetSlot
from oakestra.root.execute import apply
from oakestra.root.state import LastPass, RootState, WithdrawalRecord, placement_key, slot_key
from oakestra.root.users.access import ADMIN, APPLICATION_PROVIDER, ORGANIZATION_ADMIN, Principal
from oakestra.store.fake import FakeStore
from oakestra.wire.sla import parse_sla
from root_api import CLUSTER, TABLES, RootApi, let_cluster_join, let_run, start_api
from sla_samples import application, microservice, sla

HOME, ABROAD = OrganizationId("0" * 24), OrganizationId("f" * 24)


def principal(name: str, *roles: str, organization: OrganizationId = HOME) -> Principal:
    return Principal(user=UserId(name), name=name, organization=organization, roles=frozenset(roles))


ANN = principal("ann", APPLICATION_PROVIDER)
BOB = principal("bob", APPLICATION_PROVIDER)
CHIEF = principal("chief", ORGANIZATION_ADMIN)
ROOT = principal("root", ADMIN, organization=ABROAD)
STRANGER = principal("ann", APPLICATION_PROVIDER, ORGANIZATION_ADMIN, organization=ABROAD)

Story = Callable[[RootApi], Awaitable[None]]


def run(tmp_path: Path, story: Story) -> None:
    async def all_of_it() -> None:
        await story(await start_api(tmp_path))

    asyncio.run(all_of_it())


async def one_service(api: RootApi) -> str:
    (record,) = await api.operations.create_applications(ANN, parse_sla(sla()))
    return record.services[0]


def numbers(api: RootApi, service: str, *, wanted: bool = True) -> list[int]:
    slots = [
        slot for slot in api.state.slots.values() if slot.slot.service == service and slot.wanted is wanted
    ]
    return sorted(slot.slot.number for slot in slots)


def test_what_was_answered_is_on_disk_and_the_loop_was_woken(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        await api.operations.deploy(ANN, service)
        assert len(api.wakes) == 2
        reread = RootState(FakeStore(TABLES, disk=api.disk))
        assert reread.services[service].next_slot == 1
        assert reread.slots[f"{service}/0"].address.v4.startswith("10.30.")

    run(tmp_path, story)


def test_a_full_disk_means_that_nothing_was_asked_for(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        api.disk.full = True
        with pytest.raises(Unavailable, match="nothing was changed"):
            await api.operations.deploy(ANN, service)
        api.disk.full = False
        assert not api.state.slots
        assert await api.operations.deploy(ANN, service) == Slot(api.state.services[service].spec.id, 0)

    run(tmp_path, story)


def test_an_sla_is_created_whole_or_not_at_all(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        await one_service(api)
        before = dict(api.state.applications)
        with pytest.raises(Conflict, match=r"already has an application shop\.prod"):
            await api.operations.create_applications(
                ANN, parse_sla(sla(application(name="new"), application()))
            )
        twins = [microservice(f"s{n}", addresses={"rr_ip": "10.30.5.5"}) for n in range(2)]
        with pytest.raises(Conflict, match=r"two services of this SLA ask for the address 10\.30\.5\.5"):
            await api.operations.create_applications(ANN, parse_sla(sla(application(*twins, name="new"))))
        assert dict(api.state.applications) == before
        await api.state.commit()
        assert len(api.disk.tables["applications"]) == 1

    run(tmp_path, story)


def test_slot_numbers_count_on_and_are_never_used_again(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        for _ in range(3):
            await api.operations.deploy(ANN, service)
        await api.operations.undeploy(ANN, service, 2)
        await api.operations.undeploy(ANN, service, 2)
        assert (await api.operations.deploy(ANN, service)).number == 3
        assert numbers(api, service) == [0, 1, 3]
        assert numbers(api, service, wanted=False) == [2]
        with pytest.raises(NotFound, match="never had an instance 4"):
            await api.operations.undeploy(ANN, service, 4)
        with pytest.raises(NotFound, match="never had"):
            await api.operations.undeploy(ANN, service, -2)
        await api.operations.undeploy(ANN, service, -1)
        assert numbers(api, service) == []

    run(tmp_path, story)


def test_scaling_adds_slots_and_removes_the_highest(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        await api.operations.scale(ANN, service, 5)
        await api.operations.undeploy(ANN, service, 1)
        assert [slot.number for slot in await api.operations.scale(ANN, service, 2)] == [0, 2]
        assert [slot.number for slot in await api.operations.scale(ANN, service, 3)] == [0, 2, 5]
        with pytest.raises(Invalid):
            await api.operations.scale(ANN, service, -1)
        with pytest.raises(Conflict, match="at most 1000"):
            await api.operations.scale(ANN, service, 1001)
        addresses = [slot.address for slot in api.state.slots.values()]
        assert len(set(addresses)) == len(addresses)

    run(tmp_path, story)


def test_deleting_leaves_tombstones_that_nobody_sees(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        await api.operations.scale(ANN, service, 2)
        (record,) = api.operations.applications(ANN)
        await api.operations.delete_application(ANN, record.application.id)
        assert api.operations.applications(ANN) == []
        assert api.operations.services(ANN) == []
        for call in (api.operations.deploy(ANN, service), api.operations.delete_service(ANN, service)):
            with pytest.raises(NotFound):
                await call
        assert api.state.applications[record.application.id].application.deleted
        assert api.state.services[service].deleted
        assert numbers(api, service, wanted=False) == [0, 1]
        await one_service(api)

    run(tmp_path, story)


def test_others_things_are_not_there(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        (record,) = api.operations.applications(ANN)
        for other in (BOB, STRANGER):
            assert api.operations.applications(other) == []
            assert api.operations.services(other) == []
            calls = (
                api.operations.deploy(other, service),
                api.operations.undeploy(other, service, -1),
                api.operations.scale(other, service, 1),
                api.operations.delete_service(other, service),
                api.operations.delete_application(other, record.application.id),
            )
            for call in calls:
                with pytest.raises(NotFound, match="of yours"):
                    await call
        for allowed in (ANN, CHIEF, ROOT):
            await api.operations.deploy(allowed, service)
        for nobody in (principal("ann"), principal("eve", "Infrastructure_Provider")):
            with pytest.raises(Forbidden, match="Application_Provider"):
                await api.operations.create_applications(nobody, parse_sla(sla()))

    run(tmp_path, story)


def test_services_are_added_one_by_one_and_refused_one_by_one(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        await one_service(api)
        (record,) = api.operations.applications(ANN)
        wanted = application(
            microservice(),
            microservice("a", addresses={"rr_ip": "10.30.5.5"}),
            microservice("b", addresses={"rr_ip": "10.30.5.5"}),
            microservice("c"),
            applicationID=record.application.id,
        )
        added = await api.operations.create_services(ANN, parse_sla(sla(wanted)))
        assert [service.spec.name for service in added.created] == ["shop.prod.a.front", "shop.prod.c.front"]
        assert [refused.name for refused in added.refused] == ["web", "b"]
        assert "already exists" in str(added.refused[0].error)
        names = [found.spec.name for found in api.operations.services_of(api.operations.applications(ANN)[0])]
        assert names == ["shop.prod.web.front", "shop.prod.a.front", "shop.prod.c.front"]
        with pytest.raises(NotFound):
            await api.operations.create_services(ANN, parse_sla(sla(replace_id(wanted))))

    run(tmp_path, story)


def replace_id(wanted: dict[str, object]) -> dict[str, object]:
    return {**wanted, "applicationID": "e" * 24}


def test_a_released_address_rests_but_its_tenant_may_have_it_back(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        chosen = parse_sla(sla(application(microservice(addresses={"rr_ip": "10.30.5.5"}))))
        (record,) = await api.operations.create_applications(ANN, chosen)
        slot = await api.operations.deploy(ANN, record.services[0])
        await api.operations.delete_application(ANN, record.application.id)
        with pytest.raises(Conflict, match="belongs to another"):
            await api.operations.create_applications(STRANGER, chosen)

        api.state.slots.put(slot_key(slot), replace(api.state.slots[slot_key(slot)], cluster=None))
        gone = (ForgetSlot(slot=slot), ForgetService(service=record.services[0]))
        apply(api.state, gone, now_wall_s=api.clock.wall_s())
        with pytest.raises(Conflict, match="ten minutes"):
            await api.operations.create_applications(STRANGER, chosen)
        (again,) = await api.operations.create_applications(ANN, chosen)
        assert api.state.services[again.services[0]].spec.addresses.round_robin_v4 == "10.30.5.5"
        assert "10.30.5.5" not in api.state.quarantine
        with pytest.raises(Conflict):
            await api.operations.create_applications(STRANGER, chosen)

    run(tmp_path, story)


def test_an_application_is_renamed_only_while_nothing_is_called_by_its_name(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        service = await one_service(api)
        (record,) = api.operations.applications(ANN)
        id = record.application.id

        async def update(name: str | None, description: str | None) -> None:
            await api.operations.update_application(
                ANN, id, name=name, namespace=None, description=description
            )

        await update("shop", "better")
        with pytest.raises(Conflict, match="has services"):
            await update("store", None)
        await api.operations.delete_service(ANN, service)
        with pytest.raises(Invalid, match="letters and digits"):
            await update("a b", None)
        await update("store", None)
        renamed = api.operations.application(ANN, id).application
        assert (renamed.name, renamed.namespace, renamed.description) == ("store", "prod", "better")

    run(tmp_path, story)


def test_who_deletes_an_application_may_create_it_again_at_once_with_its_address(tmp_path: Path) -> None:
    """While the old one is still on its way out: nobody should have to wait for containers to end."""

    async def story(api: RootApi) -> None:
        document = sla(application(microservice(addresses={"rr_ip": "10.30.5.5"})))
        (first,) = await api.operations.create_applications(ANN, parse_sla(document))
        old = first.services[0]
        await api.operations.deploy(ANN, old)
        await api.operations.delete_application(ANN, first.application.id)
        assert api.state.services[old].deleted
        with pytest.raises(Conflict, match="belongs to another service"):
            await api.operations.create_applications(STRANGER, parse_sla(document))
        (again,) = await api.operations.create_applications(ANN, parse_sla(document))
        addresses = {id: api.state.services[id].spec.addresses for id in (old, again.services[0])}
        assert addresses[again.services[0]].round_robin_v4 == "10.30.5.5"
        assert addresses[old].round_robin_v4 == ""
        apply(api.state, [ForgetSlot(slot=Slot(old, 0)), ForgetService(service=old)], now_wall_s=1.0)
        assert "10.30.5.5" not in api.state.quarantine

    run(tmp_path, story)


def test_what_is_listed_keeps_its_order_when_records_are_read_afresh(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        names = ("c", "a", "b")
        for name in names:
            api.clock.now_s += 1
            services = [microservice(f"s{letter}") for letter in reversed(names)]
            await api.operations.create_applications(ANN, parse_sla(sla(application(*services, name=name))))

        def listed() -> tuple[list[str], list[str]]:
            return (
                [record.application.name for record in api.operations.applications(ANN)],
                [record.spec.name for record in api.operations.services(ANN)],
            )

        before = listed()
        assert before[0] == list(names)
        assert [name.split(".")[2] for name in before[1][:3]] == ["sb", "sa", "sc"]
        api.state.records.load()
        assert listed() == before

    run(tmp_path, story)


def test_a_cluster_that_is_lost_may_be_removed_with_what_it_has(tmp_path: Path) -> None:
    async def story(api: RootApi) -> None:
        let_cluster_join(api)
        service = await one_service(api)
        await api.operations.deploy(ANN, service)
        let_run(api, service)
        with pytest.raises(Conflict, match="cluster east has 1 instance; move"):
            await api.operations.remove_cluster(ANN, CLUSTER)
        api.state.last = LastPass(lost=frozenset({CLUSTER}))
        await api.operations.remove_cluster(ANN, CLUSTER)
        assert not api.state.clusters

    run(tmp_path, story)


def test_a_cluster_ends_what_must_not_run_twice_before_it_is_removed(tmp_path: Path) -> None:
    """Nobody would wait for it any more."""

    async def story(api: RootApi) -> None:
        let_cluster_join(api)
        alone = microservice(disconnect={"replace": False})
        (record,) = await api.operations.create_applications(ANN, parse_sla(sla(application(alone))))
        placed = Placement(record.services[0], 0, 1)
        withdrawn = WithdrawalRecord(placed=placed, cluster=CLUSTER, since_generation=1)
        api.state.withdrawals.put(placement_key(placed), withdrawn)
        with pytest.raises(Conflict, match="has not ended 1 instance that must not run twice"):
            await api.operations.remove_cluster(ANN, CLUSTER)
        api.state.last = LastPass(lost=frozenset({CLUSTER}))
        await api.operations.remove_cluster(ANN, CLUSTER)
        assert not api.state.clusters

    run(tmp_path, story)
