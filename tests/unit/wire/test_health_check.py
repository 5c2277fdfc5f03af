"""`health_check` of an SLA: what it means, and what is said of one that is wrong."""

from __future__ import annotations

from typing import Any

import pytest

from oakestra.model.service import CheckKind, HealthCheck, RestartPolicy
from oakestra.wire.sla import Microservice, SlaInvalid, parse_sla
from sla_samples import application, microservice, sla


def parsed(**keys: Any) -> Microservice:
    return parse_sla(sla(application(microservice(**keys)))).applications[0].microservices[0]


def understood(check: dict[str, Any]) -> HealthCheck | None:
    return parsed(health_check=check).health_check


def test_without_one_there_is_none() -> None:
    assert parsed().health_check is None


@pytest.mark.parametrize(
    ("document", "check"),
    [
        ({"http": {"port": 80}}, HealthCheck(kind=CheckKind.HTTP, port=80)),
        (
            {"http": {"port": 8080.0, "path": "/healthz?deep=1"}, "interval_s": 1, "timeout_s": 0.5},
            HealthCheck(kind=CheckKind.HTTP, port=8080, path="/healthz?deep=1", interval_s=1, timeout_s=0.5),
        ),
        (
            {"tcp": {"port": 5432}, "start_period_s": 120, "restart_after_s": "never"},
            HealthCheck(kind=CheckKind.TCP, port=5432, start_period_s=120, restart_after_s=None),
        ),
        (
            {
                "exec": {"command": ["pg_isready", "-q"]},
                "healthy_threshold": 2,
                "unhealthy_threshold": 5,
                "restart_after_s": 0,
            },
            HealthCheck(
                kind=CheckKind.EXEC,
                command=("pg_isready", "-q"),
                healthy_threshold=2,
                unhealthy_threshold=5,
                restart_after_s=0,
            ),
        ),
    ],
)
def test_what_it_says_is_understood(document: dict[str, Any], check: HealthCheck) -> None:
    assert understood(document) == check


HTTP = {"http": {"port": 80}}


@pytest.mark.parametrize(
    ("document", "complaint"),
    [
        ({}, "health_check: expected one of 'http', 'tcp' and 'exec', found none"),
        ({**HTTP, "tcp": {"port": 1}}, "health_check: expected one of .* found http and tcp"),
        ([], "health_check: expected an object, found a list of 0"),
        (None, "health_check: expected an object, found null"),
        ({"http": {}}, "health_check.http: 'port' is missing"),
        ({"http": {"port": 0}}, "http.port: expected a whole number from 1 to 65535, found the number 0"),
        ({"http": {"port": 65536}}, "http.port: expected a whole number from 1 to 65535"),
        ({"http": {"port": "80"}}, "http.port: expected a whole number, 0 or more, found '80'"),
        ({"http": {"port": 80, "path": "health"}}, "http.path: expected a path that begins with /"),
        ({"http": {"port": 80, "path": "/a b"}}, "http.path: expected a path"),
        ({"http": {"port": 80, "path": "/a\r\nHost: x"}}, "http.path: expected a path"),
        ({"http": {"port": 80, "host": "x"}}, "http.host: is unknown; there are port, path"),
        ({"tcp": 80}, "health_check.tcp: expected an object, found the number 80"),
        ({"exec": {"command": []}}, "exec.command: expected a program and its arguments"),
        ({"exec": {"command": [""]}}, "exec.command: expected a program and its arguments"),
        ({"exec": {"command": "true"}}, "exec.command: expected a list, found 'true'"),
        ({"exec": ["true"]}, "health_check.exec: expected an object, found a list of 1"),
        ({**HTTP, "interval_s": 0}, "interval_s: expected a number of seconds from 1 to 3600"),
        ({**HTTP, "interval_s": "5s"}, "interval_s: expected a number of seconds from 1 to 3600, found '5s'"),
        ({**HTTP, "interval_s": True}, "interval_s: expected .* found true"),
        ({**HTTP, "timeout_s": 301}, "timeout_s: expected a number of seconds from 0.1 to 300"),
        ({**HTTP, "start_period_s": -1}, "start_period_s: expected a number of seconds from 0 to 3600"),
        ({**HTTP, "unhealthy_threshold": 0}, "unhealthy_threshold: expected a whole number from 1 to 100"),
        ({**HTTP, "healthy_threshold": 1.5}, "healthy_threshold: expected a whole number, 0 or more"),
        ({**HTTP, "restart_after_s": "later"}, "restart_after_s: expected a number of seconds, or 'never'"),
        ({**HTTP, "restart_after_s": -1}, "restart_after_s: expected a number of seconds from 0 to 86400"),
        ({**HTTP, "interval": 5}, "health_check.interval: is called 'interval_s' here"),
        ({**HTTP, "retries": 3}, "health_check.retries: is called 'unhealthy_threshold' here"),
        ({"httpGet": {"port": 80}}, "health_check.httpGet: is called 'http' here"),
        ({**HTTP, "colour": "red"}, "health_check.colour: is unknown; there are http, tcp, exec, interval_s"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(document: object, complaint: str) -> None:
    with pytest.raises(SlaInvalid, match=r"applications\[0\].microservices\[0\].*" + complaint):
        parsed(health_check=document)


@pytest.mark.parametrize("key", ["healthcheck", "healthCheck"])
def test_a_check_under_another_name_is_not_ignored(key: str) -> None:
    with pytest.raises(SlaInvalid, match=f"{key}: is called 'health_check' here"):
        parsed(**{key: HTTP})


@pytest.mark.parametrize("key", ["restart", "restart_policy"])
@pytest.mark.parametrize("policy", RestartPolicy)
def test_the_restart_policy_has_two_names(key: str, policy: RestartPolicy) -> None:
    assert parsed(**{key: policy.value}).restart is policy


def test_two_restart_policies_must_be_one() -> None:
    assert parsed(restart="never", restart_policy="never").restart is RestartPolicy.NEVER
    with pytest.raises(SlaInvalid, match="'restart_policy' says 'never' but 'restart' 'always'; keep one"):
        parsed(restart="always", restart_policy="never")
    with pytest.raises(SlaInvalid, match="restartPolicy: is called 'restart_policy' here"):
        parsed(restartPolicy="Never")
