"""Give out semantic addresses, never one twice. Pure: what is in use is asked of the caller.

Allocation only moves forward through the pool; what is in use is looked up afresh when the pool was walked
through once. So it costs next to nothing, an address that was released rests long, and nobody has to report
releases.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from ipaddress import IPv4Address, IPv6Address
from math import ceil

from oakestra.model.address import SUBNETS_MAX
from oakestra.model.errors import Conflict, Unavailable
from oakestra.model.service import InstanceAddress, ServiceAddresses
from oakestra.wire.sla import WantedAddresses

_FIRST_V4 = int(IPv4Address("10.30.0.0"))
_INSTANCE_V6 = int(IPv6Address("fdff::"))
_CLOSEST_V6 = int(IPv6Address("fdff:1000::"))
_ROUND_ROBIN_V6 = int(IPv6Address("fdff:2000::"))
_OCTETS = 254
"""Octets three and four run from 0 to 253, as in the original."""
POOL_SIZE = _OCTETS * _OCTETS - 1
"""10.30.0.0 itself is left out."""


class AddressPool:
    """Addresses of services and instances: 10.30.0.0/16, each with an IPv6 twin of the same last 16 bits.

    `in_use` lists every address that belongs to somebody or rests. An address counts as taken from the moment
    it was given out; if what it was for is never recorded, it comes back when the pool has been walked through, or by `look_again`.
    """

    def __init__(self, in_use: Callable[[], Iterable[InstanceAddress]]) -> None:
        self._in_use = in_use
        self._last = 0
        self._taken: set[str] = set()
        self._look()

    def begin_at(self, number: int) -> None:
        """Look for free addresses there first: what records that are gone gave to somebody is then hardly found."""
        self._last = number % POOL_SIZE

    def look_again(self) -> None:
        """Count as taken what is in use, and nothing else: what was given out since was for what is not recorded."""
        self._taken = _flat(self._in_use())

    def keep(self, given: InstanceAddress) -> bool:
        """Count as taken what records that are gone had given to somebody; False if somebody else has it by now."""
        texts = _flat([given])
        if texts & self._taken:
            return False
        self._taken |= texts
        return True

    def instance(self) -> InstanceAddress:
        """Return a free address for a slot. Raises `Unavailable` when there is none left."""
        return self._free(_INSTANCE_V6)

    def service(
        self, wanted: WantedAddresses, *, claimable: frozenset[str] = frozenset()
    ) -> ServiceAddresses:
        """Return free addresses for a service, among them those its owner chose.

        `claimable` are addresses at rest that this owner may have back. Raises `Conflict` if a chosen one is in
        use, `Unavailable` when there are none left.
        """
        round_robin = self._chosen(wanted, claimable)
        closest = self._free(_CLOSEST_V6)
        return ServiceAddresses(
            round_robin_v4=round_robin.v4,
            round_robin_v6=round_robin.v6,
            closest_v4=closest.v4,
            closest_v6=closest.v6,
        )

    def _chosen(self, wanted: WantedAddresses, claimable: frozenset[str]) -> InstanceAddress:
        if not wanted.round_robin_v4 and not wanted.round_robin_v6:
            return self._free(_ROUND_ROBIN_V6)
        used = _flat(self._in_use()) - claimable
        for chosen in (wanted.round_robin_v4, wanted.round_robin_v6):
            if chosen in used:
                raise Conflict(
                    f"{chosen} belongs to another service, or was given back less than ten minutes ago; "
                    "choose another address, or leave it out and one is chosen for you"
                )
        if not wanted.round_robin_v4:
            found = self._free(_ROUND_ROBIN_V6)
            address = InstanceAddress(v4=found.v4, v6=wanted.round_robin_v6)
        else:
            twin = str(IPv6Address(_ROUND_ROBIN_V6 + int(IPv4Address(wanted.round_robin_v4)) % (1 << 16)))
            if not wanted.round_robin_v6 and twin in used:
                raise Conflict(
                    f"{twin}, the IPv6 twin of {wanted.round_robin_v4}, belongs to another service; "
                    "choose rr_ip_v6 as well"
                )
            address = InstanceAddress(v4=wanted.round_robin_v4, v6=wanted.round_robin_v6 or twin)
        self._taken |= {address.v4, address.v6}
        return address

    def _free(self, first_v6: int) -> InstanceAddress:
        looked = False
        while True:
            if self._last >= POOL_SIZE:
                if looked:
                    raise Unavailable(
                        f"all {POOL_SIZE} addresses of 10.30.0.0/16 are in use; delete services that are not needed"
                    )
                self._look()
                looked = True
            self._last += 1
            low = (self._last // _OCTETS << 8) + self._last % _OCTETS
            v4, v6 = str(IPv4Address(_FIRST_V4 + low)), str(IPv6Address(first_v6 + low))
            if v4 not in self._taken and v6 not in self._taken:
                self._taken |= {v4, v6}
                return InstanceAddress(v4=v4, v6=v6)

    def _look(self) -> None:
        self.look_again()
        self._last = 0


def _flat(addresses: Iterable[InstanceAddress]) -> set[str]:
    return {text for address in addresses for text in (address.v4, address.v6) if text}


# --- workers' subnets, leased to clusters ----------------------------------------------------------------------------

SUBNETS_LEASED = 64
"""Worker subnets that a cluster gets at a time."""
LEASE_FULL_RATIO = 0.75
"""A lease that is used so far grows: workers that join must not wait for it."""

Lease = tuple[int, int]
"""First subnet index, and how many."""


def first_lease(taken: Iterable[Lease], had: Lease | None) -> Lease | None:
    """Return the subnets of a new member: those it says that it had, if they are free, else some with room to grow
    behind them: where the widest gap between other leases has its middle. None if nothing is left."""
    leases = sorted(taken)
    if had is not None and _is_free(had, leases):
        return had
    ends = [0, *(first + count for first, count in leases)]
    begins = [*(first for first, _ in leases), SUBNETS_MAX]
    begin, room = max(
        ((begin, end - begin) for begin, end in zip(ends, begins, strict=True)), key=lambda gap: gap[1]
    )
    if room < SUBNETS_LEASED:
        return None
    middle = begin + room // 2 if begin and room >= 2 * SUBNETS_LEASED else begin
    return middle - middle % SUBNETS_LEASED, SUBNETS_LEASED


def around(used: Iterable[int], lease: Lease, taken: Iterable[Lease]) -> Lease:
    """Return the lease, or another one if a cluster that lost its own has workers with subnets of none of its own.

    That is one around those subnets, if nobody else has any of it: then nothing else is given out twice.
    """
    first, count = lease
    indexes = sorted(used)
    if not indexes or any(first <= index < first + count for index in indexes):
        return lease
    begin = indexes[0] - indexes[0] % SUBNETS_LEASED
    blocks = ceil((indexes[-1] + 1 - begin) / SUBNETS_LEASED)
    there = (begin, blocks * SUBNETS_LEASED)
    return there if _is_free(there, sorted(taken)) else lease


def grown(lease: Lease, taken: Iterable[Lease], *, used: int) -> Lease:
    """Return the lease with so much more behind it that it is not nearly full, as far as nobody else's is in the way."""
    first, count = lease
    limit = min((other for other, _ in taken if other > first), default=SUBNETS_MAX) - first
    blocks = ceil(used / LEASE_FULL_RATIO / SUBNETS_LEASED)
    return first, max(count, min(blocks * SUBNETS_LEASED, limit))


def _is_free(lease: Lease, taken: Sequence[Lease]) -> bool:
    first, count = lease
    whole = count > 0 and first >= 0 and first % SUBNETS_LEASED == count % SUBNETS_LEASED == 0
    apart = all(first + count <= other or other + many <= first for other, many in taken)
    return whole and apart and first + count <= SUBNETS_MAX
