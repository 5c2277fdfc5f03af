"""What is lost between hosts, and undone again."""

from __future__ import annotations

from oakestra.lab.faults import Faults, Loss, cut, described, heal, rules

NONE = Faults()


def test_cutting_a_host_off_pulls_its_cable_and_healing_puts_it_back() -> None:
    broken = cut(NONE, "w1", one_way=False, loss_ratio=1.0)
    assert broken == Faults(unplugged=("w1",))
    assert cut(broken, "w1", one_way=False, loss_ratio=1.0) == broken
    assert described(broken, "w1") == "cut off"
    assert described(broken, "w2") == ""
    assert heal(broken, "w2") == broken
    assert heal(broken, "w1") == NONE


def test_two_hosts_are_cut_from_one_another_both_ways_or_one() -> None:
    both = cut(NONE, "w1", "c1", one_way=False, loss_ratio=1.0)
    assert set(both.losses) == {Loss(source="w1", target="c1"), Loss(source="c1", target="w1")}
    one = cut(NONE, "w1", "c1", one_way=True, loss_ratio=1.0)
    assert one.losses == (Loss(source="w1", target="c1"),)
    assert heal(both, "c1", "w1") == heal(both, "w1", "c1") == heal(both, "c1") == NONE
    assert heal(both, "c1", "w2") == both


def test_a_new_loss_replaces_the_one_between_the_same_hosts() -> None:
    some = cut(NONE, "w1", "w2", one_way=False, loss_ratio=0.3)
    more = cut(some, "w1", "w2", one_way=True, loss_ratio=0.5)
    assert set(more.losses) == {
        Loss(source="w2", target="w1", ratio=0.3),
        Loss(source="w1", target="w2", ratio=0.5),
    }


def test_a_host_may_lose_some_of_everything_or_only_what_it_sends() -> None:
    some = cut(NONE, "w1", one_way=False, loss_ratio=0.2)
    assert set(some.losses) == {Loss(source="w1", ratio=0.2), Loss(target="w1", ratio=0.2)}
    assert described(some, "w1") == "20% lost from w1 to everybody, 20% lost from everybody to w1"
    assert cut(NONE, "w1", one_way=True, loss_ratio=1.0).losses == (Loss(source="w1"),)
    assert heal(some, "w1") == NONE


def test_healing_one_host_leaves_the_others_broken() -> None:
    broken = cut(cut(NONE, "w1", one_way=False, loss_ratio=1.0), "w2", "w3", one_way=True, loss_ratio=1.0)
    assert heal(broken, "w1") == Faults(losses=(Loss(source="w2", target="w3"),))
    assert heal(broken, "w3") == Faults(unplugged=("w1",))


def test_rules_drop_exactly_what_is_lost() -> None:
    broken = Faults(
        unplugged=("w9",),
        losses=(
            Loss(source="w1", target="c1"),
            Loss(source="w2", ratio=0.25),
            Loss(target="w2", ratio=0.0001),
        ),
    )
    dropping = [line.strip() for line in rules(broken).splitlines() if line.endswith("drop")]
    assert dropping == [
        'iifname "w1" oifname "c1" drop',
        'iifname "w2" numgen random mod 10000 < 2500 drop',
        'oifname "w2" numgen random mod 10000 < 1 drop',
    ]
    assert "drop" not in rules(NONE)
