"""What a worker says of the machine it is on."""

from __future__ import annotations

from pathlib import Path

from oakestra.runtime.machine import LinuxMachine


def test_a_machine_with_room_on_its_disk_is_in_no_trouble(tmp_path: Path) -> None:
    assert not LinuxMachine(state_dir=tmp_path, virtualizations=()).trouble()


def test_a_machine_whose_directory_is_gone_says_so(tmp_path: Path) -> None:
    said = LinuxMachine(state_dir=tmp_path / "gone", virtualizations=()).trouble()
    assert said == f"{tmp_path}/gone cannot be looked at: no such file or directory"
