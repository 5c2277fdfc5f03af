"""The original's status words, and only those."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oakestra.model.ids import ApplicationId, OrganizationId, ServiceId
from oakestra.model.instance import Phase
from oakestra.model.service import Constraint, ConstraintKind, ServiceSpec
from oakestra.wire.statuses import SlotSeen, instance_status, service_status

KNOWN = {
    "REQUESTED", "CLUSTER_SCHEDULED", "NODE_SCHEDULED", "TargetClusterNotFound", "TargetClusterNotActive",
    "TargetClusterNoCapacity", "NoActiveClusterWithCapacity", "NO_WORKER_CAPACITY", "NO_QUALIFIED_WORKER_FOUND",
    "NO_NODE_FOUND", "CREATING", "CREATED", "RUNNING", "FAILED", "DEAD", "COMPLETED", "UNDEPLOYED",
}  # fmt: skip


def spec(*constraints: Constraint) -> ServiceSpec:
    return ServiceSpec(
        id=ServiceId("s"), application_id=ApplicationId("a"), tenant=OrganizationId("o"), name="a.b.c.d",
        constraints=constraints,
    )  # fmt: skip


PINNED = Constraint(kind=ConstraintKind.DIRECT, cluster="east")
ALLOWED = Constraint(kind=ConstraintKind.CLUSTERS, allowed=("east", "west"))


@pytest.mark.parametrize(
    ("slot", "constraints", "known", "live", "word"),
    [
        (SlotSeen(), (), [], [], "REQUESTED"),
        (SlotSeen(wanted=False, placed=True, phase=Phase.RUNNING), (), [], [], "UNDEPLOYED"),
        (SlotSeen(placed=True), (), [], [], "CLUSTER_SCHEDULED"),
        (SlotSeen(placed=True, phase=Phase.WORKER_ASSIGNED), (), [], [], "NODE_SCHEDULED"),
        (SlotSeen(placed=True, phase=Phase.PULLING), (), [], [], "CREATING"),
        (SlotSeen(placed=True, phase=Phase.RUNNING, refused=True), (), [], [], "RUNNING"),
        (SlotSeen(placed=True, refused=True), (), [], [], "NO_WORKER_CAPACITY"),
        (SlotSeen(placed=True, phase=Phase.STOPPED), (), [], [], "DEAD"),
        (SlotSeen(tried=True), (), [], [], "TargetClusterNotActive"),
        (SlotSeen(tried=True), (), ["east"], [], "TargetClusterNotActive"),
        (SlotSeen(tried=True), (), ["east"], ["east"], "NoActiveClusterWithCapacity"),
        (SlotSeen(tried=True), (PINNED,), ["west"], ["west"], "TargetClusterNotFound"),
        (SlotSeen(tried=True), (PINNED,), ["east", "west"], ["west"], "TargetClusterNotActive"),
        (SlotSeen(tried=True), (PINNED,), ["east"], ["east"], "TargetClusterNoCapacity"),
        (SlotSeen(tried=True), (ALLOWED,), ["west"], ["west"], "TargetClusterNoCapacity"),
    ],
)
def test_words_for_instances(
    slot: SlotSeen, constraints: tuple[Constraint, ...], known: list[str], live: list[str], word: str
) -> None:
    assert instance_status(slot, spec(*constraints), known_clusters=known, live_clusters=live) == word


def test_words_for_services() -> None:
    assert service_status([], ever_deployed=False) is None
    assert service_status([], ever_deployed=True) == "UNDEPLOYED"
    assert service_status(["RUNNING", "RUNNING"], ever_deployed=True) == "RUNNING"
    assert service_status(["RUNNING", "NODE_SCHEDULED"], ever_deployed=True) == "NODE_SCHEDULED"
    assert service_status(["COMPLETED", "FAILED", "REQUESTED"], ever_deployed=True) == "FAILED"


@given(
    st.builds(
        SlotSeen, wanted=st.booleans(), placed=st.booleans(), tried=st.booleans(), refused=st.booleans(),
        phase=st.sampled_from(Phase),
    ),
    st.lists(st.sampled_from([PINNED, ALLOWED])),
    st.lists(st.sampled_from(["east", "west"])),
)  # fmt: skip
def test_no_other_word_ever(slot: SlotSeen, constraints: list[Constraint], clusters: list[str]) -> None:
    word = instance_status(slot, spec(*constraints), known_clusters=clusters, live_clusters=clusters[:1])
    assert word in KNOWN
    assert service_status([word], ever_deployed=True) == word
