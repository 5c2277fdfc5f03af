"""Know the processes of an installation, and what they were told, by their command lines."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePath

from oakestra.control import processes
from oakestra.control.installation import DEFAULT

IsOurs = Callable[[Sequence[str]], bool]
"""Tells by its command line whether a process is ours."""


def is_tier(tier: str, installation: str) -> IsOurs:
    """Return what tells the process of a tier of this installation. Pure."""

    def ours(arguments: Sequence[str]) -> bool:
        oak = {"oak", "oakestra"} & {PurePath(word).name for word in arguments[:3]}
        named = [word.partition("=")[2] for word in arguments if word.startswith("--installation=")]
        return bool(oak) and {tier, "start"} <= {*arguments} and [DEFAULT, *named][-1] == installation

    return ours


def is_broker(configuration: os.PathLike[str]) -> IsOurs:
    """Return what tells the broker that has this configuration. Pure."""
    return lambda arguments: tuple(arguments[1:]) == ("-c", os.fspath(configuration))


def started_with(arguments: Sequence[str]) -> Mapping[str, str | bool]:
    """Return the settings in the command line of a tier, as `tiers.command_words` writes them. Pure."""
    found: dict[str, str | bool] = {}
    for word in arguments:
        if word.startswith("--"):
            name, given, value = word.removeprefix("--").partition("=")
            found[name.replace("-", "_")] = value if given else True
    return found


def settings_of(tier: str, installation: str) -> Mapping[str, str | bool] | None:
    """Return the settings in the command line of the tier that runs now; None if it does not."""
    ours = is_tier(tier, installation)
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and ours(arguments := processes.arguments(int(process.name))):
            return started_with(arguments)
    return None
