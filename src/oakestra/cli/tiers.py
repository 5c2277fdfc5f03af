"""Start and join tiers on this machine: `oak root start`, `oak cluster start|join`, `oak worker start|join`."""

from __future__ import annotations

import argparse
from typing import Any

Actions = Any
"""What `ArgumentParser.add_subparsers` returns; argparse gives its type no public name."""


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak root`."""
    parser.add_subparsers(metavar="ACTION", required=True)


def build_cluster(actions: Actions) -> None:
    """Describe the actions of `oak cluster` that run a cluster on this machine."""
    del actions


def build_worker(actions: Actions) -> None:
    """Describe the actions of `oak worker` that run a worker on this machine."""
    del actions
