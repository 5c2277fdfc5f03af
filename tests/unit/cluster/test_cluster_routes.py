"""What a cluster tells its workers of where services and instances are."""

from __future__ import annotations

from dataclasses import replace

import pytest

from oakestra.cluster.observe import Observed, WorkerSeen
from oakestra.cluster.render.down import Rendering
from oakestra.cluster.state import SlotRecord, WithdrawalRecord, WorkerRecord
from oakestra.model.address import SUBNETS_MAX, RouteKind, host_address, worker_subnet
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId, WorkerId
from oakestra.model.instance import InstanceKey, InstanceStatus, Phase, Placement
from oakestra.model.machine import Capacity
from oakestra.model.service import InstanceAddress, ServiceAddresses, ServiceSpec
from oakestra.scheduling.liveness import Liveness
from oakestra.wire.native import ClusterAssignment, RemoteInstance, Version, WorkerAssignment
from town import Town

ACME, OTHER = OrganizationId("a" * 24), OrganizationId("b" * 24)
WEB, STRANGE = ServiceId("c" * 24), ServiceId("d" * 24)
FIRST, SECOND = WorkerId("1" * 24), WorkerId("2" * 24)


def spec(id: ServiceId, tenant: OrganizationId, v4: str) -> ServiceSpec:
    return ServiceSpec(
        id=id,
        application_id=ApplicationId("e" * 24),
        tenant=tenant,
        name="app.ns.web.ns",
        addresses=ServiceAddresses(round_robin_v4=v4, closest_v4=v4 + "0"),
    )


def slot(service: ServiceId, number: int, worker: WorkerId | None) -> SlotRecord:
    address = InstanceAddress(v4=f"10.30.1.{number}")
    return SlotRecord(placed=Placement(service, number, 1), address=address, attempt=1, worker=worker)


def worker(id: WorkerId, index: int, *ready: int) -> WorkerSeen:
    keys = {number: InstanceKey(WEB, number, 1, 1) for number in ready}
    return WorkerSeen(
        record=WorkerRecord(
            id=id, key=id, name=id, capacity=Capacity(), subnet_indexes=(index,), host=f"198.18.0.{index}"
        ),
        liveness=Liveness.LIVE,
        silent_s=0.0,
        reported=True,
        complete=True,
        applied=Version(),
        trouble="",
        statuses={
            key: InstanceStatus(
                key=key, phase=Phase.RUNNING, ready=True, namespace=host_address(worker_subnet(index), 2)
            )
            for number, key in keys.items()
        },
    )


OBSERVED = Observed(
    epoch=1,
    services={WEB: spec(WEB, ACME, "10.30.0.1"), STRANGE: spec(STRANGE, OTHER, "10.30.0.2")},
    slots={
        record.placed.slot: record
        for record in (
            slot(WEB, 0, FIRST),
            slot(WEB, 1, SECOND),
            slot(WEB, 2, None),
            slot(STRANGE, 0, SECOND),
        )
    },
    withdrawals={},
    workers={FIRST: worker(FIRST, 5, 0), SECOND: worker(SECOND, 6)},
    lease=(5, 2),
    root_known=True,
    adopting=False,
)


def _assignments(observed: Observed, remote: ClusterAssignment | None) -> dict[WorkerId, WorkerAssignment]:
    rendered = Rendering().worker_assignments(observed, remote)
    return {id: assignment for id, (assignment, _) in rendered.items()}


def test_a_route_says_whose_it_is() -> None:
    routes = _assignments(OBSERVED, None)[SECOND].routes
    assert {(route.service, route.tenant) for route in routes} == {(WEB, ACME), (STRANGE, OTHER)}
    assert {route.tenant for route in _assignments(OBSERVED, None)[FIRST].routes} == {ACME}


def test_an_instances_route_says_where_it_runs_before_it_is_ready_and_until_it_is_gone() -> None:
    """Slot 0 is ready on the first worker; on the second an attempt starts, and one of slot 3, withdrawn, ends."""
    starting, ending = InstanceKey(WEB, 0, 1, 2), InstanceKey(WEB, 3, 1, 1)
    second = OBSERVED.workers[SECOND]
    places = {key: host_address(worker_subnet(6), number) for number, key in enumerate((starting, ending), 2)}
    statuses = {
        key: InstanceStatus(key=key, phase=Phase.RUNNING, namespace=place) for key, place in places.items()
    }
    observed = replace(OBSERVED, workers={**OBSERVED.workers, SECOND: replace(second, statuses=statuses)})
    routes = _assignments(observed, None)[FIRST].routes
    instances = {route.address.v4: route for route in routes if route.kind is RouteKind.INSTANCE}
    ready = host_address(worker_subnet(5), 2)
    assert instances["10.30.1.0"].senders == (ready, places[starting])
    assert [backend.address for backend in instances["10.30.1.0"].backends] == [ready]
    assert instances["10.30.1.1"].senders == ()
    assert all(route.senders == () for route in routes if route.kind is not RouteKind.INSTANCE)


def test_instances_elsewhere_may_speak_before_they_are_led_to() -> None:
    place = host_address(worker_subnet(70), 2)
    other = RemoteInstance(
        placed=Placement(WEB, 7, 1), instance=InstanceAddress(v4="10.30.1.7"), namespace=place, ready=False
    )
    remote = ClusterAssignment(version=Version(), remotes=(other,))
    routes = _assignments(OBSERVED, remote)[FIRST].routes
    (found,) = (route for route in routes if route.address.v4 == "10.30.1.7")
    assert (found.senders, found.backends) == ((place,), ())


def test_a_worker_keeps_routes_and_peers_until_its_last_instance_is_gone() -> None:
    """So that what stops can say its goodbyes."""
    key = InstanceKey(WEB, 9, 1, 1)
    status = InstanceStatus(key=key, phase=Phase.RUNNING, namespace=host_address(worker_subnet(6), 2))
    observed = replace(
        OBSERVED,
        slots={found: record for found, record in OBSERVED.slots.items() if record.worker != SECOND},
        withdrawals={(SECOND, key): WithdrawalRecord(key=key, worker=SECOND, since_generation=1)},
        workers={**OBSERVED.workers, SECOND: replace(OBSERVED.workers[SECOND], statuses={key: status})},
    )
    told = _assignments(observed, None)
    assert {route.tenant for route in told[SECOND].routes} == {ACME}
    assert [peer.subnet_index for peer in told[SECOND].peers] == [5]
    assert [peer.subnet_index for peer in told[FIRST].peers] == [6]


def test_what_could_not_be_rendered_is_not_taken_for_rendered() -> None:
    town, rendering = Town(), Rendering()
    town.worker(SUBNETS_MAX, 1000)
    for _ in range(2):
        with pytest.raises(AssertionError, match="subnet indexes"):
            rendering.worker_assignments(town.seen(), None)
