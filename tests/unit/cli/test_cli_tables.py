"""Tables and words for people, as golden text."""

from __future__ import annotations

import pytest

from oakestra.cli.show import cells
from oakestra.cli.show.columns import WORKER_COLUMNS
from oakestra.cli.show.table import Column, facts, indented, render
from oakestra.wire import statuses

COLUMNS: tuple[Column[tuple[str, str, str]], ...] = (
    Column("NAME", lambda row: row[0]),
    Column("STATUS", lambda row: row[1], paint=lambda text: f"<{text}>"),
    Column("ID", lambda row: "i", wide=True),
    Column("REASON", lambda row: row[2]),
)
ROWS = [("web", "RUNNING", ""), ("database", "STOPPED", "it ended with exit code 1, which nobody wanted")]


def test_columns_are_as_wide_as_what_is_in_them_and_nothing_trails() -> None:
    assert render(COLUMNS, ROWS) == (
        "NAME      STATUS   REASON\n"
        "web       RUNNING  -\n"
        "database  STOPPED  it ended with exit code 1, which nobody wanted"
    )


def test_wide_shows_everything_whatever_the_width() -> None:
    assert render(COLUMNS, ROWS[1:], wide=True, width=20) == (
        "NAME      STATUS   ID  REASON\ndatabase  STOPPED  i   it ended with exit code 1, which nobody wanted"
    )


def test_the_last_column_is_cut_to_the_terminal_but_never_to_nothing() -> None:
    assert render(COLUMNS, ROWS[1:], width=40).split("\n")[1] == "database  STOPPED  it ended with exit c…"
    assert render(COLUMNS, ROWS[1:], width=5).split("\n")[1] == "database  STOPPED  it ended wi…"


def test_colours_do_not_move_columns() -> None:
    assert render(COLUMNS, ROWS[:1], coloured=True) == "NAME  STATUS   REASON\nweb   <RUNNING>  -"


def test_what_others_wrote_cannot_speak_to_the_terminal() -> None:
    nasty = ("web\x1b[2J", "a\nb", "")
    assert render(COLUMNS, [nasty]).split("\n")[1] == "web [2J  a b     -"
    assert facts([("reason", "a\x07b")]) == "reason  a b"


def test_no_rows_are_no_table() -> None:
    assert render(COLUMNS, []) == ""


def test_facts_leave_out_what_is_not_there() -> None:
    assert facts([("id", "1"), ("image", ""), ("address", "x")]) == "id       1\naddress  x"
    assert indented("a\n\nb") == "  a\n\n  b"


@pytest.mark.parametrize(
    ("seconds", "text"), [(-5, "0s"), (0, "0s"), (119, "119s"), (120, "2m"), (7200, "2h"), (172800, "2d")]
)
def test_ages_are_one_unit(seconds: float, text: str) -> None:
    assert cells.duration(seconds) == text
    assert cells.age(1000.0, 1000.0 + seconds) == text


def test_amounts() -> None:
    assert cells.age(0.0, 5.0) == ""
    assert [cells.mebibytes(100), cells.mebibytes(1536), cells.mebibytes(0)] == ["100 MiB", "1.5 GiB", "0 B"]
    assert [cells.size(1023), cells.size(4 << 20), cells.size(5 << 50)] == ["1023 B", "4 MiB", "5120 TiB"]
    assert cells.percent(0.255) == "26%"


def test_every_word_of_root_for_no_place_is_known() -> None:
    assert {
        statuses.TARGET_CLUSTER_NOT_FOUND,
        statuses.TARGET_CLUSTER_NOT_ACTIVE,
        statuses.TARGET_CLUSTER_NO_CAPACITY,
        statuses.NO_ACTIVE_CLUSTER_WITH_CAPACITY,
        statuses.NO_WORKER_CAPACITY,
    } == cells.NO_PLACE


def test_colours_mean_well_wrong_and_on_its_way() -> None:
    assert [cells.painted(word)[:5] for word in ("RUNNING", "FAILED", "PULLING")] == [
        "\x1b[32m",
        "\x1b[31m",
        "\x1b[33m",
    ]
    assert cells.painted_readiness("0/0") == "0/0"
    assert cells.painted_readiness("1/2").startswith("\x1b[33m")
    assert cells.painted_readiness("2/2").startswith("\x1b[32m")


def test_of_a_worker_of_a_lost_cluster_only_what_is_known_is_shown() -> None:
    worker = {
        "name": "w1", "cluster": "east", "live": False, "liveness": "unknown", "silent_s": 70.0, "instances": 2,
        "total": {"vcpus": 4, "memory_mib": 1024, "vgpus": 1}, "free": None, "usage": None, "architecture": "amd64",
        "virtualizations": ["docker"], "id": "d", "host": "h", "trouble": "", "availability": "active",
    }  # fmt: skip
    row = " ".join(render(WORKER_COLUMNS, [worker], wide=True).split("\n")[1].split())
    assert row == "w1 east unknown - - - 4 1 GiB - -/1 - - - amd64 docker 70s ago d h -"
