"""What is wrong with a lab's network, and how its switch is told. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

TABLE = "oaklab"
_PARTS = 10_000
"""The kernel draws one of so many numbers for each packet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """Of the packets from one host to another, so many are lost. An empty name means every host."""

    source: str = ""
    target: str = ""
    ratio: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """All that is wrong now."""

    unplugged: tuple[str, ...] = ()
    """Hosts whose cable is out."""
    losses: tuple[Loss, ...] = ()


def cut(faults: Faults, host: str, other: str = "", *, one_way: bool, loss_ratio: float) -> Faults:
    """Return the faults with one more: between two hosts, or between one and everybody.

    `one_way` loses only what `host` sends. A host that loses everything both ways has its cable pulled, which it
    notices.
    """
    if not other and not one_way and loss_ratio >= 1.0:
        return replace(heal(faults, host), unplugged=(*heal(faults, host).unplugged, host))
    ways = [(host, other)] if one_way else [(host, other), (other, host)]
    kept = tuple(loss for loss in faults.losses if (loss.source, loss.target) not in ways)
    new = tuple(Loss(source=source, target=target, ratio=loss_ratio) for source, target in ways)
    return replace(faults, losses=(*kept, *new))


def heal(faults: Faults, host: str, other: str = "") -> Faults:
    """Return the faults without those between two hosts; without all that concern `host` if there is no other."""
    if other:
        kept = tuple(loss for loss in faults.losses if {loss.source, loss.target} != {host, other})
        return replace(faults, losses=kept)
    return Faults(
        unplugged=tuple(name for name in faults.unplugged if name != host),
        losses=tuple(loss for loss in faults.losses if host not in (loss.source, loss.target)),
    )


def described(faults: Faults, host: str) -> str:
    """Return what is wrong with a host's network, in a few words; empty if nothing is."""
    words = ["cut off"] if host in faults.unplugged else []
    words += [
        f"{loss.ratio:.0%} lost from {loss.source or 'everybody'} to {loss.target or 'everybody'}"
        for loss in faults.losses
        if host in (loss.source, loss.target)
    ]
    return ", ".join(words)


def rules(faults: Faults) -> str:
    """Return the switch's whole nftables table; the one before it is replaced in the same transaction."""
    return "\n".join(
        (
            f"table bridge {TABLE}",
            f"delete table bridge {TABLE}",
            f"table bridge {TABLE} {{",
            "  chain forward {",
            "    type filter hook forward priority filter; policy accept;",
            *(f"    {_rule(loss)}" for loss in faults.losses),
            "  }",
            "}",
            "",
        )
    )


def _rule(loss: Loss) -> str:
    words = [f'iifname "{loss.source}"'] if loss.source else []
    words += [f'oifname "{loss.target}"'] if loss.target else []
    words += [f"numgen random mod {_PARTS} < {round(loss.ratio * _PARTS)}"] if loss.ratio < 1.0 else []
    return " ".join([*words, "drop"])
