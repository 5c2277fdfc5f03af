"""`oak worker`: list workers and the images of this machine's; run one on this machine."""

from __future__ import annotations

import argparse

from oakestra.cli import tiers


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak worker`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    tiers.build_worker(actions)
