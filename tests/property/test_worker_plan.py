"""Whatever a worker finds when it looks, its plans lead to what was asked for."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.address import host_address, worker_subnet
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.instance import InstanceKey, Phase
from oakestra.model.service import InstanceAddress, RestartPolicy, ServiceSpec
from oakestra.worker.desired import Desired, LocalInstance, edit, release
from oakestra.worker.observe import Observed, StepKind
from oakestra.worker.plan import (
    NAMESPACE_LABEL,
    RUN_LABEL,
    Act,
    GiveUp,
    Mark,
    Release,
    Rerun,
    Settle,
    Step,
    counted,
    given_up,
    plan,
    run_name,
    statuses,
)

PASSES_MAX = 30
ADDRESSES = {number: host_address(worker_subnet(0), number + 1) for number in range(1, 5)}

numbers = st.integers(1, 4)
services = st.builds(
    ServiceSpec,
    id=st.just(ServiceId("5" * 24)),
    application_id=st.just(ApplicationId("a" * 24)),
    tenant=st.just(OrganizationId("b" * 24)),
    name=st.just("a.b.c.d"),
    image=st.sampled_from(["one", "two"]),
    restart=st.sampled_from(RestartPolicy),
    one_shot=st.booleans(),
)


@st.composite
def instances(draw: st.DrawFn) -> LocalInstance:
    number = draw(numbers)
    return LocalInstance(
        key=InstanceKey(ServiceId("5" * 24), number, 1, 1),
        number=number,
        address=InstanceAddress(v4=f"10.30.0.{number}"),
        spec=draw(services),
        restart=draw(st.integers(0, 2)),
        withdrawn=draw(st.booleans()),
        healthy=draw(st.booleans()),
        given_up=draw(st.sampled_from(["", "was ended because it was not well"])),
    )


containers = st.builds(
    ContainerSeen,
    number=numbers,
    labels=st.tuples(instances(), st.sampled_from(["10.18.0.2", "10.18.9.9"])).map(
        lambda drawn: {RUN_LABEL: run_name(drawn[0]), NAMESPACE_LABEL: drawn[1]}
    ),
    state=st.sampled_from(ContainerState),
    exit_code=st.sampled_from([None, 0, 1, 137]),
)


@st.composite
def worlds(draw: st.DrawFn) -> Observed:
    wanted = draw(st.lists(instances(), unique_by=lambda instance: instance.number))
    seen = draw(st.lists(containers, unique_by=lambda container: container.number))
    return Observed(
        desired=Desired(instances=tuple(wanted), subnets=(worker_subnet(0),)),
        containers={container.number: container for container in seen},
        attached=frozenset(draw(st.sets(numbers))),
        attached_as={number: ADDRESSES[number] for number in draw(st.sets(numbers))},
        pulled=frozenset(draw(st.sets(st.sampled_from(["one", "two"])))),
        busy={},
        failures={},
        stopped_since_s={},
        refused_ports={},
        network_trouble="",
        unserved=frozenset(),
        ran=frozenset(draw(st.sets(st.tuples(numbers, st.integers(0, 2))))),
        now_s=1000.0,
    )


def carried_out(step: Step, world: Observed) -> Observed:
    """A perfect world: every step works at once."""
    desired, by_number = world.desired, world.desired.by_number
    match step:
        case Rerun(number=number):
            return replace(world, desired=edit(desired, counted(by_number[number], step)))
        case Mark(number=number, healthy=healthy):
            return replace(world, desired=edit(desired, replace(by_number[number], healthy=healthy)))
        case GiveUp(number=number):
            return replace(world, desired=edit(desired, given_up(by_number[number], step)))
        case Settle(number=number, outcome=outcome):
            return replace(world, desired=edit(desired, replace(by_number[number], outcome=outcome)))
        case Release(number=number):
            assert number not in world.containers, "nothing is forgotten while its container is there"
            assert number not in world.attached, "nothing is forgotten while its network is there"
            return replace(world, desired=release(desired, number))
        case Act():
            return acted(step, world)


def acted(step: Act, world: Observed) -> Observed:
    number, containers = step.number, dict(world.containers)
    match step.kind:
        case StepKind.PULL:
            return replace(world, pulled=world.pulled | {world.desired.by_number[number].spec.image})
        case StepKind.ATTACH:
            mine = {**world.attached_as, number: ADDRESSES[number]}
            return replace(world, attached=world.attached | {number}, attached_as=mine)
        case StepKind.DETACH:
            assert number not in containers, "no container loses its network while it exists"
            return replace(world, attached=world.attached - {number})
        case StepKind.CREATE:
            instance = world.desired.by_number[number]
            assert number not in containers
            assert number in world.attached, "nothing is created without its network"
            assert world.attached_as[number] == ADDRESSES[number], "nor with addresses that are not its own"
            assert instance.spec.image in world.pulled, "nothing is created without its image"
            containers[number] = ContainerSeen(
                number=number, labels={RUN_LABEL: run_name(instance)}, state=ContainerState.CREATED
            )
        case StepKind.START:
            containers[number] = replace(containers[number], state=ContainerState.RUNNING)
        case StepKind.STOP:
            containers[number] = replace(containers[number], state=ContainerState.STOPPED, exit_code=143)
        case StepKind.DELETE:
            assert containers[number].state is not ContainerState.RUNNING, "nothing that runs is deleted"
            del containers[number]
        case StepKind.SAVE:
            raise AssertionError("saving is no act")
    return replace(world, containers=containers)


@given(worlds())
def test_converges_then_rests(world: Observed) -> None:
    """Goal: liveness. Method: apply plans to a perfect world, whose clock moves on, until one is empty."""
    for _ in range(PASSES_MAX):
        steps = plan(world)
        for step in steps:
            world = carried_out(step, world)
        world = replace(world, now_s=world.now_s + 100)
    assert plan(world) == ()
    kept = {instance.number for instance in world.desired.instances if instance.outcome is None}
    assert all(not instance.withdrawn for instance in world.desired.instances)
    assert set(world.containers) == kept
    assert all(seen.state is ContainerState.RUNNING for seen in world.containers.values())
    assert world.attached == kept
    assert {status.phase for status in statuses(world)} <= {Phase.RUNNING, Phase.COMPLETED, Phase.FAILED}


@given(worlds())
def test_at_most_one_step_per_instance(world: Observed) -> None:
    touched = [step.number for step in plan(world)]
    assert touched == sorted(set(touched))


@given(worlds(), st.sets(numbers))
def test_what_is_busy_is_left_alone(world: Observed, busy: set[int]) -> None:
    world = replace(world, busy=dict.fromkeys(busy, StepKind.CREATE))
    assert not busy & {step.number for step in plan(world)}


@given(worlds())
def test_withdrawn_instances_are_never_ready(world: Observed) -> None:
    withdrawn = {instance.key for instance in world.desired.instances if instance.withdrawn}
    assert not any(status.ready for status in statuses(world) if status.key in withdrawn)
