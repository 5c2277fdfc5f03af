"""How the doctor looks: at programs, ports, peers, records and packages that the tests put there."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from oakestra.cli import doctor, tiers
from oakestra.cli.doctor import gather, gather_worker, ports, running
from oakestra.cli.doctor.finding import Level
from oakestra.cli.keeping.programs import TIERS
from oakestra.store.sqlite import SCHEMAS, SqliteStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A directory with programs: one that is well, one that says nothing, one that cannot be started."""
    for name, text in (
        ("runc", "#!/bin/sh\necho 'runc version 1.1.5+ds1'\necho 'spec: 1.0.2-dev'\n"),
        ("conmon", "#!/bin/sh\nexit 1\n"),
        ("nft", "no program at all"),
    ):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    return tmp_path


def test_programs_tell_their_versions_or_that_something_is_wrong(path: Path) -> None:
    runc, conmon, nft, missing = gather.programs(("runc", "conmon", "nft", "openssl"), str(path))
    assert (runc.path, runc.version) == (f"{path}/runc", (1, 1, 5))
    assert (conmon.path, conmon.version) == (f"{path}/conmon", ())
    assert nft.path
    assert not nft.version
    assert "Exec format error" in nft.said
    assert (missing.path, missing.version) == ("", ())


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server


def test_who_has_a_port_is_named_and_known_by_its_command_line(listener: socket.socket) -> None:
    number = listener.getsockname()[1]
    other = ports.look("api_port", "127.0.0.1", number, ours=lambda _: False)
    assert "(pid " in other.holder
    assert not other.ours
    ours = ports.look("api_port", "127.0.0.1", number, ours=lambda words: "pytest" in " ".join(words))
    assert ours.ours


def test_a_free_port_stays_free(listener: socket.socket) -> None:
    number = listener.getsockname()[1]
    listener.close()
    for _ in range(2):
        found = ports.look("api_port", "127.0.0.1", number, ours=lambda _: False)
        assert (found.holder, found.refused) == ("", "")


def test_an_address_of_another_machine_is_refused() -> None:
    found = ports.look("api_port", "192.0.2.1", 10000, ours=lambda _: False)
    assert "assign" in found.refused


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("/v/python -m oakestra root start --installation=site", True),
        ("/v/python /usr/local/bin/oak root start --installation=site --listen=::", True),
        ("oak root start --installation=site", True),
        ("/v/python -m oakestra root start --installation=other", False),
        ("/v/python -m oakestra root start", False),
        ("/v/python -m oakestra cluster start --installation=site", False),
        ("/v/python -m http.server 10000", False),
        ("vi /home/me/oak/root start --installation=site", False),
        ("", False),
    ],
)
def test_a_tier_is_known_by_its_command_line(words: str, ours: bool) -> None:  # noqa: FBT001
    assert running.is_tier("root", "site")(words.split()) is ours


def test_an_installation_without_a_name_is_the_default_one() -> None:
    assert running.is_tier("worker", "default")(["python", "-m", "oakestra", "worker", "start"])


@pytest.mark.parametrize("tier", TIERS)
def test_what_a_tier_was_told_is_read_off_its_command_line(tier: str) -> None:
    given = {"installation": "lab-a/w1", "log_level": "DEBUG", "allow_privileged": True, "cluster": "[::1]:7"}
    words = tiers.command_words(tier, given)
    assert running.started_with(["/v/python", "-m", "oakestra", *words]) == given


def test_a_broker_is_known_by_its_configuration(tmp_path: Path) -> None:
    configuration = tmp_path / "mosquitto.conf"
    assert running.is_broker(configuration)(["/usr/sbin/mosquitto", "-c", str(configuration)])
    assert not running.is_broker(configuration)(
        ["/usr/sbin/mosquitto", "-c", "/etc/mosquitto/mosquitto.conf"]
    )


class Clock(BaseHTTPRequestHandler):
    """Answers as whatever its server says, an hour ahead."""

    status = 200

    def do_GET(self) -> None:
        self.send_response_only(self.status)
        ahead_s = time.time() + 3600  # noqa: TID251 - of the very clock that it is compared with
        self.send_header("Date", formatdate(ahead_s, usegmt=True))
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[HTTPServer]:
    with HTTPServer(("127.0.0.1", 0), Clock) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_peer_tells_its_time(server: HTTPServer) -> None:
    peer = gather.ask("the cluster", "127.0.0.1", server.server_port)
    assert peer.trouble == ""
    assert peer.ahead_s is not None
    assert 3590 < peer.ahead_s < 3610


def test_who_answers_otherwise_is_no_cluster(server: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Clock, "status", 404)
    assert "another program" in gather.ask("the cluster", "127.0.0.1", server.server_port).trouble


def test_nobody_is_named_as_nobody(listener: socket.socket) -> None:
    number = listener.getsockname()[1]
    assert gather.connect("root", "127.0.0.1", number).trouble == ""
    listener.close()
    assert gather.connect("root", "127.0.0.1", number).trouble == "Connection refused"
    assert gather.ask("root", "127.0.0.1", number).trouble == "Connection refused"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    file = tmp_path / "root.db"
    SqliteStore(file, "root", fresh_epoch=1).close()
    return file


def test_records_are_looked_at_and_not_touched(records: Path) -> None:
    before = {file.name: file.read_bytes() for file in records.parent.iterdir()}
    found = gather.store(records, "root")
    assert (found.exists, found.trouble) == (True, "")
    assert {
        file.name: file.read_bytes() for file in records.parent.iterdir() if file.name in before
    } == before
    assert not gather.store(records.with_name("other.db"), "root").exists


def test_damaged_records_are_found(records: Path) -> None:
    content = bytearray(records.read_bytes())
    content[4096:] = b"\xff" * (len(content) - 4096)
    records.write_bytes(content)
    assert gather.store(records, "root").trouble


def test_records_of_a_newer_version_are_found(records: Path) -> None:
    with closing(sqlite3.connect(records)) as connection:
        connection.execute(f"PRAGMA user_version = {len(SCHEMAS['root']) + 1}")
    assert "newer version" in gather.store(records, "root").trouble


@pytest.mark.parametrize("tier", TIERS)
def test_packages_are_those_that_the_tier_s_code_loads(tier: str) -> None:
    """Every top-level package outside of the standard library that loading the tier loads, or needs to run."""
    program = (
        f"import sys; before = set(sys.modules); import oakestra.{tier}.service;"
        "files = ((name, getattr(module, '__file__', None) or '') for name, module in sys.modules.items()"
        " if name not in before);"
        "print(*{name.partition('.')[0] for name, file in files if 'site-packages' in file})"
    )
    loaded = subprocess.run(
        (sys.executable, "-c", program), check=True, capture_output=True, text=True
    ).stdout
    brought_along = {  # by the packages themselves
        "anyio", "click", "h2", "hpack", "hyperframe", "multidict", "typing_extensions", "cffi", "_cffi_backend",
        "_argon2_cffi_bindings", "idna", "sniffio", "h11", "pycparser",
    }  # fmt: skip
    assert set(loaded.split()) - brought_along == set(gather.PACKAGES[tier])


def test_a_package_that_is_missing_is_named_as_pip_calls_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(gather.PACKAGES["root"], "no_such_module", "no-such-package")
    seen = gather.machine("root", tmp_path / "not" / "there", installed=False)
    assert seen.missing_packages == ("no-such-package",)
    assert seen.disk.path == str(tmp_path), "what will be made there counts where it will be made"


V1 = "32 31 0:29 / /sys/fs/cgroup/{0} rw - cgroup cgroup rw,{0}\n"
V2 = "33 31 0:30 / {} rw - cgroup2 cgroup2 rw\n"


def test_control_groups_are_told_apart(tmp_path: Path) -> None:
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids\n")
    v1 = "".join(V1.format(name) for name in ("memory", "cpu", "pids"))
    v2 = V2.format(tmp_path)
    assert [gather_worker.cgroups(text).mode for text in (v1, v2, v1 + v2, "")] == ["v1", "v2", "hybrid", ""]
    assert gather_worker.cgroups(v2).controllers == {"memory", "cpu", "pids"}
    (tmp_path / "cgroup.controllers").write_text("cpu\n")
    assert gather_worker.cgroups(v2).controllers == {"cpu"}


def test_forwarding_that_is_on_need_not_be_switched(tmp_path: Path) -> None:
    on, off = tmp_path / "on", tmp_path / "off"
    on.write_text("1\n")
    off.write_text("0\n")
    found = gather_worker.forwarding({"IPv4": on, "IPv6": off, "IPv9": tmp_path / "none"})
    assert found == {"IPv4": "", "IPv6": ""}


def test_a_configuration_that_cannot_be_used_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OAKESTRA_ROOT_API_PORT", "many")
    (found,) = doctor.examine("root", "default", None)
    assert found.level is Level.PROBLEM
    assert "OAKESTRA_ROOT_API_PORT" in found.what
    assert "/etc/oakestra/root.toml" in found.remedy
