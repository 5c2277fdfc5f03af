"""Which application, service or instance somebody means."""

from __future__ import annotations

from typing import Any

import pytest

from oakestra.cli.client import names
from oakestra.model.errors import Conflict, NotFound


def service(id: str, name: str, *numbers: int) -> dict[str, Any]:
    return {"id": id, "name": name, "instances": [{"number": number} for number in numbers]}


WEB = service("a" * 24, "shop.prod.web.front", 0, 2)
DB = service("b" * 24, "shop.prod.db.front")
OTHER = service("c" * 24, "store.prod.web.front", 0)
TEST = service("d" * 24, "store.test.web.front")
ALL = [WEB, DB, OTHER, TEST]


@pytest.mark.parametrize("text", ["b" * 24, "db", "shop.db", "shop.prod.db", "shop.prod.db.front"])
def test_a_service_has_many_names(text: str) -> None:
    assert names.service(ALL, text) is DB


def test_names_are_as_short_as_they_may_be() -> None:
    assert names.short_names(ALL) == {
        "a" * 24: "shop.web",
        "b" * 24: "shop.db",
        "c" * 24: "store.prod.web.front",
        "d" * 24: "store.test.web.front",
    }


def test_a_name_that_means_two_is_told_with_both() -> None:
    with pytest.raises(Conflict, match="means more than one service") as caught:
        names.service(ALL, "store.web")
    assert "store.prod.web.front (cccccccccccccccccccccccc)" in str(caught.value)
    assert "store.test.web.front (dddddddddddddddddddddddd)" in str(caught.value)
    assert names.service(ALL, "store.test.web") is TEST


def test_a_name_that_means_none_is_told_with_the_closest() -> None:
    with pytest.raises(NotFound, match=r"no service 'shop.bd'; did you mean shop.db\? `oak service ls`"):
        names.service(ALL, "shop.bd")
    with pytest.raises(NotFound, match="no cluster 'x'; `oak cluster ls` lists them"):
        names.cluster([], "x")


def test_an_instance_is_a_service_with_a_number() -> None:
    assert names.copy(ALL, "shop.web.2") == (WEB, 2)
    assert names.copy(ALL, f"{'a' * 24}.0") == (WEB, 0)
    assert names.copy(ALL, "shop.web") == (WEB, None)
    with pytest.raises(NotFound, match=r"shop\.web has no instance 1"):
        names.copy(ALL, "shop.web.1")
    with pytest.raises(NotFound, match=r"no service 'shop\.webb'"):
        names.copy(ALL, "shop.webb.1")
    with pytest.raises(NotFound, match="no service '²'"):
        names.copy(ALL, "²")


def test_a_service_whose_name_is_a_number_is_a_service() -> None:
    digits = service("e" * 24, "shop.prod.2.front", 0)
    assert names.copy([WEB, digits], "shop.2") == (digits, None)


def test_applications() -> None:
    prod = {"id": "1" * 24, "name": "shop", "namespace": "prod"}
    test = {"id": "2" * 24, "name": "shop", "namespace": "test"}
    assert names.application([prod, test], "shop.test") is test
    assert names.application([prod], "shop") is prod
    with pytest.raises(Conflict, match=r"shop.prod \(1{24}\), shop.test"):
        names.application([prod, test], "shop")


def test_events_are_told_of_all_that_had_a_name_and_of_instances_that_are_gone() -> None:
    before = service("f" * 24, "shop.prod.web.front")
    assert names.told_of([*ALL, before], "shop.web") == (frozenset({"a" * 24, "f" * 24}), None)
    assert names.told_of(ALL, "shop.web.1") == (frozenset({"a" * 24}), 1)
    assert names.told_of([before], "web.3") == (frozenset({"f" * 24}), 3)
    with pytest.raises(NotFound, match=r"no service 'shop\.webb.1'; did you mean shop\.web"):
        names.told_of(ALL, "shop.webb.1")
