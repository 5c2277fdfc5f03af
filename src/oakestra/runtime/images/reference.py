"""What a service's `code` names: an image at a registry, an archive file, or an archive at a URL. Pure.

Short names are completed the way Docker does (github.com/distribution/reference): `nginx` is
`docker.io/library/nginx:latest`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from oakestra.model.errors import Rejected

DEFAULT_HOST = "docker.io"
ARCHIVE_PREFIX = "oci-archive:"
_NAME_LENGTH_MAX = 255

_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_REPOSITORY = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"(?:sha256:[a-f0-9]{64}|sha512:[a-f0-9]{128})")
_HOST = re.compile(r"(?:\[[0-9a-fA-F:]+\]|[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?)(?::[0-9]{1,5})?")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryImage:
    """An image at a registry, named by tag or, when `digest` is given, by content."""

    host: str
    repository: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """The full name; the same for every way of writing it."""
        return f"{self.host}/{self.repository}{'@' + self.digest if self.digest else ':' + self.tag}"

    @property
    def version(self) -> str:
        """What to ask the registry for."""
        return self.digest or self.tag


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveFile:
    """An archive on this machine."""

    path: str

    @property
    def name(self) -> str:
        return f"{ARCHIVE_PREFIX}{self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArchiveUrl:
    """An archive on a web server."""

    url: str

    @property
    def name(self) -> str:
        return self.url


Reference = RegistryImage | ArchiveFile | ArchiveUrl


def parse(text: str) -> Reference:
    """Return what `text` names. Raises `Rejected` with a sentence when it names nothing."""
    if text.startswith(ARCHIVE_PREFIX):
        return _parse_file(text)
    if text.startswith(("http://", "https://")):
        return _parse_url(text)
    return _parse_registry_image(text)


def is_digest(text: str) -> bool:
    """Return whether `text` is a digest that can be checked here: SHA-256 or SHA-512 in lower-case hex."""
    return _DIGEST.fullmatch(text) is not None


def _parse_file(text: str) -> ArchiveFile:
    path = text.removeprefix(ARCHIVE_PREFIX)
    if not path.startswith("/") or not path.isprintable():
        raise Rejected(f"'{text}' needs an absolute path, as in oci-archive:/srv/images/web.tar")
    return ArchiveFile(path=path)


def _parse_url(text: str) -> ArchiveUrl:
    try:
        parts = urlsplit(text)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise Rejected(f"'{text}' is not a usable URL: {error}") from error
    if not host or any(character.isspace() or not character.isprintable() for character in text):
        raise Rejected(f"'{text}' is not a usable URL: it needs a host name and no spaces")
    if parts.username or parts.password:
        raise Rejected(
            f"the URL of an image archive at {host} carries a user name or password, which would be shown "
            "to everybody who sees the service; put the archive where the worker can fetch it without"
        )
    return ArchiveUrl(url=text)


def _parse_registry_image(text: str) -> RegistryImage:
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise Rejected(
            f"'{text}' is not an image name: after '@' comes a digest, sha256: and 64 lower-case hex digits"
        )
    rest, tag = _split_tag(rest)
    if tag is not None and not _TAG.fullmatch(tag):
        raise Rejected(f"'{text}' is not an image name: '{tag}' cannot be a tag")
    host, repository = _split_host(rest)
    if not _HOST.fullmatch(host) or not _REPOSITORY.fullmatch(repository):
        raise Rejected(
            f"'{text}' is not an image name; write one like docker.io/library/nginx:1 (lower case), "
            "oci-archive:/path/to/archive.tar or https://host/archive.tar"
        )
    if len(host) + 1 + len(repository) > _NAME_LENGTH_MAX:
        raise Rejected(f"an image name may have {_NAME_LENGTH_MAX} characters, '{text[:60]}…' has more")
    return RegistryImage(
        host=host, repository=repository, tag="" if digest else (tag or "latest"), digest=digest
    )


def _split_tag(text: str) -> tuple[str, str | None]:
    before, colon, after = text.rpartition(":")
    if not colon or "/" in after:  # no colon, or that of a port
        return text, None
    return before, after


def _split_host(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    names_host = "." in first or ":" in first or first == "localhost" or first != first.lower()
    if not slash or not names_host:
        first, rest = DEFAULT_HOST, text
    if first == f"index.{DEFAULT_HOST}":
        first = DEFAULT_HOST
    if first == DEFAULT_HOST and "/" not in rest:
        rest = f"library/{rest}"
    return first, rest
