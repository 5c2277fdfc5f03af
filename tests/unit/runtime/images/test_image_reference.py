"""References mean what Docker, and nobody else, says they mean."""

from __future__ import annotations

import pytest

from oakestra.model.errors import Rejected
from oakestra.runtime.images.reference import parse

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("nginx", "docker.io/library/nginx:latest"),
        ("nginx:1", "docker.io/library/nginx:1"),
        ("docker.io/nginx", "docker.io/library/nginx:latest"),
        ("index.docker.io/library/nginx", "docker.io/library/nginx:latest"),
        ("oakestra/example:1", "docker.io/oakestra/example:1"),
        ("localhost/x", "localhost/x:latest"),
        ("localhost:5000/x:y", "localhost:5000/x:y"),
        ("ghcr.io/a/b/c", "ghcr.io/a/b/c:latest"),
        ("HOST/x", "HOST/x:latest"),
        ("[::1]:5000/x", "[::1]:5000/x:latest"),
        ("10.0.0.1:5000/a__b/c-d.e:V1.0_x-y", "10.0.0.1:5000/a__b/c-d.e:V1.0_x-y"),
        (f"nginx@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        (f"nginx:1@{DIGEST}", f"docker.io/library/nginx@{DIGEST}"),
        ("oci-archive:/srv/a b.tar", "oci-archive:/srv/a b.tar"),
        ("https://host:8443/x.tar.gz?a=b", "https://host:8443/x.tar.gz?a=b"),
        ("http://[::1]/x", "http://[::1]/x"),
    ],
)
def test_a_reference_has_one_full_name(text: str, name: str) -> None:
    assert parse(text).name == name
    assert parse(name).name == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/x",
        "x/",
        "a//b",
        "Nginx",
        "docker.io/Nginx",
        "nginx:",
        "nginx:bad tag",
        "nginx:" + "t" * 129,
        "nginx@sha256:abc",
        f"nginx@{DIGEST.upper()}",
        "nginx@md5:" + "a" * 32,
        "../etc/passwd",
        "a/../b",
        "x" * 256,
        "host:port/x",
        "oci-archive:relative.tar",
        "oci-archive:/a\nb",
        "https://",
        "https://host:port/x",
        "https://host/a b",
        "https://[::1/x",
    ],
)
def test_what_names_nothing_is_rejected(text: str) -> None:
    with pytest.raises(Rejected):
        parse(text)


def test_a_password_in_a_url_is_refused_and_not_repeated() -> None:
    with pytest.raises(Rejected, match="at host") as refused:
        parse("https://me:secret@host/x.tar")
    assert "secret" not in str(refused.value)
