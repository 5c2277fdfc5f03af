"""The published Python client works with this root as it comes from the registry: whatever its users type."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from oakestra.model.ids import ClusterId, ServiceId
from oakestra.root.state import ClusterRecord
from prerequisites import cannot_run
from published_cli import CannotInstall, OakCli, installed_cli
from published_lab import PAGE, PUBLISHED_PASSWORD, PublishedLab, published_lab
from root_api import RootApi, let_cluster_join, let_run
from served_root import PUBLISHED_PORT, ServedRoot, own_loopback_address, served_root

pytestmark = pytest.mark.timeout(600)  # the first run installs the client

NAMES = ("blank_app_without_services", "default_app_with_services", "edge_gaming")
"""The SLAs that come with the client."""


class FleetOfRecords:
    """A real root whose clusters and workers exist in its state only."""

    cluster = "east"

    def __init__(self, root: ServedRoot) -> None:
        self.ip = root.host
        self._root = root
        root.do(_let_clusters_be)

    def let_run(self, service: str) -> None:
        """Put every instance of the service on the worker."""
        self._root.do(lambda api: _let_all_run(api, service))


def _let_clusters_be(api: RootApi) -> None:
    let_cluster_join(api)
    silent = ClusterId("e" * 24)
    api.state.clusters.put(silent, ClusterRecord(id=silent, name="west", key="w"))


def _let_all_run(api: RootApi, service: str) -> None:
    for record in api.state.slots_of(ServiceId(service)):
        if record.wanted:
            let_run(api, service, record.slot.number)


Fleet = FleetOfRecords | PublishedLab
"""What the client is used on: records, for everything; a lab's containers, for what takes part in them."""

on_containers_too = pytest.mark.parametrize(
    "fleet", ["records", pytest.param("lab", marks=pytest.mark.root)], indirect=True
)


@pytest.fixture(scope="module")
def program() -> Path:
    try:
        return installed_cli()
    except CannotInstall as error:
        cannot_run(f"oak-cli cannot be installed: {error}")
        raise AssertionError from error


@pytest.fixture(scope="module")
def lab(need_lab: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PublishedLab]:
    with published_lab(tmp_path_factory.mktemp("lab")) as lab:
        yield lab


@pytest.fixture
def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Fleet]:
    if getattr(request, "param", "records") == "lab":
        lab: PublishedLab = request.getfixturevalue("lab")
        yield lab
        lab.clear()
        return
    host = own_loopback_address()
    with served_root(tmp_path, host=host, port=PUBLISHED_PORT, password=PUBLISHED_PASSWORD) as root:
        yield FleetOfRecords(root)


@pytest.fixture
def oak(program: Path, fleet: Fleet, tmp_path: Path) -> OakCli:
    home = tmp_path / "home"
    home.mkdir()
    oak = OakCli(program, home)
    oak.configure(fleet.ip)
    return oak


def ids(printed: str) -> list[str]:
    """Return the ids in a table, each once, in order."""
    return list(dict.fromkeys(re.findall(r"\b[0-9a-f]{24}\b", printed)))


def rows(printed: str, *words: str) -> list[str]:
    """Return the lines that have all these words."""
    return [line for line in printed.splitlines() if all(word in line for word in words)]


def ids_of(oak: OakCli, service: str) -> tuple[str, str]:
    """Return the ids of a service and of its application."""
    (row,) = rows(oak.run("service", "show"), f" {service} ")
    found = ids(row)
    return found[0], found[1]


def test_the_configuration_names_only_where_root_is(oak: OakCli, fleet: Fleet) -> None:
    assert f"system_manager_ip = {fleet.ip}" in (oak.home / "oak_cli/.oak_cli_config").read_text()
    assert f"http://{fleet.ip}:10000/api/docs" in oak.run("api-docs")
    assert fleet.ip in oak.run("dashboard-link")
    assert "0.5.5" in oak.run("version")


def test_its_own_slas_are_listed_and_shown(oak: OakCli) -> None:
    for name in NAMES:
        printed = oak.run("application", "sla", "--sla-file-name", name)
        assert '"sla_version": "v2.0"' in printed
    assert sorted(path.stem for path in oak.slas.iterdir()) == sorted(NAMES)


def test_nothing_is_there_yet(oak: OakCli) -> None:
    assert "No applications exist yet" in oak.run("application", "show")
    assert "No applications exist yet" in oak.run("application", "delete", "-y")
    assert "No services exist yet" in oak.run("service", "show")
    oak.run("service", "undeploy")


@pytest.mark.parametrize("name", NAMES)
def test_an_application_from_creation_to_deletion(oak: OakCli, name: str) -> None:
    document = json.loads((oak.slas / f"{name}.json").read_text())["applications"][0]
    assert "Success" in oak.run("a", "create", "--sla-file-name", name)
    (row,) = rows(oak.run("application", "show"), document["application_name"])
    assert f"({len(document['microservices'])})" in row
    (application,) = ids(row)
    (row,) = rows(oak.run("app", "s", "-v", "detailed"), application)
    assert all(word in row for word in ("Admin", document["application_namespace"]))
    assert document["application_desc"] in row
    exhaustive = oak.run("a", "s", "-v", "exhaustive")
    assert f"'applicationID': '{application}'" in exhaustive
    services = oak.run("s", "s")
    for service in document["microservices"]:
        assert rows(services, service["microservice_name"], document["application_name"], application)
    assert "Success" in oak.run("application", "delete", application)
    assert "No applications exist yet" in oak.run("application", "show")


def test_an_sla_is_asked_for(oak: OakCli) -> None:
    assert "Success" in oak.run("application", "create", typed="edge_gaming.json\n")
    assert len(ids(oak.run("application", "show"))) == 1


@on_containers_too
def test_an_application_is_deployed_as_it_is_created(oak: OakCli, fleet: Fleet) -> None:
    printed = oak.run("application", "create", "--sla-file-name", "default_app_with_services", "-d")
    assert printed.count("Success") == 3
    for service in ("curl", "nginx"):
        id, _ = ids_of(oak, service)
        fleet.let_run(id)
    shown = oak.run("service", "show")
    assert len(rows(shown, "0", "RUNNING 🟢")) == 2
    oak.run("service", "undeploy")
    assert "RUNNING" not in oak.run("service", "show")


@on_containers_too
def test_instances_of_a_service(oak: OakCli, fleet: Fleet) -> None:
    oak.run("application", "create", "--sla-file-name", "default_app_with_services")
    service, application = ids_of(oak, "curl")
    assert "RUNNING" not in oak.run("service", "inspect", service), "there is no instance yet"
    for _ in range(3):
        assert "Success" in oak.run("service", "deploy", service)
    fleet.let_run(service)
    shown = oak.run("service", "show", application, "-v", "detailed")
    assert rows(shown, "curl", "docker.io/curlimages/curl:7.82.0", "--CURL-START--")
    assert all(rows(shown, f"│ {number} RUNNING 🟢") for number in range(3))
    exhaustive = oak.run("service", "show", "-v", "exhaustive")
    assert all(f"'instance_number': {number}" in exhaustive for number in range(3))
    assert "'logs': '(hidden by CLI)'" in exhaustive
    inspected = oak.run("service", "inspect", service)
    assert rows(inspected, "name: curl", "RUNNING 🟢", f"app ID: {application}")
    assert len(rows(inspected, "public IP: ", "cluster ID: ", "Logs :")) == 3
    oak.run("service", "undeploy", "--service-id", service, "--instance-id", "1")
    inspected = oak.run("service", "inspect", service)
    assert [rows(inspected, f"│ {number} | ") != [] for number in range(3)] == [True, False, True]
    assert oak.run("service", "undeploy", "--service-id", service).count("Success") == 2
    assert "public IP" not in oak.run("service", "inspect", service)
    oak.run("application", "delete", "-y")
    assert "No services exist yet" in oak.run("service", "show")


@on_containers_too
def test_clusters(oak: OakCli, fleet: Fleet) -> None:
    for command in (("cluster", "list"), ("cl", "ls"), ("cluster", "ls", "-all")):
        (row,) = rows(oak.run(*command), fleet.cluster)
        assert "docker" in row
        assert ("Connected 🟢" in row) == ("-all" in command)
    info = oak.run("cluster", "info", fleet.cluster)
    for line in ("Location", "Active Nodes", "CPU% Utilization", "Available Memory", "IP Address", "Port"):
        assert rows(info, line)
    assert rows(info, "Status", "Connected 🟢")


def test_a_cluster_that_was_never_heard_of(oak: OakCli) -> None:
    assert "west" not in oak.run("cluster", "ls")
    (row,) = rows(oak.run("cluster", "ls", "-all"), "west")
    assert "Disconnected 🔴" in row
    assert rows(oak.run("cluster", "info", "west"), "Status", "Disconnected 🔴")


def test_live_views_follow_what_happens(oak: OakCli, fleet: Fleet) -> None:
    oak.run("application", "create", "--sla-file-name", "default_app_with_services")
    service, application = ids_of(oak, "nginx")
    with oak.watch("service", "show", "-l") as wait_for:
        wait_for("nginx")
        oak.run("service", "deploy", service)
        fleet.let_run(service)
        wait_for("RUNNING")
    with oak.watch("service", "inspect", service, "-l") as wait_for:
        wait_for("RUNNING")
        oak.run("service", "undeploy", "--service-id", service)
        wait_for("app name: clientsrvr")
    with oak.watch("application", "show", "-l", "-v", "detailed") as wait_for:
        wait_for(application)
        wait_for("Simple demo")
    for command in (
        ("cluster", "ls", "-l"),
        ("cluster", "ls", "-all", "-l"),
        ("cluster", "info", fleet.cluster, "-l"),
    ):
        with oak.watch(*command) as wait_for:
            wait_for(fleet.cluster)


@pytest.mark.parametrize("fleet", [pytest.param("lab", marks=pytest.mark.root)], indirect=True)
def test_the_client_s_own_demo_fetches_its_page(oak: OakCli, fleet: Fleet) -> None:
    """Its two services run in containers, reach each other by address, and their logs come back to the client."""
    oak.run("application", "create", "--sla-file-name", "default_app_with_services", "-d")
    service, _ = ids_of(oak, "curl")
    fleet.let_run(service)
    with oak.watch("service", "inspect", service, "-l") as wait_for:
        wait_for("--CURL-START--")
        wait_for(PAGE)


def test_what_root_refuses_ends_with_an_error(oak: OakCli) -> None:
    oak.run("application", "create", "--sla-file-name", "blank_app_without_services")
    status, printed = oak.attempt("application", "create", "--sla-file-name", "blank_app_without_services")
    assert (status, "409" in printed or "Conflict" in printed) == (1, True)
    status, _ = oak.attempt("service", "inspect", "f" * 24)
    assert status == 1
