"""What a cluster keeps for a root that lost its records, and what it tells that root."""

from __future__ import annotations

from dataclasses import replace

from oakestra.cluster.execute import accept, apply
from oakestra.cluster.observe import Observed, observe
from oakestra.cluster.plan import plan
from oakestra.cluster.render.claims import claims
from oakestra.cluster.render.former import with_former
from oakestra.cluster.state import ClusterState
from oakestra.model.address import Peer, worker_subnet
from oakestra.model.ids import ApplicationId, ClusterId, OrganizationId, ServiceId, UserId
from oakestra.model.instance import Placement
from oakestra.model.service import Application, InstanceAddress, ServiceSpec
from oakestra.scheduling.liveness import Patience
from oakestra.store.fake import FakeStore
from oakestra.wire.native import (
    AssignedSlot,
    Claim,
    ClusterAssignment,
    Origin,
    RemoteInstance,
    Version,
)
from town import TABLES

WEB, CACHE = ServiceId("5" * 24), ServiceId("6" * 24)
NEAR, FAR = ClusterId("a" * 24), ClusterId("b" * 24)
APPLICATION = Application(
    id=ApplicationId("4" * 24),
    name="shop",
    namespace="prod",
    description="",
    owner=UserId("9" * 24),
    tenant=OrganizationId("7" * 24),
)
PATIENCE = Patience(suspect_after_s=3.0, lost_after_s=4.5)


def spec(id: ServiceId, *, revision: int = 0) -> ServiceSpec:
    return ServiceSpec(
        id=id, application_id=APPLICATION.id, tenant=APPLICATION.tenant, name="s", revision=revision
    )


def origin(id: ServiceId, *, epoch: int, revision: int | None = None) -> Origin:
    known = spec(id, revision=revision) if revision is not None else None
    return Origin(service=id, application=APPLICATION, organization="acme", spec=known, epoch=epoch)


def told(epoch: int, generation: int, *origins: Origin, web: int | None = 0) -> ClusterAssignment:
    """Root's word: one instance of the web service, of this revision, and where services come from."""
    return ClusterAssignment(
        version=Version(epoch=epoch, generation=generation),
        services=(spec(WEB, revision=web),) if web is not None else (),
        slots=(AssignedSlot(placed=Placement(WEB, 0, 1), address=InstanceAddress(v4="10.30.0.9")),)
        if web is not None
        else (),
        origins=origins,
    )


class Here:
    """A cluster without workers."""

    def __init__(self) -> None:
        self.state = ClusterState(FakeStore(TABLES))

    def hears(self, assignment: ClusterAssignment) -> list[Claim]:
        """Accept what root says, make a pass, and return what is claimed then."""
        accept(self.state, assignment)
        apply(self.state, plan(self.observed(), vcpu_overcommit=1.0))
        return list(claims(self.observed()))

    def observed(self) -> Observed:
        return observe(self.state, now_s=0.0, since_s=0.0, patience=lambda _: PATIENCE, adopt_until_s=0.0)


def test_services_without_instances_are_kept_and_claimed() -> None:
    here = Here()
    known = (origin(WEB, epoch=1), origin(CACHE, epoch=1, revision=0))
    assert here.hears(told(1, 1, *known)) == []
    found = here.hears(told(2, 1, web=None))
    assert [(claim.service.id, len(claim.slots)) for claim in found] == [(WEB, 1), (CACHE, 0)]
    assert found[1].service == spec(CACHE)
    again = (origin(WEB, epoch=2), origin(CACHE, epoch=2, revision=0))
    assert here.hears(told(2, 2, *again)) == []


def test_what_root_deleted_is_forgotten_and_what_its_other_records_said_is_not() -> None:
    here = Here()
    here.hears(told(1, 1, origin(WEB, epoch=1), origin(CACHE, epoch=1, revision=0)))
    found = here.hears(told(2, 1, origin(WEB, epoch=2)))
    assert [claim.service.id for claim in found] == [CACHE]
    here.hears(told(2, 2, origin(WEB, epoch=2), origin(CACHE, epoch=2, revision=0)))
    assert here.hears(told(2, 3, origin(WEB, epoch=2))) == []
    assert here.hears(told(3, 1, web=None))[0].service.id == WEB


def test_a_later_revision_is_claimed_from_a_root_that_has_an_older_one() -> None:
    here = Here()
    here.hears(told(1, 1, origin(WEB, epoch=1), web=4))
    (claim,) = here.hears(told(2, 1, origin(WEB, epoch=2), web=3))
    assert (claim.service.revision, claim.origin.epoch, claim.slots) == (4, 1, ())
    assert here.hears(told(2, 2, origin(WEB, epoch=2), web=4)) == []


def test_an_application_goes_with_its_last_instance_here() -> None:
    here = Here()
    here.hears(told(1, 1, origin(WEB, epoch=1), origin(CACHE, epoch=1, revision=0)))
    gone = replace(told(1, 2, web=None), withdrawn=(Placement(WEB, 0, 1),))
    assert here.hears(gone) == []
    assert not here.state.origins
    assert not here.state.services


def test_what_goes_with_its_last_instance_is_claimed_before_it_is_forgotten() -> None:
    """Root lost its records between taking the instance away and seeing it gone: the service was not deleted."""
    here = Here()
    here.hears(told(1, 1, origin(WEB, epoch=1)))
    accept(here.state, replace(told(1, 2, web=None), withdrawn=(Placement(WEB, 0, 1),)))
    (claim,) = here.hears(told(2, 1, web=None))
    assert (claim.service.id, claim.slots) == (WEB, ())
    assert here.hears(replace(told(2, 2, web=None), heard_out=True)) == []
    assert not here.state.origins


def test_whether_it_takes_instances_is_claimed_until_root_says_so() -> None:
    here = Here()
    here.hears(replace(told(1, 1), availability="draining"))
    assert here.observed().former_availability == ""
    here.hears(told(2, 1))
    assert here.observed().former_availability == "draining"
    here.hears(replace(told(2, 2), availability="active"))
    assert here.observed().former_availability == ""


# --- of other clusters ------------------------------------------------------------------------------------------


def remote(number: int, cluster: ClusterId, *, placement: int = 1, ready: bool = True) -> RemoteInstance:
    return RemoteInstance(
        placed=Placement(CACHE, number, placement),
        instance=InstanceAddress(v4=f"10.30.0.{number}"),
        namespace=InstanceAddress(v4=f"10.18.{placement}.{number}"),
        ready=ready,
        cluster=cluster,
    )


FORMER = replace(
    told(1, 5),
    remotes=(remote(0, NEAR), remote(1, FAR)),
    remote_services=(spec(CACHE),),
    peers=(Peer(subnet_index=7, subnets=(worker_subnet(7),), host="198.18.0.7", port=50103),),
)


def test_what_root_has_not_heard_of_yet_stays_reachable() -> None:
    known = with_former(FORMER, replace(told(2, 1), heard=()))
    assert (known.remotes, known.remote_services, known.peers) == (
        FORMER.remotes,
        FORMER.remote_services,
        FORMER.peers,
    )
    assert with_former(known, replace(told(2, 2), heard=())).remotes == FORMER.remotes


def test_what_root_has_heard_goes_before_what_was_known() -> None:
    assert with_former(FORMER, replace(told(2, 1), heard=(NEAR,))).remotes == (remote(1, FAR),)
    again = replace(told(2, 1), heard=(), remotes=(remote(1, FAR, ready=False),))
    assert with_former(FORMER, again).remotes == (remote(1, FAR, ready=False), remote(0, NEAR))
    moved = replace(told(2, 1), heard=(), remotes=(remote(1, NEAR, placement=2),))
    assert remote(1, FAR) not in with_former(FORMER, moved).remotes
    moving = replace(told(2, 1), heard=(), remotes=(remote(1, NEAR, placement=2, ready=False),))
    assert remote(1, FAR) in with_former(FORMER, moving).remotes


def test_once_root_has_heard_of_all_only_its_word_counts() -> None:
    assert with_former(FORMER, told(2, 3)) == told(2, 3)
