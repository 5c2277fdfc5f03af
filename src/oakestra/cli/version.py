"""`oak version`: which versions speak to each other."""

from __future__ import annotations

import argparse
import platform

from oakestra import __version__
from oakestra.cli import config, options
from oakestra.cli.client import Root, session
from oakestra.cli.show import output
from oakestra.cli.show.output import Shown
from oakestra.cli.show.table import facts
from oakestra.model.errors import OakestraError

ANSWER_S = 3.0


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak version`."""
    options.prints(parser)
    options.asks_root(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Tell this command's version, and root's if it answers."""
    url = session.address(args, config.environment())
    try:
        root = str(Root(url, None, timeout_s=ANSWER_S).get("/status")["version"])
    except OakestraError:
        root = ""
    versions = {
        "oak": __version__,
        "root": root or None,
        "root_address": url,
        "python": platform.python_version(),
    }
    said = f"{root} at {url}" if root else f"does not answer at {url}"
    text = facts([("oak", __version__), ("root", said), ("python", versions["python"] or "")])
    shown = Shown(document=versions, text=lambda _style: text)
    return output.present(args, lambda: shown)
