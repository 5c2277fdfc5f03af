"""Decide what a worker does next. Pure: no clock, no I/O, no logging.

Every instance moves one step at a time, from what is seen towards what is desired; nothing is remembered between
passes but what `Observed` holds. Must not know: how a step is carried out, or what the cluster is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from oakestra.model.container import ContainerSeen, ContainerState
from oakestra.model.instance import Failures, InstanceStatus, Phase
from oakestra.model.service import InstanceAddress, RestartPolicy
from oakestra.scheduling.backoff import FORGIVEN_AFTER_S, delay_s
from oakestra.worker.desired import LocalInstance, Outcome, namespace_address
from oakestra.worker.health.course import Patient, gives_up_at_s
from oakestra.worker.observe import Failure, Observed, StepKind

RUN_LABEL = "oakestra.run"
"""Label of a container: which run of which instance it is."""
NAMESPACE_LABEL = "oakestra.namespace"
"""Label of a container: its own address on the worker's subnet."""


@dataclass(frozen=True, slots=True)
class Act:
    """Carry out one step for an instance."""

    kind: StepKind
    number: int


@dataclass(frozen=True, slots=True)
class Rerun:
    """Count one more restart of the instance; its old container is then in the way and goes."""

    number: int
    crashes: int
    ended: str = ""
    """How the run before ended, as far as that is known."""


@dataclass(frozen=True, slots=True)
class Mark:
    """Keep whether the instance is healthy, so that the next agent knows."""

    number: int
    healthy: bool


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Keep that this run is to end although its process goes on, and why. It counts as a crash."""

    number: int
    crashes: int
    reason: str


@dataclass(frozen=True, slots=True)
class Settle:
    """Keep how the instance ended; it will not run here again."""

    number: int
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing of a withdrawn instance is left: forget it."""

    number: int


Step = Act | Rerun | Mark | GiveUp | Settle | Release


def plan(observed: Observed) -> tuple[Step, ...]:
    """Return the next step of every instance, at most one each, in order of their numbers."""
    by_number = observed.desired.by_number
    numbers = sorted(by_number.keys() | observed.containers.keys() | observed.attached)
    steps = (next_step(observed, number, by_number.get(number)) for number in numbers)
    return tuple(step for step in steps if step is not None and not _must_wait(observed, step))


def next_step(observed: Observed, number: int, instance: LocalInstance | None) -> Step | None:
    """Move one instance one step towards what is desired; None when there is nothing to do."""
    if number in observed.busy:
        return None
    if instance is None or instance.withdrawn:
        return _clear_away(observed, number, known=instance is not None)
    if instance.outcome is not None or _must_rest(observed, instance):
        return _clear_away(observed, number, known=False)
    container = observed.containers.get(number)
    if container is not None and _is_old(container, instance):
        return _end(container, number)
    if container is None:
        return _make(observed, instance)
    attached = number in observed.attached and not _readdressed(observed, instance, container)
    match container.state:
        case ContainerState.CREATED:
            return Act(StepKind.START if attached else StepKind.DELETE, number)
        case ContainerState.RUNNING:
            # its network is gone or has addresses that are not ours any more; only a new container can get another
            return _tend(observed, instance) if attached else Rerun(number, instance.crashes)
        case ContainerState.STOPPED:
            return _after_end(observed, instance, container)
        case ContainerState.BROKEN:
            return Act(StepKind.DELETE, number)


def _must_rest(observed: Observed, instance: LocalInstance) -> bool:
    """Tell whether it must not run while the cluster is away: by now another may run in its place."""
    stop_after_s = instance.spec.disconnect.stop_after_s
    return stop_after_s is not None and observed.cut_off_s >= stop_after_s


def _make(observed: Observed, instance: LocalInstance) -> Step | None:
    number = instance.number
    if instance.spec.disconnect.stop_after_s is not None and not observed.heard:
        return None  # an earlier agent may have stopped it because the cluster was away, and it still is
    if (number, instance.restart) in observed.ran or instance.given_up:
        return Rerun(number, instance.crashes)
    if instance.healthy:
        return Mark(number, healthy=False)
    if instance.spec.image not in observed.pulled:
        return Act(StepKind.PULL, number)
    address = namespace_address(observed.desired, number)
    if address is None:
        return None
    if number not in observed.attached:
        return Act(StepKind.ATTACH, number)
    return Act(StepKind.CREATE if observed.attached_as.get(number) == address else StepKind.DETACH, number)


def _tend(observed: Observed, instance: LocalInstance) -> Step | None:
    """Look after an instance whose process runs."""
    if instance.given_up:
        return Act(StepKind.STOP, instance.number)
    check, course = instance.spec.health_check, observed.health.get(instance.number)
    if check is None or course is None:
        return None
    ends_at_s = gives_up_at_s(course, check)
    if ends_at_s is not None and observed.now_s >= ends_at_s:
        crashes = 1 if course.proven else instance.crashes + 1
        return GiveUp(instance.number, crashes, f"was ended because {course.reason}")
    if course.healthy is not instance.healthy:
        return Mark(instance.number, healthy=course.healthy)
    return None


def _readdressed(observed: Observed, instance: LocalInstance, container: ContainerSeen) -> bool:
    """Tell whether the container has another address than it should: the worker got other subnets since."""
    address = namespace_address(observed.desired, instance.number)
    return address is not None and container.labels.get(NAMESPACE_LABEL, address.v4) != address.v4


def _clear_away(observed: Observed, number: int, *, known: bool) -> Step | None:
    container = observed.containers.get(number)
    if container is not None:
        return _end(container, number)
    if number in observed.attached:
        return Act(StepKind.DETACH, number)
    return Release(number) if known else None


def _end(container: ContainerSeen, number: int) -> Step:
    running = container.state is ContainerState.RUNNING
    return Act(StepKind.STOP if running else StepKind.DELETE, number)


def _is_old(container: ContainerSeen, instance: LocalInstance) -> bool:
    return container.labels.get(RUN_LABEL) != run_name(instance)


def run_name(instance: LocalInstance) -> str:
    """Return what names one run of one instance."""
    return "/".join(map(str, (*(instance.made_as or instance.key), instance.restart)))


def _after_end(observed: Observed, instance: LocalInstance, container: ContainerSeen) -> Step | None:
    outcome = _outcome(instance, container)
    if outcome is not None:
        return Settle(instance.number, outcome)
    crashes = _crashes(instance, container)
    if observed.now_s < _again_at_s(observed, instance, crashes):
        return None
    return Rerun(instance.number, crashes, instance.given_up or _ended(container))


def _outcome(instance: LocalInstance, container: ContainerSeen) -> Outcome | None:
    """Return how it ended for good, or None if it is to run again."""
    code = container.exit_code
    if instance.given_up:
        final = instance.spec.restart is RestartPolicy.NEVER
        return Outcome(phase=Phase.FAILED, exit_code=code, reason=instance.given_up) if final else None
    if code == 0 and (instance.spec.one_shot or instance.spec.restart is not RestartPolicy.ALWAYS):
        return Outcome(phase=Phase.COMPLETED, exit_code=0, reason="completed")
    if code is not None and instance.spec.restart is RestartPolicy.NEVER:
        return Outcome(phase=Phase.FAILED, exit_code=code, reason=_ended(container))
    return None


def _crashes(instance: LocalInstance, container: ContainerSeen) -> int:
    if instance.given_up:
        return instance.crashes  # it was counted then
    if container.exit_code is None:
        return instance.crashes  # the machine went down, not the instance
    started, finished = container.started_wall_s, container.finished_wall_s
    ran_well = started is not None and finished is not None and finished - started >= FORGIVEN_AFTER_S
    return 1 if ran_well else instance.crashes + 1


def _again_at_s(observed: Observed, instance: LocalInstance, crashes: int) -> float:
    since_s = observed.stopped_since_s.get(instance.number, observed.now_s)
    return since_s + delay_s(crashes, salt=f"{instance.key}")


def _must_wait(observed: Observed, step: Step) -> bool:
    kind = step.kind if isinstance(step, Act) else StepKind.SAVE
    failure = observed.failures.get((step.number, kind))
    return failure is not None and observed.now_s < failure.until_s


def next_wake_s(observed: Observed) -> float | None:
    """Return in how many seconds a back-off ends, or None if nothing waits for one."""
    due = [failure.until_s for failure in observed.failures.values()]
    for instance in observed.desired.instances:
        container = observed.containers.get(instance.number)
        if container is not None and container.state is ContainerState.STOPPED:
            due.append(_again_at_s(observed, instance, _crashes(instance, container)))
        check, course = instance.spec.health_check, observed.health.get(instance.number)
        ends_at_s = gives_up_at_s(course, check) if course is not None and check is not None else None
        if ends_at_s is not None:
            due.append(ends_at_s)
    due += [
        observed.now_s + instance.spec.disconnect.stop_after_s - observed.cut_off_s
        for instance in observed.desired.instances
        if instance.spec.disconnect.stop_after_s is not None
    ]
    later = [at_s - observed.now_s for at_s in due if at_s > observed.now_s]
    return min(later) if later else None


def statuses(observed: Observed) -> tuple[InstanceStatus, ...]:
    """Return what to report about every instance that is not gone, without a sequence."""
    return tuple(_status(observed, instance) for instance in observed.desired.instances)


def _status(observed: Observed, instance: LocalInstance) -> InstanceStatus:
    desired = observed.desired
    phase, reason = _phase(observed, instance)
    container = observed.containers.get(instance.number)
    exit_code = instance.outcome.exit_code if instance.outcome else container.exit_code if container else None
    refused = _refused(observed, instance)
    well = phase is Phase.RUNNING and not unwell(observed, instance)
    return InstanceStatus(
        key=instance.key,
        incarnation=desired.incarnation,
        restart=instance.restart,
        phase=phase,
        ready=well and not instance.withdrawn and not refused and instance.number not in observed.unserved,
        reason=refused or reason,
        exit_code=exit_code,
        failures=_failures(observed, instance),
        worker=desired.worker,
        revision=instance.spec.revision,
        namespace=namespace_address(desired, instance.number) or InstanceAddress(),
        made_as=instance.made_as.attempt if instance.made_as is not None else 0,
    )


def _phase(observed: Observed, instance: LocalInstance) -> tuple[Phase, str]:
    if instance.outcome is not None:
        return instance.outcome.phase, instance.outcome.reason
    number = instance.number
    trouble = _trouble(observed, number)
    begins = trouble or (f"its last run {instance.last_run}" if instance.last_run else "")
    container = observed.containers.get(number)
    if container is not None and not _is_old(container, instance):
        match container.state:
            case ContainerState.RUNNING:
                return Phase.RUNNING, trouble or unwell(observed, instance)
            case ContainerState.STOPPED:
                return Phase.STOPPED, trouble or _waiting(observed, instance, container)
            case ContainerState.CREATED:
                return Phase.CREATED, begins
            case ContainerState.BROKEN:
                return Phase.ATTACHED, begins
    if number in observed.attached:
        return Phase.ATTACHED, begins
    if observed.busy.get(number) is StepKind.PULL or trouble:
        return Phase.PULLING, trouble or f"fetching {instance.spec.image}"
    if namespace_address(observed.desired, number) is None:
        return Phase.WORKER_ASSIGNED, "waiting for the cluster to give this worker more addresses"
    return Phase.WORKER_ASSIGNED, begins


def _trouble(observed: Observed, number: int) -> str:
    """Say which step of an instance does not work; of several, the one that failed last."""
    latest = max(_failed_steps(observed, number), key=lambda failure: failure.until_s, default=None)
    return f"could not {latest.kind.value}: {latest.reason}" if latest else ""


def _failed_steps(observed: Observed, number: int) -> list[Failure]:
    return [failure for (other, _), failure in observed.failures.items() if other == number]


def _failures(observed: Observed, instance: LocalInstance) -> Failures | None:
    """Return how often an instance failed in a row, so that its cluster can tell whether it gets up here."""
    steps = max((failure.count for failure in _failed_steps(observed, instance.number)), default=0)
    crashes, how = instance.crashes, instance.last_run
    container = observed.containers.get(instance.number)
    if (
        container is not None
        and container.state is ContainerState.STOPPED
        and not _is_old(container, instance)
    ):
        crashes, how = _crashes(instance, container), instance.given_up or _ended(container)
    if instance.outcome is not None or not (steps or crashes):
        return None
    return Failures(steps=steps, crashes=crashes, how=_trouble(observed, instance.number) or how)


def _waiting(observed: Observed, instance: LocalInstance, container: ContainerSeen) -> str:
    crashes = _crashes(instance, container)
    wait_s = delay_s(crashes, salt=f"{instance.key}")
    why = instance.given_up or _ended(container)
    if observed.now_s >= _again_at_s(observed, instance, crashes):
        return why
    when = "at once" if round(wait_s) == 0 else f"{wait_s:.0f} s after that"
    return f"{why}; will be started again {when}"


def _ended(container: ContainerSeen) -> str:
    if container.out_of_memory:
        return "was killed because it used more memory than it asked for"
    if container.exit_code is None:
        return "ended when the machine went down"
    if container.exit_code > 128:  # noqa: PLR2004 - shells and container runtimes add 128 to a signal's number
        return f"was ended by signal {container.exit_code - 128}"
    return f"ended with exit code {container.exit_code}"


def _refused(observed: Observed, instance: LocalInstance) -> str:
    if observed.network_trouble:
        return observed.network_trouble
    for port in instance.spec.ports:
        why = observed.refused_ports.get((port.protocol.value, port.host_port))
        if why:
            return why
    return ""


def running(observed: Observed) -> Iterator[LocalInstance]:
    """Yield the instances whose process runs and that may be reached."""
    for instance in observed.desired.instances:
        container = observed.containers.get(instance.number)
        if container is None or container.state is not ContainerState.RUNNING:
            continue
        if not instance.withdrawn and not _is_old(container, instance):
            yield instance


def unwell(observed: Observed, instance: LocalInstance) -> str:
    """Say why an instance that runs is not to be routed to, as far as its health goes; empty if it is."""
    if instance.given_up or instance.spec.health_check is None:
        return instance.given_up
    course = observed.health.get(instance.number)
    if course.healthy if course is not None else instance.healthy:
        return ""
    return (course.reason if course is not None else "") or "its health check has not passed yet"


def patients(observed: Observed) -> dict[int, Patient]:
    """Return the instances whose health is to be watched, by number."""
    return {
        instance.number: Patient(
            number=instance.number,
            restart=instance.restart,
            address=address,
            check=instance.spec.health_check,
            healthy=instance.healthy,
        )
        for instance in running(observed)
        if instance.spec.health_check is not None
        and not instance.given_up
        and (address := namespace_address(observed.desired, instance.number)) is not None
    }


def counted(instance: LocalInstance, step: Rerun) -> LocalInstance:
    """Return the instance with one more restart."""
    return replace(
        instance,
        restart=instance.restart + 1,
        made_as=None,
        crashes=step.crashes,
        healthy=False,
        given_up="",
        last_run=step.ended,
    )


def given_up(instance: LocalInstance, step: GiveUp) -> LocalInstance:
    """Return the instance with this run given up."""
    return replace(instance, crashes=step.crashes, healthy=False, given_up=step.reason)
