"""Ask root for more or fewer instances; wait for them if asked to, and tell how it went."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence

from oakestra.cli import DONE
from oakestra.cli.client import Document, Root
from oakestra.cli.client.names import short_names
from oakestra.cli.client.waiting import Progress, Step, Target
from oakestra.cli.show import output, progress
from oakestra.cli.show.output import Shown

_ALL = -1
"""Root's word for every instance of a service."""


def deploy(root: Root, service: Document, *, among: Sequence[Document]) -> list[Target]:
    """Ask for one more instance; return it. Names are as short as they can be `among` these services."""
    root.post(f"/api/service/{service['id']}/instance")
    return [_target(service, service["next_slot"], short_names(among)[service["id"]])]


def undeploy(
    root: Root, service: Document, number: int | None = None, *, among: Sequence[Document]
) -> list[Target]:
    """Remove one instance, or all; return those that leave."""
    root.delete(f"/api/service/{service['id']}/instance/{_ALL if number is None else number}")
    name = short_names(among)[service["id"]]
    leaving = [there for there in _numbers(service) if number in (None, there)]
    return [_target(service, there, name, gone=True) for there in leaving]


def scale(root: Root, service: Document, instances: int, *, among: Sequence[Document]) -> list[Target]:
    """Have so many instances; return those there are to be, and those that leave."""
    answer = root.post(f"/api/v1/services/{service['id']}/scale", {"instances": instances})
    name = short_names(among)[service["id"]]
    kept = set(answer["instances"])
    leaving = [number for number in _numbers(service) if number not in kept]
    return [
        *(_target(service, number, name) for number in sorted(kept)),
        *(_target(service, number, name, gone=True) for number in leaving),
    ]


def emptied(root: Root, services: Sequence[Document], *, among: Sequence[Document], timeout_s: float) -> int:
    """Remove every instance of services and wait until nothing is left of them; return the exit code."""
    targets = [target for service in services for target in undeploy(root, service, among=among)]
    return progress.code(progress.settle(root, targets, timeout_s=timeout_s)) if targets else DONE


def conclude(
    args: argparse.Namespace,
    root: Root,
    targets: Sequence[Target],
    *,
    nothing: str = "",
    there: Callable[[Target], bool] = lambda _: False,
) -> int:
    """Say what was asked for, or with `--wait`, wait for it and say how it went; return the exit code.

    Of what was `there` before, nothing is said unless it is waited for.
    """
    if not args.wait or not targets:
        asked = Shown(
            document=[_asked(target) for target in targets],
            text=lambda _: "\n".join(
                f"{one.name} {'is leaving' if one.gone else 'requested'}"
                for one in targets
                if one.gone or not there(one)
            ),
            nothing=nothing,
        )
        return output.present(args, lambda: asked)
    outcome = progress.settle(root, targets, timeout_s=args.timeout)
    done = [step.target for step in outcome.steps if step.progress is Progress.DONE]
    came = Shown(
        document=[_came(step) for step in outcome.steps],
        text=lambda _: "\n".join(f"{one.name} is {'gone' if one.gone else 'ready'}" for one in done),
    )
    output.present(args, lambda: came)
    return progress.code(outcome)


def _asked(target: Target) -> Document:
    wanted = "gone" if target.gone else "ready"
    return {"name": target.name, "service_id": target.service, "number": target.number, "wanted": wanted}


def _came(step: Step) -> Document:
    done = step.progress is Progress.DONE
    return {**_asked(step.target), "done": done, "status": step.word, "reason": step.why}


def _numbers(service: Document) -> list[int]:
    return [instance["number"] for instance in service["instances"]]


def _target(service: Document, number: int, name: str, *, gone: bool = False) -> Target:
    return Target(
        application=service["application_id"],
        service=service["id"],
        number=number,
        name=f"{name}.{number}",
        gone=gone,
    )
