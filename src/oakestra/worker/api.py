"""What `oak` on the same machine may ask of a worker, over its unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import msgspec

from oakestra import __version__
from oakestra.model.errors import Invalid
from oakestra.runtime import ImageInfo, Runtime
from oakestra.transport.local import Method
from oakestra.worker.tier import Worker


class WorkerApi:
    """Answers the local command line."""

    def __init__(self, worker: Worker, runtime: Runtime, *, name: str) -> None:
        self._worker = worker
        self._runtime = runtime
        self._name = name

    def methods(self) -> Mapping[str, Method]:
        """Return what can be asked, by name."""
        return {
            "status": self.status,
            "image_load": self.image_load,
            "image_ls": self.image_ls,
            "image_rm": self.image_rm,
        }

    async def status(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Tell who this worker is, whether its cluster hears it, and how its instances are."""
        del arguments
        desired = self._worker.desired
        yield {
            "version": __version__,
            "name": self._name,
            "id": desired.worker,
            "cluster": desired.cluster,
            "connected": self._worker.connected,
            "instances": [
                {
                    "service": instance.spec.name,
                    "number": instance.key.number,
                    "withdrawn": instance.withdrawn,
                }
                for instance in desired.instances
            ],
        }

    async def image_load(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Take an image from an archive file; tell how far it is, then what it is."""
        path = _text(arguments, "path")
        steps: asyncio.Queue[tuple[int, int] | None] = asyncio.Queue()
        loading = asyncio.ensure_future(
            self._runtime.load_image(path, progress=lambda done, total: steps.put_nowait((done, total)))
        )
        loading.add_done_callback(lambda _: steps.put_nowait(None))
        try:
            while (step := await steps.get()) is not None:
                yield {"done": step[0], "total": step[1]}
            yield {"image": _image(await loading)}
        finally:
            loading.cancel()
        self._worker.wake()

    async def image_ls(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """List the images that are here."""
        del arguments
        for image in await self._runtime.images():
            yield {"image": _image(image)}

    async def image_rm(self, arguments: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """Forget an image."""
        reference = _text(arguments, "reference")
        await self._runtime.remove_image(reference)
        yield {"removed": reference}


def _text(arguments: Mapping[str, Any], name: str) -> str:
    value = arguments.get(name)
    if not isinstance(value, str) or not value:
        raise Invalid(f"{name} is missing: expected a text")
    return value


def _image(image: ImageInfo) -> dict[str, Any]:
    return dict(msgspec.to_builtins(asdict(image)))
