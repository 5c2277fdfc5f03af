"""`oak login` and `oak logout`: remember who somebody is at a root, and forget it."""

from __future__ import annotations

import argparse
import getpass
import sys
from urllib.parse import urlsplit

from oakestra.cli import DONE, config
from oakestra.cli.client import session
from oakestra.model.errors import Invalid, NotFound, Unauthenticated, Unavailable

_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the command that was typed."""
    logging_in = parser.get_default("command") == "login"
    parser.add_argument(
        "address",
        metavar="ADDRESS",
        nargs="?",
        help="of root; absent: the one asked so far, or this machine's",
    )
    parser.add_argument(
        "--installation", metavar="NAME", help="the root of this installation on this machine"
    )
    if logging_in:
        parser.add_argument("--user", metavar="NAME", default=session.ADMIN, help="who; Admin unless told")
        parser.add_argument(
            "--password",
            metavar="PASSWORD",
            help="asked for if absent; read from stdin if that is no terminal",
        )
    parser.set_defaults(root=None, run=run_login if logging_in else run_logout)


def run_login(args: argparse.Namespace) -> int:
    """Log in and make this root the one that commands ask."""
    environment = config.environment()
    args.root = args.address
    url = session.address(args, environment)
    _warn_if_readable(url)
    password = args.password if args.password is not None else _password(args.user, url)
    login = session.log_in(url, args.user, password)
    config.remember(environment.file, url, login, current=True)
    print(f"logged in to {url} as {args.user}")
    return DONE


def run_logout(args: argparse.Namespace) -> int:
    """Revoke the tokens of who is logged in, everywhere, and forget them here."""
    environment = config.environment()
    args.root = args.address
    url = session.address(args, environment)
    if url not in config.recall(environment.file).logins:
        raise NotFound(f"nobody is logged in to {url}, so there is nothing to forget")
    try:
        session.connect(args).post("/api/v1/logout")
    except Unauthenticated:
        pass  # the tokens count no more anyway
    except Unavailable as error:
        raise Unavailable(f"the login is forgotten here, but its tokens were not revoked: {error}") from error
    finally:
        config.forget(environment.file, url)
    print(f"logged out of {url}")
    return DONE


def _password(user: str, url: str) -> str:
    if sys.stdin.isatty():
        return getpass.getpass(f"password of {user} at {url}: ")
    password = sys.stdin.readline().rstrip("\r\n")
    if not password:
        raise Invalid("stdin holds no password; pipe it in, give --password, or run this in a terminal")
    return password


def _warn_if_readable(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "http" and parts.hostname not in _LOOPBACK:
        print(
            f"oak: warning: {url} is not encrypted, so everybody on the way can read the password",
            file=sys.stderr,
        )
