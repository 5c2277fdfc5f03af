"""SLA documents for tests."""

from __future__ import annotations

from typing import Any


def microservice(name: str = "web", **keys: Any) -> dict[str, Any]:
    """Return a microservice that can be accepted, with some keys more or other."""
    return {
        "microservice_name": name,
        "microservice_namespace": "front",
        "virtualization": "container",
        "code": "docker.io/library/nginx:latest",
        **keys,
    }


def application(*services: dict[str, Any], name: str = "shop", **keys: Any) -> dict[str, Any]:
    """Return an application of an SLA."""
    return {
        "application_name": name,
        "application_namespace": "prod",
        "microservices": list(services),
        **keys,
    }


def sla(*applications: dict[str, Any], **keys: Any) -> dict[str, Any]:
    """Return an SLA; without applications, one with one service."""
    return {
        "sla_version": "v2.0",
        "customerID": "Admin",
        "applications": list(applications or (application(microservice()),)),
        **keys,
    }
