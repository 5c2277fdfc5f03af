"""Fetch images from a registry (OCI distribution spec 1.1, Docker Registry HTTP API V2 and its token authentication)."""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import io
import re
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlencode, urlsplit

import msgspec

from oakestra.model.errors import Rejected, Unavailable
from oakestra.runtime.images.layer.streams import Checked, Stream
from oakestra.runtime.images.manifest import (
    INDEX_TYPES,
    MANIFEST_TYPES,
    Descriptor,
    Image,
    Manifest,
    choose_platform,
    decode_image,
    decode_json,
    decode_manifest,
)
from oakestra.runtime.images.reference import DEFAULT_HOST, RegistryImage, is_digest
from oakestra.runtime.images.sources.web import (
    BUSY,
    OK,
    PARTIAL,
    TOO_MANY_REQUESTS,
    Answer,
    LineBroke,
    Resuming,
    Web,
    split,
)

DEFAULT_API_HOST = "registry-1.docker.io"
"""Docker's registry answers here, not at the host its images are named by."""
_NESTING_MAX = 3
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_SERVER_ERROR: Final = 500
_PARAMETER = re.compile(r'([A-Za-z]+)\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]+))')


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """A user name and password, or the token that a registry gave instead of one."""

    user: str = ""
    password: str = ""
    identity_token: str = ""

    @property
    def basic(self) -> str:
        """The header's value for basic authentication."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


class _Entry(msgspec.Struct, frozen=True, kw_only=True, rename="lower"):
    auth: str = ""
    username: str = ""
    password: str = ""
    identitytoken: str = ""


class _DockerConfig(msgspec.Struct, frozen=True, kw_only=True):
    auths: dict[str, _Entry] = msgspec.field(default_factory=dict)


class _Token(msgspec.Struct, frozen=True, kw_only=True):
    token: str = ""
    access_token: str = ""


class _ErrorEntry(msgspec.Struct, frozen=True, kw_only=True):
    code: str = ""
    message: str = ""


class _Errors(msgspec.Struct, frozen=True, kw_only=True):
    errors: tuple[_ErrorEntry, ...] = ()


def read_credentials(path: Path) -> Mapping[str, Credentials]:
    """Return the credentials in a config.json of Docker, by registry host. Raises `Unavailable` if it is unusable."""
    try:
        config = decode_json(path.read_bytes(), _DockerConfig)
        return {_host_of(key): _credentials(entry) for key, entry in config.auths.items()}
    except (OSError, msgspec.MsgspecError, binascii.Error, UnicodeDecodeError) as error:
        raise Unavailable(f"the credentials for registries in {path} cannot be read: {error}") from error


class Registry:
    """One image at its registry. Implements `install.Blobs`; may be used from several threads."""

    def __init__(self, reference: RegistryImage, web: Web, credentials: Mapping[str, Credentials]) -> None:
        self._reference = reference
        self._web = web
        self._credentials = credentials.get(reference.host)
        host = DEFAULT_API_HOST if reference.host == DEFAULT_HOST else reference.host
        self._base = f"{web.base_url(host)}/v2/{reference.repository}"
        self._authorization = ""
        self._authorizing = threading.Lock()

    def image(self, architecture: str) -> Image:
        """Return the image for machines of `architecture`. Raises `Unavailable` or `Rejected`."""
        name = self._reference.name
        version = self._reference.version
        for _ in range(_NESTING_MAX):
            data, digest = self._manifest(version)
            document = decode_manifest(data, name=name)
            if isinstance(document, Manifest):
                config = self._config(document.config)
                return decode_image(
                    config, document.layers, digest=digest, names=[name], architecture=architecture
                )
            version = choose_platform(document.manifests, architecture, name=name).digest
        raise Rejected(f"{name} has indexes within indexes within indexes")

    @contextlib.contextmanager
    def open(self, blob: Descriptor) -> Iterator[Stream]:
        what = f"a layer of {self._reference.name}"

        def ask(headers: Mapping[str, str]) -> Answer:
            answer = self._get(f"{self._base}/blobs/{blob.digest}", headers, patiently=False)
            if answer.status in BUSY:
                answer.close()
                raise LineBroke(f"{answer.host} is busy (HTTP {answer.status})")
            if answer.status not in {OK, PARTIAL}:
                raise self._failed(answer, what)
            return answer

        body = Resuming(self._web, ask, what=what, immutable=True)
        try:
            body.open()
            yield body
        finally:
            body.close()

    def _manifest(self, version: str) -> tuple[bytes, str]:
        """Return a manifest and its digest, which is computed here and checked if it was asked for by digest."""
        accept = ", ".join((*MANIFEST_TYPES, *INDEX_TYPES))
        data = self._document(f"manifests/{version}", "", accept=accept)
        return data, _checked(data, version, what=f"the manifest of {self._reference.name}")

    def _config(self, descriptor: Descriptor) -> bytes:
        what = f"the configuration of {self._reference.name}"
        data = self._document(f"blobs/{descriptor.digest}", what)
        _checked(data, descriptor.digest, what=what)
        return data

    def _document(self, path: str, what: str, *, accept: str = "*/*") -> bytes:
        answer = self._get(f"{self._base}/{path}", {"Accept": accept})
        with contextlib.closing(answer):
            if answer.status != OK:
                raise self._failed(answer, what)
            try:
                return answer.body()
            except LineBroke as error:
                raise Unavailable(
                    f"{answer.host} broke off while telling about {self._reference.name}: {error}"
                ) from error

    def _get(self, url: str, headers: Mapping[str, str], *, patiently: bool = True) -> Answer:
        """Ask with the authorization there is, and again with that which the registry asks for."""
        get = self._web.get_patiently if patiently else self._web.get
        used = self._authorization
        answer = get(url, self._authorized(headers, used))
        if answer.status != _UNAUTHORIZED:
            return answer
        answer.close()
        with self._authorizing:
            if self._authorization == used:  # else another thread was faster
                self._authorization = self._authorize(answer)
        return get(url, self._authorized(headers, self._authorization))

    def _authorized(self, headers: Mapping[str, str], authorization: str) -> Mapping[str, str]:
        return {**headers, "Authorization": authorization} if authorization else headers

    def _authorize(self, refusal: Answer) -> str:
        """Return the Authorization header that a registry's refusal asks for."""
        challenges = refusal.headers.get_all("WWW-Authenticate") or []
        for challenge in challenges:
            scheme, _, rest = challenge.strip().partition(" ")
            if scheme.lower() == "bearer":
                return f"Bearer {self._token(_parameters(rest))}"
        if any(challenge.strip().lower().startswith("basic") for challenge in challenges):
            if self._credentials is None or not self._credentials.user:
                raise self._needs_login(refusal.host)
            return self._credentials.basic
        raise Rejected(
            f"{refusal.host} asks for a way to log in that this worker does not know "
            f"({', '.join(challenges)[:200] or 'none named'}); it knows Basic and Bearer"
        )

    def _token(self, challenge: Mapping[str, str]) -> str:
        realm = challenge.get("realm", "")
        parts = split(realm, who=self._reference.host)
        if parts.scheme == "http" and not self._web.may_be_plain(parts.netloc) and self._credentials:
            raise Rejected(
                f"{self._reference.host} wants the password sent unencrypted to {parts.netloc}; "
                "if that is meant, add it to the worker's insecure_registries"
            )
        answer = self._ask_for_token(realm, challenge)
        with contextlib.closing(answer):
            if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
                raise self._needs_login(answer.host)
            if answer.status != OK:
                raise self._failed(answer, f"a token for {self._reference.name}")
            try:
                token = decode_json(answer.body(), _Token)
            except (msgspec.MsgspecError, UnicodeDecodeError, LineBroke) as error:
                raise Unavailable(f"{answer.host} gave no usable token: {error}") from error
        return token.token or token.access_token

    def _ask_for_token(self, realm: str, challenge: Mapping[str, str]) -> Answer:
        scope = challenge.get("scope") or f"repository:{self._reference.repository}:pull"
        fields = {"service": challenge.get("service", ""), "scope": scope}
        credentials = self._credentials
        if credentials is not None and credentials.identity_token:
            fields |= {"grant_type": "refresh_token", "refresh_token": credentials.identity_token}
            fields |= {"client_id": "oakestra-worker"}
            form = {"Content-Type": "application/x-www-form-urlencoded"}
            try:
                return self._web.get(realm, form, body=urlencode(fields).encode())
            except LineBroke as error:
                raise Unavailable(f"{urlsplit(realm).netloc} gave no token: {error}") from error
        joint = "&" if urlsplit(realm).query else "?"
        headers = {"Authorization": credentials.basic} if credentials is not None else {}
        return self._web.get_patiently(f"{realm}{joint}{urlencode(fields)}", headers)

    def _needs_login(self, host: str) -> Rejected:
        name = self._reference.name
        if self._credentials is None:
            return Rejected(
                f"{host} shows {name} to nobody without a login, or has no such image; "
                f"check the name, or give the worker credentials for {self._reference.host} (credentials_file)"
            )
        return Rejected(
            f"{host} does not accept the worker's credentials for {name}; "
            "check the user, the password and their right to pull it (credentials_file)"
        )

    def _failed(self, answer: Answer, what: str) -> Unavailable | Rejected:
        """Return the error for an answer that is not the content; closes the answer."""
        with contextlib.closing(answer):
            said = _said(answer)
        name = self._reference.name
        if answer.status == _NOT_FOUND:
            if what:
                return Rejected(f"{answer.host} has lost {what}; push the image again")
            return Rejected(f"{name} does not exist: {answer.host} knows no such image or tag{said}")
        if answer.status in {_UNAUTHORIZED, _FORBIDDEN}:
            return self._needs_login(answer.host)
        if answer.status == TOO_MANY_REQUESTS:
            return Unavailable(
                f"{answer.host} lets this address fetch no more for now{said}; it is tried again later, "
                "and credentials (credentials_file) usually raise the limit"
            )
        wrong = f"{answer.host} answers HTTP {answer.status} for {what or name}{said}"
        return Unavailable(wrong) if answer.status >= _SERVER_ERROR else Rejected(wrong)


def _checked(data: bytes, version: str, *, what: str) -> str:
    """Return the digest of `data`; raises `Damaged` if `version` is a digest, and another one."""
    if is_digest(version):
        Checked(io.BytesIO(data), version, what=what).verify()
        return version
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _said(answer: Answer) -> str:
    """Return what the registry says is wrong, in brackets."""
    try:
        errors = decode_json(answer.body(), _Errors).errors
    except (msgspec.MsgspecError, UnicodeDecodeError, LineBroke, Rejected):
        return ""
    words = "; ".join(error.message or error.code for error in errors)
    return f" ({words[:300]})" if words else ""


def _parameters(text: str) -> Mapping[str, str]:
    """Read the parameters of a challenge (RFC 9110, 11.2)."""
    return {
        match[1].lower(): re.sub(r"\\(.)", r"\1", match[2]) if match[2] is not None else match[3]
        for match in _PARAMETER.finditer(text)
    }


def _credentials(entry: _Entry) -> Credentials:
    user, password = entry.username, entry.password
    if entry.auth:
        user, _, password = base64.b64decode(entry.auth, validate=True).decode().partition(":")
    return Credentials(user=user, password=password, identity_token=entry.identitytoken)


def _host_of(key: str) -> str:
    """Return the host of a key, which may be a host, or a URL as Docker's own has it."""
    host = urlsplit(key if "://" in key else f"//{key}").netloc
    return DEFAULT_HOST if host in {"index.docker.io", DEFAULT_API_HOST} else host
