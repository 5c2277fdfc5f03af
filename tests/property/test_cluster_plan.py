"""Whatever a cluster sees, its plans are safe, and in a perfect world they come to rest."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from oakestra.cluster.decisions import (
    Adopt,
    Decision,
    Forget,
    ForgetService,
    GrantSubnet,
    Place,
    SetAside,
    Unplaceable,
    Withdraw,
)
from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.plan import plan
from oakestra.cluster.state import Aside, SlotRecord, WithdrawalRecord, WorkerRecord
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement, Slot
from oakestra.model.machine import Capacity
from oakestra.model.service import InstanceAddress, PublishedPort, Resources, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.wire.native import Version

OVERCOMMIT = 2.0
SERVICES = [ServiceId(letter * 24) for letter in "abc"]
WORKERS = [WorkerId(f"{n}" * 24) for n in range(1, 5)]

specs = st.builds(
    lambda service, memory, vcpus, port: ServiceSpec(
        id=service,
        application_id=ApplicationId("0" * 24),
        tenant=OrganizationId("0" * 24),
        name="a.b.c.d",
        resources=Resources(memory_mib=memory, vcpus=vcpus),
        ports=(PublishedPort(host_port=port, container_port=80),) if port else (),
    ),
    st.sampled_from(SERVICES),
    st.sampled_from([0, 100, 400]),
    st.integers(0, 2),
    st.sampled_from([0, 8080]),
)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    services = {spec.id: spec for spec in draw(st.lists(specs, unique_by=lambda spec: spec.id, min_size=1))}
    workers = {
        id: WorkerRecord(
            id=id,
            key=id,
            name=f"w{id[0]}",
            capacity=Capacity(
                resources=Resources(memory_mib=draw(st.sampled_from([200, 1000])), vcpus=2),
                virtualizations=("docker",),
            ),
            subnet_indexes=draw(st.sampled_from([(), (int(id[0]),)])),
        )
        for id in draw(st.lists(st.sampled_from(WORKERS), unique=True))
    }
    slots: dict[Slot, SlotRecord] = {}
    for service in services:
        for number in draw(st.sets(st.integers(0, 3))):
            worker = draw(st.sampled_from([None, *workers]))
            slots[Slot(service, number)] = SlotRecord(
                placed=Placement(service, number, draw(st.integers(1, 2))),
                address=InstanceAddress(),
                attempt=draw(st.integers(1, 3)) if worker else draw(st.integers(0, 3)),
                worker=worker,
            )
    seen = {}
    for id, record in workers.items():
        keys = draw(
            st.sets(
                st.builds(
                    InstanceKey,
                    st.sampled_from(sorted(services)),
                    st.integers(0, 3),
                    st.integers(1, 2),
                    st.integers(1, 3),
                ),
                max_size=3,
            )
        )
        reported = draw(st.booleans())
        seen[id] = WorkerSeen(
            record=record,
            liveness=draw(st.sampled_from(Liveness)),
            reported=reported,
            complete=reported and draw(st.booleans()),
            applied=Version(epoch=1, generation=draw(st.integers(0, 3))),
            silent_s=draw(st.sampled_from([0.0, 10.0])),
            trouble="",
            statuses={key: InstanceStatus(key=key, phase=Phase.RUNNING) for key in keys} if reported else {},
        )
    withdrawals = {}
    for held in slots.values():
        if workers and held.attempt > 1 and draw(st.booleans()):
            key = InstanceKey(*held.placed, held.attempt - 1)
            worker = draw(st.sampled_from(sorted(workers)))
            withdrawals[worker, key] = WithdrawalRecord(
                key=key, worker=worker, since_generation=draw(st.integers(0, 3))
            )
    return Observed(
        epoch=1,
        services=services,
        slots=slots,
        withdrawals=withdrawals,
        workers=seen,
        lease=(0, 64),
        root_known=draw(st.booleans()),
        adopting=draw(st.booleans()),
    )


def carried_out(decision: Decision, world: Observed) -> Observed:
    """Do what `execute.apply` does, on values."""
    slots, withdrawals, services = dict(world.slots), dict(world.withdrawals), dict(world.services)
    workers = dict(world.workers)
    match decision:
        case (
            Place(slot=slot, worker=worker, attempt=attempt)
            | Adopt(slot=slot, worker=worker, attempt=attempt)
        ):
            slots[slot] = replace(slots[slot], worker=worker, attempt=attempt)
        case Withdraw(key=key, worker=worker):
            withdrawals.setdefault(
                (worker, key), WithdrawalRecord(key=key, worker=worker, since_generation=0)
            )
            record = slots.get(key.slot)
            if record is not None and record.worker == worker and record.key == key:
                slots[key.slot] = replace(record, worker=None)
            elif record is not None and record.aside is not None and record.aside_key == key:
                slots[key.slot] = replace(record, aside=None)
        case SetAside(slot=slot, worker=worker):
            aside = Aside(
                worker=worker, attempt=slots[slot].attempt, revision=slots[slot].revision, restart=0
            )
            slots[slot] = replace(slots[slot], worker=None, aside=aside)
        case Forget(worker=worker, key=key):
            del withdrawals[worker, key]
        case ForgetService(service=service):
            del services[service]
        case GrantSubnet(worker=worker, index=index):
            known = workers[worker].record
            granted = replace(known, subnet_indexes=(*known.subnet_indexes, index))
            workers[worker] = replace(workers[worker], record=granted)
        case Unplaceable():
            pass
    return replace(world, slots=slots, withdrawals=withdrawals, services=services, workers=workers)


@given(worlds())
def test_no_worker_is_promised_more_than_it_has_by_a_placement(world: Observed) -> None:
    """Goal: capacity. Method: add up what is held after the plan, wherever the plan added something."""
    decisions = plan(world, vcpu_overcommit=OVERCOMMIT)
    after = world
    for decision in decisions:
        after = carried_out(decision, after)
    used: defaultdict[WorkerId, Resources] = defaultdict(Resources)
    ports: defaultdict[WorkerId, Counter[int]] = defaultdict(Counter)
    held = [(record.worker, slot.service) for slot, record in after.slots.items() if record.worker]
    held += [(worker, key.service) for worker, key in after.withdrawals]
    held += [
        (id, key.service)
        for id, worker in after.workers.items()
        for key in worker.statuses
        if (id, key) not in after.withdrawals
        and not ((record := after.slots.get(key.slot)) and record.worker == id and record.key == key)
        and (id, key) not in world.withdrawals  # forgotten: seen gone
    ]
    for worker, service in held:
        spec = world.services[service]
        used[worker] += spec.resources
        ports[worker].update(port.host_port for port in spec.ports)
    for decision in decisions:
        if isinstance(decision, Place):
            capacity = world.workers[decision.worker].record.capacity.resources
            spec = world.services[decision.slot.service]
            if spec.resources.memory_mib:
                assert used[decision.worker].memory_mib <= capacity.memory_mib
            if spec.resources.vcpus:
                assert used[decision.worker].vcpus <= capacity.vcpus * OVERCOMMIT
            assert all(ports[decision.worker][port.host_port] == 1 for port in spec.ports)


@given(worlds())
def test_placements_go_to_live_workers_that_reported(world: Observed) -> None:
    for decision in plan(world, vcpu_overcommit=OVERCOMMIT):
        if isinstance(decision, Place):
            worker = world.workers[decision.worker]
            assert worker.liveness is Liveness.LIVE
            assert worker.reported
            assert decision.attempt > world.slots[decision.slot].attempt


@given(worlds())
def test_every_homeless_slot_gets_a_place_or_a_reason(world: Observed) -> None:
    decisions = plan(world, vcpu_overcommit=OVERCOMMIT)
    settled = {d.slot for d in decisions if isinstance(d, Place | Adopt | Unplaceable)}
    for slot, record in world.slots.items():
        worker = world.workers.get(record.worker) if record.worker else None
        if worker is None or worker.liveness is Liveness.LOST:
            assert slot in settled
    assert all(d.reason for d in decisions if isinstance(d, Place | Unplaceable | Withdraw))


@given(worlds())
def test_a_worker_without_a_complete_report_forgets_nothing(world: Observed) -> None:
    for decision in plan(world, vcpu_overcommit=OVERCOMMIT):
        if isinstance(decision, Forget):
            worker = world.workers[decision.worker]
            assert worker.complete
            assert decision.key not in worker.statuses


@settings(max_examples=200)
@given(worlds())
def test_comes_to_rest(world: Observed) -> None:
    """Goal: liveness. Method: carry plans out while workers, except those lost, do at once what they are told."""
    for _ in range(12):
        decisions = plan(world, vcpu_overcommit=OVERCOMMIT)
        for decision in decisions:
            world = carried_out(decision, world)
        world = replace(obeyed(world), adopting=False, root_known=True)
    left = [d for d in plan(world, vcpu_overcommit=OVERCOMMIT) if not isinstance(d, Unplaceable)]
    assert left == []
    for worker in world.workers.values():
        if worker.liveness is Liveness.LIVE:
            mine = {record.key for record in world.slots.values() if record.worker == worker.record.id}
            known = {key for key in worker.statuses if not from_the_future(world, key)}
            assert known == mine, "runs what it has, and nothing else"


def from_the_future(world: Observed, key: InstanceKey) -> bool:
    """Tell whether root must have placed this after what the cluster's (restored) store knows: never touched."""
    record = world.slots.get(key.slot)
    return record is not None and key.placement > record.placed.placement


def obeyed(world: Observed) -> Observed:
    workers = {}
    for id, worker in world.workers.items():
        if worker.liveness is Liveness.LOST:
            workers[id] = worker
            continue
        mine = {record.key for record in world.slots.values() if record.worker == id}
        kept = {key for key in set(worker.statuses) | mine if (id, key) not in world.withdrawals}
        workers[id] = replace(
            worker,
            reported=True,
            complete=True,
            applied=Version(epoch=1, generation=99),
            statuses={key: InstanceStatus(key=key, phase=Phase.RUNNING) for key in sorted(kept)},
        )
    return replace(world, workers=workers)
