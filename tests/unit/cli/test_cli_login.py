"""Logging in, staying logged in, and this machine's own root, which asks its own root user for nothing."""

from __future__ import annotations

import io
import os
import socket
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from oak_command import Oak
from oakestra.cli import config
from oakestra.cli.client import session
from oakestra.cli.config import Environment
from oakestra.identity.tokens import ACCESS_S, REFRESH_S
from served_root import ServedRoot

NOBODY = "oak: nobody is logged in to "


def let_pass(root: ServedRoot, seconds: float) -> None:
    """Move root's clock: what it issued is older now."""

    def move(api: object) -> None:
        root.api.clock.now_s += seconds

    root.do(move)


def be(monkeypatch: pytest.MonkeyPatch, *, superuser: bool) -> None:
    """Run as root of the machine, or not, whoever runs the tests."""
    real = config.environment

    def environment() -> Environment:
        return replace(real(), superuser=superuser)

    monkeypatch.setattr(config, "environment", environment)


def test_who_logs_in_need_not_again(oak: Oak, root: ServedRoot) -> None:
    assert oak.good("login", root.url, "--password", "secret") == f"logged in to {root.url} as Admin\n"
    assert oak.good("app", "ls", "-o", "json") == "[]\n"
    assert config.recall(oak.file).current == root.url
    assert oak.file.stat().st_mode & 0o777 == 0o600


def test_the_password_may_come_through_stdin(
    oak: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("secret\n"))
    oak.good("login", root.url, "--user", "Admin")
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert "stdin holds no password; pipe it in, give --password" in oak.bad("login", root.url)


def test_a_wrong_password(oak: Oak, root: ServedRoot) -> None:
    assert oak.bad("login", root.url, "--password", "x") == "oak: wrong user name or password\n"
    assert not oak.file.exists()


def test_a_login_over_an_open_network_is_warned_of(oak: Oak) -> None:
    said = oak.bad("login", "root.invalid", "--password", "x")
    assert "oak: warning: http://root.invalid:10000 is not encrypted" in said
    assert "the name root.invalid is unknown here; is http://root.invalid:10000 right?" in said


def test_an_old_token_is_renewed_without_a_word(admin: Oak, root: ServedRoot) -> None:
    before = config.recall(admin.file).logins[root.url]
    let_pass(root, ACCESS_S + 1)
    assert admin("app", "ls", "-o", "json").err == ""
    after = config.recall(admin.file).logins[root.url]
    assert after.token != before.token
    assert after.refresh_token == before.refresh_token
    let_pass(root, ACCESS_S + 1)
    admin.good("app", "create", write_sla(admin.home))


def write_sla(directory: Path) -> str:
    path = directory / "sla.json"
    path.write_text('{"sla_version": "v2.0", "customerID": "Admin", "applications": []}')
    return str(path)


def test_a_login_that_is_too_old_says_how_to_log_in(admin: Oak, root: ServedRoot) -> None:
    let_pass(root, REFRESH_S + 1)
    assert admin.bad("app", "ls") == f"{NOBODY}{root.url}; log in: oak login {root.url}\n"


def test_logging_out_revokes_the_tokens(
    admin: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = config.recall(admin.file).logins[root.url].token
    assert admin.good("logout") == f"logged out of {root.url}\n"
    assert config.recall(admin.file) == config.Memory()
    assert admin.bad("logout", root.url).startswith(
        f"oak: nobody is logged in to {root.url}, so there is nothing"
    )
    monkeypatch.setenv("OAKESTRA_ROOT", root.url)
    monkeypatch.setenv("OAKESTRA_TOKEN", token)
    assert "does not accept OAKESTRA_TOKEN; unset it, or give a newer one" in admin.bad("app", "ls")


def test_logging_out_of_a_root_that_forgot_us_is_fine(admin: Oak, root: ServedRoot) -> None:
    let_pass(root, REFRESH_S + 1)
    assert admin.good("logout") == f"logged out of {root.url}\n"


def test_a_token_in_the_environment_is_enough(
    oak: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokens = root.wait_for(root.api.accounts.login("Admin", "secret", None))
    monkeypatch.setenv("OAKESTRA_TOKEN", tokens.token)
    assert oak.good("app", "ls", "-o", "json", "--root", root.url) == "[]\n"
    assert not oak.file.exists()


def test_flags_win_over_the_environment_and_that_over_the_login(
    admin: Oak, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OAKESTRA_ROOT", "127.0.0.1:1")
    assert "http://127.0.0.1:1:" in admin.bad("app", "ls")
    assert "http://127.0.0.1:2:" in admin.bad("app", "ls", "--root", "127.0.0.1:2")


def test_a_damaged_file_stops_nothing_but_what_needs_it(oak: Oak, root: ServedRoot) -> None:
    oak.file.parent.mkdir(parents=True)
    oak.file.write_text("{")
    assert "is damaged; delete it and log in again" in oak.bad("app", "ls")


# --- this machine's own root -------------------------------------------------------------------------------------


@pytest.fixture
def here(oak: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch) -> Oak:
    """`oak` of root on the machine that the root runs on."""
    be(monkeypatch, superuser=True)
    home = oak.installation()
    (home.state / "root").mkdir(parents=True)
    (home.state / "root" / "admin.password").write_text("secret\n")
    home.configuration("root").parent.mkdir(parents=True)
    home.configuration("root").write_text(f'listen = "0.0.0.0"\napi_port = {urlsplit(root.url).port}\n')
    return oak


def test_root_of_the_machine_needs_no_login(here: Oak, root: ServedRoot) -> None:
    assert here.good("app", "ls", "-o", "json") == "[]\n"
    remembered = config.recall(here.file)
    assert (remembered.current, list(remembered.logins)) == ("", [root.url])
    (here.installation().state / "root" / "admin.password").unlink()
    assert here.good("app", "ls", "-o", "json") == "[]\n", "the token is kept"


def test_a_root_that_was_purged_and_made_again_is_no_trouble(here: Oak, root: ServedRoot) -> None:
    here.good("app", "ls")
    let_pass(root, REFRESH_S + 1)
    assert here.good("app", "ls", "-o", "json") == "[]\n"


def test_others_on_the_machine_are_told_both_ways(
    here: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, superuser=False)
    said = f"{NOBODY}{root.url}; log in: oak login {root.url}; sudo needs no login on this machine\n"
    assert here.bad("app", "ls") == said


def test_without_an_installation_there_is_nothing_to_fall_back_to(
    oak: Oak, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(monkeypatch, superuser=True)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        monkeypatch.setattr(session, "API_PORT", port := listener.getsockname()[1])
        local = f"http://127.0.0.1:{port}"
        assert oak.bad("app", "ls") == f"{NOBODY}{local}; log in: oak login {local}\n"
    assert f"no root answers at {local}: nothing listens there; start it (sudo oak up)" in oak.bad(
        "app", "ls"
    )


def test_the_password_goes_to_this_machines_root_only(here: Oak) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        other = f"127.0.0.1:{listener.getsockname()[1]}"
        assert f"nobody is logged in to http://{other};" in here.bad("app", "ls", "--root", other)


def test_an_installation_named_wins_over_a_login(here: Oak, root: ServedRoot) -> None:
    config.remember(here.file, "http://x", config.Login(user="a", token="b", refresh_token="c"), current=True)
    assert here.good("app", "ls", "-o", "json", "--installation", "default") == "[]\n"
    assert "http://127.0.0.1:10000" in here.bad("app", "ls", "--installation", "other")


def test_a_stranger_on_roots_port_is_told_nothing(here: Oak, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "listeners", lambda port, directory: {4711})
    assert "is held by a process of user 4711, which is not this machine's root" in here.bad("app", "ls")
    assert not here.file.exists()


def test_who_listens_is_read_from_the_kernel(root: ServedRoot, tmp_path: Path) -> None:
    port = urlsplit(root.url).port or 0
    assert session.listeners(port, Path("/proc/net")) == {os.geteuid()}
    head = (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n"
    )
    line = " 0: {address}:2710 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid} 0 1\n"
    (tmp_path / "tcp").write_text(
        head
        + line.format(address="0100007F", state="0A", uid=1000)
        + line.format(address="0100007F", state="01", uid=1001)
    )
    (tmp_path / "tcp6").write_text(head + line.format(address="0" * 32, state="0A", uid=33))
    assert session.listeners(10000, tmp_path) == {1000, 33}
    assert session.listeners(10001, tmp_path) == set()
    assert session.listeners(10000, tmp_path / "no-such-kernel") == set()
