"""A developer's and an operator's day at the command line, against a root that is served on loopback."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from oak_command import Oak
from oakestra import __version__
from oakestra.cli.client import logs, waiting
from oakestra.model.errors import Unavailable
from oakestra.model.instance import Phase
from root_api import RootApi
from served_root import ServedRoot, let_be_gone, let_be_unplaceable, let_cluster_join, let_run
from sla_samples import application, microservice, sla

WITHIN_S = 20.0


def write(path: Path, document: Any) -> str:
    path.write_text(json.dumps(document))
    return str(path)


@pytest.fixture
def shop(admin: Oak, root: ServedRoot, tmp_path: Path) -> Oak:
    """`oak` of somebody who created an application with two services, at a root with one cluster."""
    services = (
        microservice("web", memory=100, vcpus=1, port="8080:80"),
        microservice("db", cmd=["redis-server"], environment=["A=1"], one_shot=False),
    )
    document: dict[str, Any] = sla(application(*services, application_desc="sells things"))
    root.do(let_cluster_join)
    admin.good("app", "create", write(tmp_path / "sla.json", document))
    return admin


def id_of(root: ServedRoot, name: str) -> str:
    def find(api: RootApi) -> str:
        return next(id for id, record in api.state.services.items() if f".{name}." in record.spec.name)

    return root.do(find)


def run(
    root: ServedRoot, name: str, number: int = 0, *, phase: Phase = Phase.RUNNING, reason: str = ""
) -> None:
    """Let an instance run, as its cluster would report it."""
    id = id_of(root, name)
    root.do(lambda api: let_run(api, id, number, phase=phase, reason=reason))


def aged(text: str) -> str:
    """Ages depend on when the test runs."""
    return re.sub(r"\b\d+[smhd]\b( *)", lambda match: "AGE".ljust(len(match.group(0))), text)


def whenever(
    root: ServedRoot, seen: Callable[[RootApi], bool], then: Callable[[RootApi], None]
) -> threading.Thread:
    """Do something to root as soon as something is seen there, while a command waits."""

    def watch() -> None:
        over = threading.Event()
        for _ in range(int(WITHIN_S / 0.02)):
            if root.do(seen):
                root.do(then)
                return
            over.wait(0.02)
        raise AssertionError("never seen")

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


# --- applications ------------------------------------------------------------------------------------------------


def test_creating_an_application_says_what_is_next(admin: Oak, tmp_path: Path) -> None:
    path = write(tmp_path / "sla.json", sla())
    assert admin.good("app", "create", path) == (
        "shop.prod created\n"
        "SERVICE   STATUS        READY  ADDRESS    IMAGE                           REASON\n"
        "shop.web  NOT_DEPLOYED  0/0    10.30.0.1  docker.io/library/nginx:latest  -\n"
        "start an instance: oak service deploy shop.web\n"
    )
    assert "already has an application shop.prod" in admin.bad("app", "create", path)


def test_what_is_no_sla_is_told_before_root_is_asked(oak: Oak, tmp_path: Path) -> None:
    missing = str(tmp_path / "none.json")
    assert (
        oak.bad("app", "create", missing)
        == f"oak: there is no file {missing}; give the path of an SLA document\n"
    )
    (tmp_path / "bad.json").write_text('{"a": 1,}')
    assert "is not JSON: Expecting property name" in oak.bad("app", "create", str(tmp_path / "bad.json"))
    assert "cannot be read: Is a directory" in oak.bad("app", "create", str(tmp_path))


def test_what_is_wrong_in_an_sla_is_told_by_root(admin: Oak, tmp_path: Path) -> None:
    documents: tuple[Any, ...] = (
        sla(application(microservice(memory="lots"))),
        [],
        {"applications": 5},
        None,
    )
    for document in documents:
        said = admin.bad("app", "create", write(tmp_path / "sla.json", document))
        assert said.startswith("oak: the SLA cannot be accepted"), said


def test_a_key_that_nobody_knows_is_told_of(admin: Oak, tmp_path: Path) -> None:
    path = write(tmp_path / "sla.json", sla(application(microservice(memroy=9))))
    assert admin("app", "create", path).err == (
        "note: applications[0].microservices[0]: no key is called 'memroy', so it has no effect; "
        "'memory' may be meant\n"
    )


def test_two_applications_in_one_document(admin: Oak, tmp_path: Path) -> None:
    path = write(tmp_path / "sla.json", sla(application(microservice(), name="a"), application(name="b")))
    said = admin.good("app", "create", path, "--deploy")
    assert said.split("\n\n")[1] == "b.prod created, without services\n"
    assert "a.web    REQUESTED" in said
    assert [app["name"] for app in json.loads(admin.good("app", "ls", "-o", "json"))] == ["a", "b"]


def test_listing_and_showing_applications(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web", "db")
    run(root, "web")
    assert shop.good("app", "ls") == (
        "APPLICATION  NAMESPACE  SERVICES  READY  OWNER  DESCRIPTION\n"
        "shop         prod       2         1/2    Admin  sells things\n"
    )
    assert aged(re.sub("[0-9a-f]{24}", "ID", shop.good("app", "show", "shop.prod"))) == (
        "application  shop.prod\n"
        "id           ID\n"
        "owner        Admin\n"
        "about        sells things\n"
        "\n"
        "SERVICE   STATUS     READY  ADDRESS    IMAGE                           REASON\n"
        "shop.web  RUNNING    1/1    10.30.0.1  docker.io/library/nginx:latest  -\n"
        "shop.db   REQUESTED  0/1    10.30.0.3  docker.io/library/nginx:latest  -\n"
        "\n"
        "INSTANCE    STATUS     READY  CLUSTER  WORKER  ADDRESS    RESTARTS  AGE    REASON\n"
        "shop.web.0  RUNNING    yes    east     w1      10.30.0.5  0         AGE    -\n"
        "shop.db.0   REQUESTED  no     -        -       10.30.0.6  0         AGE    -\n"
    )
    shown = json.loads(shop.good("app", "show", "shop", "-o", "json"))
    assert [service["name"] for service in shown["services"]] == ["shop.prod.web.front", "shop.prod.db.front"]


def test_where_there_is_nothing_the_way_to_something_is_told(admin: Oak) -> None:
    for words in (("app", "ls"), ("service", "ls"), ("instance", "ls"), ("worker", "ls"), ("cluster", "ls")):
        said = admin(*words)
        assert (said.code, said.out) == (0, "")
        assert "oak " in said.err, words
        assert admin.good(*words, "-o", "json") == "[]\n"


def test_deleting_applications(shop: Oak) -> None:
    assert "no application 'shpo'; did you mean shop?" in shop.bad("app", "rm", "shpo")
    assert shop.good("app", "rm", "shop") == "shop.prod deleted\n"
    assert shop.good("app", "ls", "-o", "json") == "[]\n"


def test_deleting_an_application_waits_until_nothing_runs(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web")
    run(root, "web")
    id = id_of(root, "web")
    gone = whenever(
        root,
        lambda api: not any(record.wanted for record in api.state.slots_of(api.state.services[id].spec.id)),
        lambda api: let_be_gone(api, id),
    )
    said = shop("app", "rm", "shop", "--wait")
    gone.join()
    assert (said.code, said.out) == (0, "shop.prod deleted\n")
    assert said.err.endswith("shop.web.0  GONE\n")


def test_an_application_that_does_not_go_in_time_is_kept(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web")
    said = shop("app", "rm", "shop", "--wait", "--timeout", "0")
    assert (said.code, said.out) == (1, "")
    assert "shop.web.0 is still not gone after 0 s: it is LEAVING" in said.err
    assert len(json.loads(shop.good("app", "ls", "-o", "json"))) == 1


# --- services and instances --------------------------------------------------------------------------------------


def test_listing_services_and_instances(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web", "web", "db")
    run(root, "web", 1)
    id = id_of(root, "db")
    root.do(lambda api: let_be_unplaceable(api, id))
    assert shop.good("service", "ls") == (
        "SERVICE   STATUS       READY  ADDRESS    IMAGE                           REASON\n"
        "shop.web  REQUESTED    1/2    10.30.0.1  docker.io/library/nginx:latest  -\n"
        "shop.db   UNPLACEABLE  0/1    10.30.0.3  docker.io/library/nginx:latest  "
        "1 cluster: 64 MiB memory free, needs 4096\n"
    )
    assert aged(shop.good("instance", "ls")) == (
        "INSTANCE    STATUS       READY  CLUSTER  WORKER  ADDRESS    RESTARTS  AGE    REASON\n"
        "shop.web.0  REQUESTED    no     -        -       10.30.0.5  0         AGE    -\n"
        "shop.web.1  RUNNING      yes    east     w1      10.30.0.6  0         AGE    -\n"
        "shop.db.0   UNPLACEABLE  no     -        -       10.30.0.7  0         AGE    "
        "1 cluster: 64 MiB memory free, needs 4096\n"
    )
    wide = aged(shop.good("instance", "ls", "web", "-o", "wide")).splitlines()
    assert " ".join(wide[0].split()) == (
        "INSTANCE STATUS READY CLUSTER WORKER ADDRESS RESTARTS AGE CPU MEMORY HOST OWN ADDRESS IPV6 REASON"
    )
    assert "25%  10 MiB  192.0.2.8  10.18.0.2" in wide[2]
    assert len(wide) == 3
    assert [one["status"] for one in json.loads(shop.good("instance", "ls", "shop.web", "-o", "json"))] == [
        "REQUESTED",
        "RUNNING",
    ]


def test_listing_the_services_of_one_application(shop: Oak, tmp_path: Path) -> None:
    other = sla(application(microservice(), name="store"))
    shop.good("app", "create", write(tmp_path / "other.json", other))
    assert len(json.loads(shop.good("service", "ls", "-o", "json"))) == 3
    (found,) = json.loads(shop.good("service", "ls", "store", "-o", "json"))
    assert found["name"] == "store.prod.web.front"
    said = shop.bad("service", "inspect", "web")
    assert "'web' means more than one service: shop.prod.web.front (" in said
    assert shop.good("service", "inspect", "store.web").startswith("service        store.prod.web.front\n")


def test_inspecting_a_service(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web")
    run(root, "web", phase=Phase.STOPPED, reason="it ended with exit code 1")
    assert aged(re.sub("[0-9a-f]{24}", "ID", shop.good("service", "inspect", "shop.web"))) == (
        "service        shop.prod.web.front\n"
        "id             ID\n"
        "application    shop.prod\n"
        "status         DEAD\n"
        "reason         it ended with exit code 1\n"
        "ready          0/1 instances\n"
        "image          docker.io/library/nginx:latest\n"
        "revision       0\n"
        "update policy  start first, 1 at a time in each cluster, ready for 2 s each; "
        "done when all are ready for 10 s; goes back after 300 s without progress\n"
        "runtime        docker\n"
        "needs          100 MiB memory, 1 vcpu\n"
        "round robin    10.30.0.1, fdff:2000::1\n"
        "closest        10.30.0.2, fdff:1000::2\n"
        "ports          8080 → 80/tcp\n"
        "restarts       always\n"
        "\n"
        "INSTANCE    STATUS   READY  CLUSTER  WORKER  ADDRESS    RESTARTS  AGE    REASON\n"
        "shop.web.0  STOPPED  no     east     w1      10.30.0.5  0         AGE    it ended with exit code 1\n"
    )
    told = shop.good("service", "inspect", "db")
    assert "command        redis-server\nenvironment    A=1\n" in told
    assert yaml.safe_load(shop.good("service", "inspect", "db", "-o", "yaml")) == json.loads(
        shop.good("service", "inspect", "db", "-o", "json")
    )


def test_deploying_and_undeploying(shop: Oak, root: ServedRoot) -> None:
    assert shop.good("service", "deploy", "web", "shop.db") == "shop.web.0 requested\nshop.db.0 requested\n"
    assert json.loads(shop.good("service", "deploy", "web", "-o", "json"))[0]["name"] == "shop.web.1"
    assert shop.good("service", "undeploy", "web.0", "db") == "shop.web.0 is leaving\nshop.db.0 is leaving\n"
    id = id_of(root, "web")
    root.do(lambda api: let_be_gone(api, id))
    assert "shop.web has no instance 0" in shop.bad("service", "undeploy", "web.0")
    assert shop.good("service", "undeploy", "web") == "shop.web.1 is leaving\n"
    assert "shop.web.1  LEAVING" in shop.good("instance", "ls")
    root.do(lambda api: let_be_gone(api, id))
    said = shop("service", "undeploy", "web")
    assert (said.code, said.out, said.err) == (0, "", "there was no instance to remove\n")


def test_scaling(shop: Oak) -> None:
    requested = "shop.web.0 requested\nshop.web.1 requested\nshop.web.2 requested\n"
    assert shop.good("service", "scale", "web", "3") == requested
    assert shop.good("service", "scale", "web", "1") == ("shop.web.1 is leaving\nshop.web.2 is leaving\n")
    assert "a service has at most 1000" in shop.bad("service", "scale", "web", "1001")


def test_waiting_until_it_is_ready(shop: Oak, root: ServedRoot) -> None:
    id = id_of(root, "web")
    ready = whenever(
        root,
        lambda api: api.state.services[id].next_slot == 1,
        lambda api: let_run(api, id),
    )
    said = shop("service", "deploy", "web", "--wait")
    ready.join()
    assert (said.code, said.out) == (0, "shop.web.0 is ready\n")
    assert said.err.endswith("shop.web.0  RUNNING  w1 (east)\n")


def test_waiting_for_a_whole_application(admin: Oak, root: ServedRoot, tmp_path: Path) -> None:
    root.do(let_cluster_join)

    def all_requested(api: RootApi) -> bool:
        return bool(api.state.services) and all(one.next_slot for one in api.state.services.values())

    def all_run(api: RootApi) -> None:
        for id in list(api.state.services):
            let_run(api, id)

    ready = whenever(root, all_requested, all_run)
    document = sla(application(microservice("web"), microservice("db")))
    said = admin("app", "create", write(tmp_path / "sla.json", document), "--wait")
    ready.join()
    assert said.code == 0
    assert said.out.startswith("shop.prod created\nSERVICE ")
    assert said.out.count("created") == 1
    assert "shop.web  RUNNING  1/1" in said.out
    assert "start an instance" not in said.out


def test_what_cannot_be_placed_is_exit_code_2(
    shop: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(waiting, "PATIENCE_S", 0.0)
    id = id_of(root, "web")
    hopeless = whenever(
        root,
        lambda api: api.state.services[id].next_slot == 1,
        lambda api: let_be_unplaceable(api, id),
    )
    said = shop("service", "deploy", "web", "--wait", "-o", "json")
    hopeless.join()
    assert said.code == 2
    (told,) = json.loads(said.out)
    assert (told["done"], told["status"]) == (False, "UNPLACEABLE")
    assert "oak: shop.web.0 cannot be placed: 1 cluster: 64 MiB memory free, needs 4096;" in said.err


def test_what_fails_is_exit_code_1(shop: Oak, root: ServedRoot) -> None:
    id = id_of(root, "web")
    failing = whenever(
        root,
        lambda api: api.state.services[id].next_slot == 1,
        lambda api: let_run(api, id, phase=Phase.FAILED, reason="it ended with exit code 7"),
    )
    said = shop("service", "scale", "web", "1", "--wait")
    failing.join()
    assert said.code == 1
    assert "shop.web.0 will not run: it ended with exit code 7; its log may say more" in said.err


def test_deleting_services(shop: Oak) -> None:
    assert shop.good("service", "rm", "web", "db", "--wait") == "shop.web deleted\nshop.db deleted\n"
    assert shop.good("service", "ls", "-o", "json") == "[]\n"


# --- explain, logs -----------------------------------------------------------------------------------------------


def test_explaining_where_instances_are(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web", "web", "db")
    run(root, "web", reason="its health check passes")
    id = id_of(root, "db")
    root.do(lambda api: let_be_unplaceable(api, id))
    first, second = re.sub(r"for \d+\w", "for AGE", shop.good("explain", "web")).split("\n\n")
    assert f"{first}\n".startswith(
        "shop.web.0  RUNNING for AGE\n"
        "  in cluster east: the only cluster that fits\n"
        "  on worker w1\n"
        "  its health check passes\n"
        "  CLUSTER  SCORE  VERDICT\n"
        "  east     0.750  chosen\n"
        "  west     -      lost\n"
    )
    assert second.startswith("shop.web.1  REQUESTED for AGE\n  in no cluster yet\n")
    assert shop.good("explain", "shop.db.0").splitlines()[1:4] == [
        "  in no cluster: 1 cluster: 64 MiB memory free, needs 4096",
        "  CLUSTER  SCORE  VERDICT",
        "  east     -      64 MiB memory free, needs 4096",
    ]
    (told,) = json.loads(shop.good("explain", "db", "-o", "json"))
    assert told["verdicts"] == [{"name": "east", "refusal": "64 MiB memory free, needs 4096", "score": 0.0}]
    assert told["remedies"] == ["more of 0"]
    assert "  what would help: more of 0\n" in shop.good("explain", "db")


def test_explaining_what_is_not_deployed(shop: Oak) -> None:
    said = shop("explain", "db")
    assert (said.code, said.out) == (0, "")
    assert said.err == "shop.db has no instances (NOT_DEPLOYED); start one: oak service deploy shop.db\n"


def test_reading_logs(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web", "web")
    assert "has no log: it was asked for a moment ago" in shop.bad("service", "logs", "web.1")
    run(root, "web", 1)
    root.api.workers.pieces = (b"one\ntw", b"o\nthr\xc3", b"\xa4\n", b"half")
    assert shop.good("service", "logs", "web.1") == "one\ntwo\nthrä\nhalf"
    assert root.api.workers.asked[-1][3] == {
        "service": id_of(root, "web"), "slot": 1, "placement": 1, "attempt": 1, "tail_bytes": 16 << 20, "follow": False,
    }  # fmt: skip
    assert shop.good("service", "logs", "web", "-n", "2") == "thrä\nhalf"
    assert shop.good("service", "logs", "web", "-n", "0") == ""


def test_following_logs_begins_with_the_last_lines(
    shop: Oak, root: ServedRoot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "QUIET_S", WITHIN_S)  # the end of the stream ends the waiting as well
    shop.good("service", "deploy", "web")
    run(root, "web")
    root.api.workers.pieces = (b"one\n", b"two\n")
    assert shop.good("service", "logs", "web", "-f", "-n", "1") == "two\n"
    assert root.api.workers.asked[-1][3]["follow"] is True
    assert shop.good("service", "logs", "web", "--follow") == "one\ntwo\n"
    root.api.workers.error = Unavailable("the worker went away")
    assert (
        shop.good("service", "logs", "web", "-f") == "one\ntwo\n\n[the log ends here: the worker went away]\n"
    )


# --- machines ----------------------------------------------------------------------------------------------------


def test_clusters_and_workers(admin: Oak, root: ServedRoot) -> None:
    root.do(let_cluster_join)
    assert aged(admin.good("cluster", "ls")) == (
        "CLUSTER  LIVE  WORKERS  INSTANCES  FREE VCPUS  FREE MEMORY  HEARD   HOST\n"
        "east     yes   1/1      0          3           1.5 GiB      AGE ago  192.0.2.7\n".replace(
            "AGE ", "AGE"
        )
    )
    workers = (
        "WORKER  CLUSTER  LIVE  INSTANCES  FREE VCPUS  FREE MEMORY  CPU LOAD  MEMORY USED  HOST\n"
        "w1      east     yes   1          3           1.5 GiB      25%       50%          192.0.2.8\n"
    )
    assert admin.good("worker", "ls") == workers
    assert admin.good("node", "ls", "--cluster", "east") == workers
    assert "there is no cluster 'west'" in admin.bad("worker", "ls", "--cluster", "west")
    wide = admin.good("worker", "ls", "-o", "wide").splitlines()
    shown = re.sub(r"\S+ ago", "AGE ago", " ".join(wide[1].split()))
    assert shown == (
        "w1 east yes 1 3 1.5 GiB 4 2 GiB 9 GiB 0/0 25% 50% 10% amd64 docker AGE ago dddddddddddddddddddddddd "
        "192.0.2.8 -"
    )
    shown = admin.good("cluster", "show", "east")
    assert "workers join at  192.0.2.7:10100\n" in shown
    assert "memory           1.5 GiB free of 2 GiB\n" in shown
    assert shown.endswith(f"\n\n{workers}")
    told = json.loads(admin.good("cluster", "show", "east", "-o", "json"))
    assert [worker["name"] for worker in told["worker_list"]] == ["w1"]


def test_versions(oak: Oak, root: ServedRoot) -> None:
    said = oak.good("version", "--root", root.url).splitlines()
    assert said[:2] == [f"oak     {__version__}", f"root    {__version__} at {root.url}"]
    away = json.loads(oak.good("version", "--root", "127.0.0.1:1", "-o", "json"))
    assert (away["oak"], away["root"]) == (__version__, None)


def test_completing_names(shop: Oak, root: ServedRoot) -> None:
    shop.good("service", "deploy", "web")
    assert shop.good("complete", "--", "service", "deploy", "") == "shop.db\nshop.web\n"
    assert shop.good("complete", "--", "service", "logs", "shop.w") == "shop.web\nshop.web.0\n"
    assert shop.good("complete", "--", "app", "show", "") == "shop\n"
    root.do(let_cluster_join)
    assert shop.good("complete", "--", "worker", "ls", "--cluster", "") == "east\n"
    shop.good("logout")
    assert shop.good("complete", "--", "service", "deploy", "") == "", "an error would be typed into the line"
