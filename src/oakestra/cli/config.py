"""What the command line is told by its environment, and what it remembers between commands: who is logged in where."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from oakestra.model.errors import Invalid

FILE = "oakestra/cli.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """What the variables say, and who we are. Flags override it."""

    file: Path
    """Where logins are remembered: `~/.config/oakestra/cli.json`."""
    root: str = ""
    """OAKESTRA_ROOT: address of the root to ask."""
    token: str = ""
    """OAKESTRA_TOKEN: an access token to ask with, instead of a remembered login."""
    installation: str = ""
    """OAKESTRA_INSTALLATION: which of several installations on this machine."""
    terminal: str = "xterm"
    """TERM: what kind of terminal commands are typed at."""
    superuser: bool = False
    """May read what only root of this machine may read."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Somebody who is logged in to a root."""

    user: str
    token: str = field(repr=False)
    """Good for ten minutes."""
    refresh_token: str = field(repr=False)
    """Good for new tokens, for thirty days."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Logins by root's address."""

    current: str = ""
    """The root that is asked unless told otherwise; empty: nobody ever logged in."""
    logins: Mapping[str, Login] = field(default_factory=dict)


def environment() -> Environment:
    """Return what the environment says."""
    variables = os.environ  # noqa: TID251 - the one place
    configuration = variables.get("XDG_CONFIG_HOME", "")
    directory = Path(configuration) if configuration.startswith("/") else Path("~/.config").expanduser()
    return Environment(
        file=directory / FILE,
        root=variables.get("OAKESTRA_ROOT", ""),
        token=variables.get("OAKESTRA_TOKEN", ""),
        installation=variables.get("OAKESTRA_INSTALLATION", ""),
        terminal=variables.get("TERM") or "xterm",
        superuser=os.geteuid() == 0,
    )


def colours_wanted() -> bool:
    """Tell whether the terminal may be spoken to in colours; `NO_COLOR` and dumb terminals say no."""
    variables = os.environ  # noqa: TID251 - the one place
    return not variables.get("NO_COLOR") and variables.get("TERM", "dumb") != "dumb"


def recall(file: Path) -> Memory:
    """Return what is remembered; nothing if there is no file. Raises `Invalid` if it cannot be understood."""
    try:
        remembered = json.loads(file.read_bytes())
        logins = {url: Login(**login) for url, login in remembered["logins"].items()}
        return Memory(current=str(remembered["current"]), logins=logins)
    except FileNotFoundError:
        return Memory()
    except OSError as error:
        raise Invalid(f"{file}, which holds your logins, cannot be read: {error.strerror}") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise Invalid(
            f"{file}, which holds your logins, is damaged; delete it and log in again: oak login"
        ) from error


def remember(file: Path, url: str, login: Login, *, current: bool) -> None:
    """Keep a login; `current` makes its root the one that is asked. Only its owner can read the file."""
    memory = recall(file)
    logins = {**memory.logins, url: login}
    _write(file, Memory(current=url if current else memory.current, logins=logins))


def forget(file: Path, url: str) -> None:
    """Forget a login. If its root was the one that is asked, none is."""
    memory = recall(file)
    if url in memory.logins or memory.current == url:
        logins = {known: login for known, login in memory.logins.items() if known != url}
        current = "" if memory.current == url else memory.current
        _write(file, replace(memory, current=current, logins=logins))


def _write(file: Path, memory: Memory) -> None:
    content: dict[str, Any] = {
        "current": memory.current,
        "logins": {url: asdict(login) for url, login in memory.logins.items()},
    }
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        draft.unlink(missing_ok=True)
        with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
            json.dump(content, out, indent=2)
        draft.replace(file)
    except OSError as error:
        with suppress(OSError):
            draft.unlink()
        raise Invalid(
            f"the login cannot be kept in {file}: {error.strerror}; "
            "without it, give a token to every command: OAKESTRA_TOKEN"
        ) from error
