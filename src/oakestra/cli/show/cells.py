"""How single values are written for people. Pure."""

from __future__ import annotations

from oakestra.cli.client import Document

UNPLACEABLE = "UNPLACEABLE"
NO_PLACE = frozenset(
    {
        "TargetClusterNotFound",
        "TargetClusterNotActive",
        "TargetClusterNoCapacity",
        "NoActiveClusterWithCapacity",
        "NO_WORKER_CAPACITY",
    }
)
"""Root's words for an instance that has no place now; a test holds them to `wire.statuses`."""
LEAVING = "LEAVING"
NOT_DEPLOYED = "NOT_DEPLOYED"

_PARTLY = frozenset({"rolling", "failed"})
"""States of an update in which instances of before may run."""
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
_KIB = 1024
_GREEN, _YELLOW, _RED = "32", "33", "31"
_GOOD = frozenset({"RUNNING", "COMPLETED", "yes"})
_BAD = frozenset({UNPLACEABLE, "FAILED", "DEAD", "STOPPED", "no"})


def age(since_wall_s: float, now_wall_s: float) -> str:
    """Return how long ago something was, in one unit: `42s`, `3m`, `5h`, `2d`."""
    if since_wall_s <= 0:
        return ""
    return duration(now_wall_s - since_wall_s)


def duration(seconds: float) -> str:
    """Return a span of time in its largest whole unit."""
    whole = max(0, int(seconds))
    for unit, letter in ((_DAY_S, "d"), (_HOUR_S, "h"), (_MINUTE_S, "m")):
        if whole >= 2 * unit:
            return f"{whole // unit}{letter}"
    return f"{whole}s"


def mebibytes(mib: float) -> str:
    """Return an amount of memory or storage."""
    return _scaled(mib * _KIB * _KIB)


def size(count: float) -> str:
    """Return a number of bytes."""
    return _scaled(count)


def _scaled(count: float) -> str:
    units = ("B", "KiB", "MiB", "GiB", "TiB")
    exponent = 0
    while abs(count) >= _KIB and exponent < len(units) - 1:
        count /= _KIB
        exponent += 1
    text = f"{count:.1f}".removesuffix(".0")
    return f"{text} {units[exponent]}"


def percent(ratio: float) -> str:
    """Return a share of 1."""
    return f"{ratio * 100:.0f}%"


def counted(amount: int, what: str) -> str:
    """Return how many there are: `1 instance`, `2 instances`."""
    return f"{amount} {what}{'' if amount == 1 else 's'}"


def times(count: int) -> str:
    """Return how often something was."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


def yes(truth: object) -> str:
    """Return a truth."""
    return "yes" if truth else "no"


def condition(instance: Document) -> str:
    """Return how an instance is, in one word."""
    if not instance["wanted"]:
        return LEAVING
    if instance["status"] in NO_PLACE:
        return UNPLACEABLE
    return str(instance["phase"])


def service_condition(service: Document) -> str:
    """Return how a service is, in one word."""
    status = service["status"]
    if status is None or (status == "UNDEPLOYED" and not wanted(service)):
        return NOT_DEPLOYED
    return UNPLACEABLE if status in NO_PLACE else str(status)


def wanted(service: Document) -> list[Document]:
    """Return a service's instances without those being withdrawn."""
    return [instance for instance in service["instances"] if instance["wanted"]]


def readiness(service: Document) -> str:
    """Return how many of the wanted instances are ready: `2/3`."""
    instances = wanted(service)
    return f"{sum(bool(instance['ready']) for instance in instances)}/{len(instances)}"


def updated(service: Document) -> list[Document]:
    """Return the wanted instances that are ready and as the service asks: of its revision, or of one exactly like it."""
    good = (service["spec"]["revision"], *service["spec"]["same_as"])
    return [one for one in wanted(service) if one["ready"] and one["revision"] in good]


def image(service: Document) -> str:
    """Return what a service is to run; how much of it does, as long as an update has not brought it everywhere."""
    text, there, of = str(service["spec"]["image"]), len(updated(service)), len(wanted(service))
    under_way = service["rollout"] and service["rollout"]["state"] in _PARTLY
    return f"{text} ({there}/{of} updated)" if under_way and there < of else text


def hindrance(service: Document) -> str:
    """Return why the first instance that is not ready is not, or why an update does not come further."""
    waiting = [instance for instance in wanted(service) if not instance["ready"]]
    rollout = service["rollout"]
    held_up = rollout["reason"] if rollout and rollout["state"] == "rolling" else ""
    return why(waiting[0]) or held_up if waiting else held_up


def why(instance: Document) -> str:
    """Return the reason that matters now: why it has no place, or why it is in its phase."""
    if condition(instance) == UNPLACEABLE:
        return str(instance["placement_reason"] or instance["reason"])
    return str(instance["reason"])


def painted(text: str) -> str:
    """Return a word in the colour of what it means: well, wrong, or on its way."""
    colour = _GREEN if text in _GOOD else _RED if text in _BAD else _YELLOW
    return f"\x1b[{colour}m{text}\x1b[0m"


def painted_readiness(text: str) -> str:
    """Return `2/3` in yellow, `3/3` in green; `0/0` is neither."""
    ready, _, of = text.partition("/")
    if of == "0":
        return text
    return f"\x1b[{_GREEN if ready == of else _YELLOW}m{text}\x1b[0m"
