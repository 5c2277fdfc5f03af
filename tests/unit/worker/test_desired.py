"""What a worker is to run, as its cluster says: nothing that is not mentioned goes, and nothing that runs is touched for a name."""

from __future__ import annotations

from dataclasses import replace

from oakestra.model.address import worker_subnet
from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.instance import InstanceKey
from oakestra.model.service import InstanceAddress, ServiceSpec
from oakestra.wire.native import AssignedInstance, Version, WorkerAssignment
from oakestra.worker.desired import Desired, accept, adopt
from oakestra.worker.execute import found, labels
from oakestra.worker.plan import RUN_LABEL, Rerun, counted, run_name

SPEC = ServiceSpec(
    id=ServiceId("5" * 24),
    application_id=ApplicationId("4" * 24),
    tenant=OrganizationId("7" * 24),
    name="a.b.web.d",
)
FIRST, SECOND, THIRD = (InstanceKey(SPEC.id, 0, 1, attempt) for attempt in (1, 2, 3))


def told(
    generation: int, *instances: AssignedInstance, withdrawn: tuple[InstanceKey, ...] = ()
) -> WorkerAssignment:
    return WorkerAssignment(
        version=Version(epoch=1, generation=generation),
        services=(SPEC,),
        instances=instances,
        withdrawn=withdrawn,
        subnets=(worker_subnet(0),),
    )


def one(key: InstanceKey, *former: InstanceKey) -> AssignedInstance:
    return AssignedInstance(key=key, address=InstanceAddress(v4="10.30.0.1"), former=former)


def test_what_is_taken_back_goes_on_under_its_new_name_and_its_run_is_the_same() -> None:
    before = accept(Desired(), told(1, one(FIRST)))
    (instance,) = before.instances
    after = accept(before, told(2, one(THIRD, FIRST)))
    (renamed,) = after.instances
    assert (renamed.key, renamed.number) == (THIRD, instance.number)
    assert run_name(renamed) == run_name(instance), "its container is not taken for an older run"
    (again,) = accept(after, told(3, one(THIRD, FIRST))).instances
    assert again == renamed
    rerun = counted(renamed, Rerun(renamed.number, 1, "crashed"))
    assert run_name(rerun) == "/".join(map(str, (*THIRD, 1)))


def test_what_was_taken_back_and_made_again_is_found_as_what_it_is_when_the_worker_forgot_it() -> None:
    """Method: the container is made under the new name (a reboot took the first), and its labels are all that is left."""
    before = accept(Desired(), told(1, one(FIRST)))
    (renamed,) = accept(before, told(2, one(THIRD, FIRST))).instances
    container = ContainerSeen(number=renamed.number, state=ContainerState.RUNNING, labels=labels(renamed))
    stranger = found(container)
    assert stranger is not None
    (again,) = accept(adopt(Desired(), [(stranger, "")]), told(3, one(THIRD, FIRST))).instances
    assert (again.key, run_name(again)) == (THIRD, container.labels[RUN_LABEL])


def test_what_was_taken_back_twice_is_known_by_every_name_it_had() -> None:
    once = accept(Desired(), told(1, one(FIRST)))
    twice = accept(accept(once, told(2, one(SECOND, FIRST))), told(3, one(THIRD, FIRST, SECOND)))
    late = accept(once, told(3, one(THIRD, FIRST, SECOND)))
    assert twice.instances == late.instances
    assert [(one.key, one.made_as) for one in twice.instances] == [(THIRD, FIRST)]


def test_two_instances_never_have_one_name() -> None:
    both = accept(Desired(), told(1, one(FIRST), one(SECOND)))
    after = accept(both, told(2, one(THIRD, FIRST, SECOND)))
    assert [instance.key for instance in after.instances] == [THIRD, SECOND]


def test_what_is_not_there_any_more_begins_anew() -> None:
    (instance,) = accept(Desired(), told(1, one(THIRD, FIRST))).instances
    assert (instance.key, instance.made_as) == (THIRD, None)


def test_what_was_taken_back_can_be_withdrawn() -> None:
    before = accept(Desired(), told(1, one(FIRST)))
    after = accept(before, told(2, one(THIRD, FIRST)))
    (instance,) = accept(after, told(3, withdrawn=(THIRD,))).instances
    assert instance.withdrawn


def test_absence_removes_nothing_and_an_older_word_counts_for_nothing() -> None:
    desired = accept(Desired(), told(2, one(FIRST)))
    assert accept(desired, told(1, withdrawn=(FIRST,))) is desired
    assert accept(desired, told(3)).instances == desired.instances
    assert replace(accept(desired, told(3)), applied=desired.applied) == desired
