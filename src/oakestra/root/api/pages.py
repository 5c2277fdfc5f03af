"""The description of the API: as a document for programs, and as a page for people."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from importlib.resources import files
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from oakestra.transport.http_server import Answer, Endpoint, json_response
from oakestra.transport.openapi import openapi_document
from oakestra.wire.api import Error

TITLE = "Oakestra root api"
VERSION = "v1"
_PAGE = "/api/docs/"
_FILES = {
    "": ("index.html", "text/html; charset=utf-8"),
    "start.js": ("start.js", "text/javascript"),
    "swagger-ui.css": ("swagger-ui.css", "text/css"),
    "swagger-ui-bundle.js": ("swagger-ui-bundle.js", "text/javascript"),
}
_HEADERS = {
    "cache-control": "max-age=3600",
    "x-content-type-options": "nosniff",
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; frame-ancestors 'none'"
    ),
}


class Description:
    """Describes endpoints, itself included. The document is made when somebody asks for it."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self._described = [*endpoints, *self.endpoints()]

    def endpoints(self) -> list[Endpoint]:
        """Return the routes of the document and of the page."""
        return [
            Endpoint(
                method="GET", path="/docs/openapi.json", answer=self.document, tag="Description",
                summary="Describe this API", secured=False, reply=dict[str, Any],
            ),
            *(
                Endpoint(
                    method="GET", path=f"{_PAGE}{path}", answer=_file(name, media), tag="Description",
                    summary=f"Show this API: {name}", secured=False, media=media.partition(";")[0],
                )
                for path, (name, media) in _FILES.items()
            ),
        ]  # fmt: skip

    async def document(self, request: Request) -> Response:
        """Return the document."""
        del request
        return json_response(openapi_document(self._described, title=TITLE, version=VERSION, error=Error))


def _file(name: str, media: str) -> Answer:
    async def answer(request: Request) -> Response:
        del request
        place = files("oakestra.root") / "static" / "swagger" / name
        return Response(await asyncio.to_thread(place.read_bytes), media_type=media, headers=_HEADERS)

    return answer
