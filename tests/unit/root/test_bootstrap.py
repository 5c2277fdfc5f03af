"""From the first start somebody can log in, and nobody is told the password but who may read the file."""

from __future__ import annotations

import asyncio
import stat
from pathlib import Path
from random import Random

from oakestra.identity.passwords import Passwords
from oakestra.root.state import RootState
from oakestra.root.users.access import ROLES
from oakestra.root.users.bootstrap import bootstrap
from oakestra.store.fake import Disk, FakeStore
from root_api import TABLES, HandClock

PASSWORDS = Passwords(memory_kib=8, passes=1)


def start(disk: Disk, file: Path, password: str | None = None, seed: int = 1) -> tuple[RootState, str]:
    state = RootState(FakeStore(TABLES, disk=disk))
    secret = asyncio.run(
        bootstrap(
            state, passwords=PASSWORDS, clock=HandClock(), random=Random(seed), admin_password=password,
            password_file=file,
        )
    )  # fmt: skip
    return state, secret


def new_disk() -> Disk:
    return Disk({name: {} for name in TABLES}, epoch=1)


def fits(state: RootState, password: str) -> bool:
    (admin,) = (user for user in state.users.values() if user.name == "Admin")
    return asyncio.run(PASSWORDS.fits(password, admin.password_hash))


def test_a_random_password_is_kept_where_only_its_owner_can_read_it(tmp_path: Path) -> None:
    disk, file = new_disk(), tmp_path / "new" / "admin.password"
    state, _ = start(disk, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert fits(state, file.read_text().strip())
    (organization,) = state.organizations.values()
    assert organization.name == "root"
    assert organization.members[0].roles == ROLES


def test_a_second_start_changes_nothing(tmp_path: Path) -> None:
    disk, file = new_disk(), tmp_path / "admin.password"
    _, secret = start(disk, file)
    before, written = {name: dict(rows) for name, rows in disk.tables.items()}, file.read_text()
    _, again = start(disk, file, seed=2)
    assert (disk.tables, file.read_text(), again) == (before, written, secret)


def test_an_administrator_whose_records_were_lost_keeps_the_password_in_the_file(tmp_path: Path) -> None:
    file = tmp_path / "admin.password"
    start(new_disk(), file)
    written = file.read_text()
    state, _ = start(new_disk(), file, seed=2)
    assert file.read_text() == written
    assert fits(state, written.strip())


def test_a_configured_password_wins_whenever_it_is_given(tmp_path: Path) -> None:
    disk, file = new_disk(), tmp_path / "admin.password"
    start(disk, file)
    state, _ = start(disk, file, password="mine, and long")
    assert fits(state, "mine, and long")
    assert not file.exists()
    state, _ = start(disk, file)
    assert fits(state, "mine, and long")
    assert not file.exists()


def test_a_lost_organization_or_administrator_comes_back(tmp_path: Path) -> None:
    disk, file = new_disk(), tmp_path / "admin.password"
    start(disk, file)
    disk.tables["organizations"].clear()
    state, _ = start(disk, file)
    assert [found.name for found in state.organizations.values()] == ["root"]
    disk.tables["users"].clear()
    state, _ = start(disk, file)
    (organization,) = state.organizations.values()
    assert [member.user for member in organization.members if "Admin" in member.roles][-1] in state.users
    assert fits(state, file.read_text().strip())
