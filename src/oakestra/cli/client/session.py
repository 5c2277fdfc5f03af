"""Which root a command asks, and as whom: flags, then the environment, then who is logged in, then this machine's own."""

from __future__ import annotations

import argparse
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from oakestra.cli import config
from oakestra.cli.client import API_PORT, Root, root_url
from oakestra.cli.config import Environment, Login
from oakestra.control.installation import DEFAULT, Installation
from oakestra.model.errors import Forbidden, Invalid, NotFound, Unauthenticated

ADMIN = "Admin"
_LISTENING = "0A"
_ANY_ADDRESS = ("", "0.0.0.0", "::")  # noqa: S104 - compared with, not listened on


def connect(args: argparse.Namespace, *, timeout_s: float | None = None) -> Root:
    """Return the root that a command is meant for. Raises `Unauthenticated` if nobody is logged in there."""
    environment = config.environment()
    url = address(args, environment)
    installation = _installation(args, environment)
    if environment.superuser and url == _local_url(installation):
        _must_be_this_machines(installation, url)
    login = _Session(url, environment, installation)
    login.token()
    return Root(url, login) if timeout_s is None else Root(url, login, timeout_s=timeout_s)


def address(args: argparse.Namespace, environment: Environment) -> str:
    """Return the address of the root that a command is meant for."""
    chosen = args.root or environment.root
    if chosen:
        return root_url(chosen)
    here = args.installation or environment.installation
    remembered = "" if here else config.recall(environment.file).current
    return remembered or _local_url(_installation(args, environment))


def log_in(url: str, user: str, password: str) -> Login:
    """Return a fresh login. Raises `Unauthenticated` for a wrong name or password."""
    answer = Root(url, None).post("/api/auth/login", {"username": user, "password": password})
    return Login(user=user, token=answer["token"], refresh_token=answer["refresh_token"])


class _Session:
    """The token for one root, renewed when it is too old."""

    def __init__(self, url: str, environment: Environment, installation: Installation) -> None:
        self._url = url
        self._environment = environment
        self._installation = installation
        self._login = config.recall(environment.file).logins.get(url)

    def token(self) -> str:
        """Return a token to ask with; the first time on this machine, log in with what the installation left."""
        if self._environment.token:
            return self._environment.token
        if self._login is None:
            self._keep(self._local_login())
        assert self._login is not None
        return self._login.token

    def renew(self) -> None:
        """Get a new token from root, or from the installation's password."""
        if self._environment.token:
            raise Unauthenticated("root does not accept OAKESTRA_TOKEN; unset it, or give a newer one")
        assert self._login is not None
        try:
            token = Root(self._url, _Bearer(self._login.refresh_token)).post("/api/auth/refresh")["token"]
            login = Login(user=self._login.user, token=token, refresh_token=self._login.refresh_token)
        except (Unauthenticated, NotFound):
            login = self._local_login()
        self._keep(login)

    def _keep(self, login: Login) -> None:
        self._login = login
        with suppress(Invalid):  # only the next command pays: it gets a token of its own
            config.remember(self._environment.file, self._url, login, current=False)

    def _local_login(self) -> Login:
        """Log in as Admin with the password that root of this machine left for who may read it."""
        Root(self._url, None).reach()  # where nobody listens, nobody can log in
        password_file = _state(self._installation) / "admin.password"
        if not self._environment.superuser or self._url != _local_url(self._installation):
            raise self._nobody()
        try:
            password = password_file.read_text().strip()
        except OSError as error:
            raise self._nobody() from error
        return log_in(self._url, ADMIN, password)

    def _nobody(self) -> Unauthenticated:
        local = self._url == _local_url(self._installation) and self._installation.state.is_dir()
        sudo = "; sudo needs no login on this machine" if local and not self._environment.superuser else ""
        return Unauthenticated(f"nobody is logged in to {self._url}; log in: oak login {self._url}{sudo}")


class _Bearer:
    """One token, which cannot be renewed."""

    def __init__(self, token: str) -> None:
        self._token = token

    def token(self) -> str:
        return self._token

    def renew(self) -> None:
        raise Unauthenticated("the login is too old")


def _installation(args: argparse.Namespace, environment: Environment) -> Installation:
    return Installation(args.installation or environment.installation or DEFAULT)


def _local_url(installation: Installation) -> str:
    """Return where the installation's own root listens."""
    host, port = "127.0.0.1", API_PORT
    file = installation.configuration("root")
    if file.exists():
        written = _written(file)
        port = written.get("api_port", port)
        listen = written.get("listen", host)
        host = host if listen in _ANY_ADDRESS else listen
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _written(file: Path) -> dict[str, Any]:
    import tomllib  # few machines have the file

    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise Invalid(f"{file} cannot be read, so where root listens is unknown: {error}") from error


def _state(installation: Installation) -> Path:
    return installation.state / "root"


def _must_be_this_machines(installation: Installation, url: str) -> None:
    """Raise `Forbidden` if a stranger holds root's port: anybody may take it while root is down, and ask for tokens."""
    try:
        owner = _state(installation).stat().st_uid
    except OSError:
        return  # no root was ever started here: whatever listens was put there by whoever logged in to it
    port = urlsplit(url).port or API_PORT
    strangers = listeners(port, Path("/proc/net")) - {0, owner}
    if strangers:
        raise Forbidden(
            f"port {port} is held by a process of user {min(strangers)}, which is not this machine's root, "
            "so nothing was sent to it; see who it is: ss -ltnp"
        )


def listeners(port: int, directory: Path) -> set[int]:
    """Return the user ids of the processes that listen on a TCP port of this machine."""
    found = set()
    for table in ("tcp", "tcp6"):
        with suppress(FileNotFoundError):
            for line in (directory / table).read_text().splitlines()[1:]:
                words = line.split()
                if words[3] == _LISTENING and int(words[1].rpartition(":")[2], 16) == port:
                    found.add(int(words[7]))
    return found
