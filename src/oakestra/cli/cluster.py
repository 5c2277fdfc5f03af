"""`oak cluster`: list and show clusters; run one on this machine."""

from __future__ import annotations

import argparse

from oakestra.cli import tiers


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the actions of `oak cluster`."""
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    tiers.build_cluster(actions)
