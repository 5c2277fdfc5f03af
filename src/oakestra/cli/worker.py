"""`oak worker`: list workers and the images of this machine's; run one on this machine."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from oakestra.cli import DONE, config, options, tiers, upkeep
from oakestra.cli.client import Document, Root, names, session
from oakestra.cli.show import output
from oakestra.cli.show.cells import percent, size
from oakestra.cli.show.columns import WORKER_COLUMNS
from oakestra.cli.show.output import Shown
from oakestra.cli.show.table import Column
from oakestra.control.installation import DEFAULT, Installation
from oakestra.model.errors import Invalid, NotFound

QUIET_S = 600.0
"""A worker that unpacks a large layer on a slow card says nothing for a while."""
_DIGEST_SHOWN = 19
"""`sha256:` and twelve digits."""

IMAGE_COLUMNS: tuple[Column[Document], ...] = (
    Column("IMAGE", lambda image: image["reference"]),
    Column("SIZE", lambda image: size(image["size_bytes"])),
    Column("MACHINE", lambda image: image["architecture"]),
    Column("DIGEST", lambda image: image["digest"][:_DIGEST_SHOWN]),
    Column("FULL DIGEST", lambda image: image["digest"], wide=True),
)


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak worker`."""
    actions = parser.add_subparsers(metavar="ACTION")
    ls = actions.add_parser("ls", aliases=["list"], help="list workers; -o wide tells all they have")
    ls.add_argument("--cluster", metavar="CLUSTER", help="only workers of this one")
    options.prints(ls, watch=True)
    options.asks_root(ls)
    ls.set_defaults(run=run_ls)
    image = actions.add_parser("image", help="look after the images on this machine's worker")
    _build_image(image.add_subparsers(metavar="ACTION"))
    upkeep.build_machines(actions, "worker")
    tiers.build_worker(actions)


def _build_image(actions: Any) -> None:
    load = actions.add_parser("load", help="take an image from an archive of docker save, or an OCI archive")
    load.add_argument("file", metavar="FILE", type=Path, help="a .tar, also compressed")
    load.set_defaults(run=run_load)
    ls = actions.add_parser("ls", aliases=["list"], help="list the images that are here")
    ls.set_defaults(run=run_images)
    rm = actions.add_parser("rm", aliases=["delete"], help="forget an image")
    rm.add_argument("reference", metavar="IMAGE", help="as `oak worker image ls` shows it")
    rm.set_defaults(run=run_rm)
    for action in (load, ls, rm):
        if action is not rm:
            options.prints(action)
        action.add_argument(
            "--installation", metavar="NAME", help="which of several installations on this machine"
        )


def run_ls(args: argparse.Namespace) -> int:
    """List workers."""
    root = session.connect(args)
    return output.present(args, lambda: workers(root, args.cluster))


def workers(root: Root, cluster: str | None) -> Shown:
    """Return all workers, or those of one cluster."""
    found = root.get("/api/v1/workers/")
    if cluster is not None:
        wanted = names.cluster(root.get("/api/v1/clusters/"), cluster)
        found = [worker for worker in found if worker["cluster_id"] == wanted["id"]]
    return Shown(
        document=found,
        text=lambda style: style.table(WORKER_COLUMNS, found),
        nothing="no worker has joined; start one: oak worker join CLUSTER",
    )


# --- images on this machine --------------------------------------------------------------------------------------


def run_load(args: argparse.Namespace) -> int:
    """Take an image from a file."""
    if not args.file.is_file():
        raise NotFound(f"there is no file {args.file}; `docker save IMAGE -o FILE` makes one")
    image: Document | None = None
    for item in _ask(args, "image_load", {"path": str(args.file.resolve())}):
        image = item.get("image", image)
        if "total" in item:
            _tell_progress(args.file.name, item["done"], item["total"])
    if image is None:
        raise Invalid(f"the worker did not say what it found in {args.file}; look into its log")
    shown = Shown(document=image, text=lambda _style: _loaded(image))
    return output.present(args, lambda: shown)


def run_images(args: argparse.Namespace) -> int:
    """List the images of this machine's worker."""
    images = [item["image"] for item in _ask(args, "image_ls", {})]
    images.sort(key=lambda image: str(image["reference"]))
    shown = Shown(
        document=images,
        text=lambda style: style.table(IMAGE_COLUMNS, images),
        nothing="no image is here; `oak worker image load FILE` brings one",
    )
    return output.present(args, lambda: shown)


def run_rm(args: argparse.Namespace) -> int:
    """Forget an image."""
    for _ in _ask(args, "image_rm", {"reference": args.reference}):
        pass
    print(f"{args.reference} removed")
    return DONE


def _ask(args: argparse.Namespace, method: str, arguments: Mapping[str, Any]) -> Iterable[dict[str, Any]]:
    from oakestra.transport.local import call  # slow to import, as it serves too

    name = args.installation or config.environment().installation or DEFAULT
    return call(Installation(name).runtime / "worker" / "worker.sock", method, arguments, timeout_s=QUIET_S)


def _loaded(image: Document) -> str:
    return f"{image['reference']} loaded ({size(image['size_bytes'])}, {image['architecture']})"


def _tell_progress(name: str, done: int, total: int) -> None:
    """Show on a terminal how far it is; the line is gone at the end."""
    if not sys.stderr.isatty():
        return
    line = "" if done >= total else f"{name}: {percent(done / total)} of {size(total)}"
    print(f"\r\x1b[K{line}", end="", file=sys.stderr, flush=True)
