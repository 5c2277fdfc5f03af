"""`oak supervise`: keep an installation's tiers running. Started by `oak up`; imports as little as it can."""

from __future__ import annotations

import argparse

from oakestra.cli import DONE
from oakestra.control import failpoints, logs
from oakestra.control.installation import DEFAULT, Installation
from oakestra.control.supervisor import Supervisor, programs_file


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument("--installation", default=DEFAULT, metavar="NAME")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Keep the tiers running until SIGTERM."""
    logs.configure()
    failpoints.heed_environment()
    home = Installation(args.installation)
    Supervisor(programs_file(home), home.runtime).run()
    return DONE
