"""Images on this machine: fetched from registries and archives, unpacked once, shared, and collected when unused."""

from __future__ import annotations

from oakestra.runtime.images.store import Collected, ImageStore, UnpackedImage

__all__ = ["Collected", "ImageStore", "UnpackedImage"]
