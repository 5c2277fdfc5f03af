"""`oak doctor`: for each tier, what is missing on this machine, what it means, and what to type."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from oakestra.cli import DONE, FAILED, config, tiers
from oakestra.cli.doctor import running
from oakestra.cli.doctor.finding import Diagnosis, Finding, document, has_problems, problem, render
from oakestra.cli.installation import flags_of
from oakestra.cli.keeping.programs import TIERS
from oakestra.cli.show.output import rendered
from oakestra.control import processes
from oakestra.control.installation import DEFAULT, Installation
from oakestra.model.errors import Invalid


def build(parser: argparse.ArgumentParser) -> None:
    """Describe the command."""
    parser.add_argument(
        "tier",
        metavar="TIER",
        nargs="?",
        choices=TIERS,
        help="root, cluster or worker; those of this machine unless told otherwise",
    )
    parser.add_argument(
        "--installation",
        metavar="NAME",
        help="which of several installations on this machine",
    )
    parser.add_argument(
        "-o",
        "--output",
        metavar="FORMAT",
        choices=("table", "json", "yaml"),
        default="table",
        help="table (the default), json or yaml",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look at everything; exit with 1 if something keeps a tier from its work."""
    installation = args.installation or config.environment().installation or DEFAULT
    known = started(installation)
    chosen = (args.tier,) if args.tier else tuple(known) or TIERS
    diagnosis = {tier: tuple(examine(tier, installation, known.get(tier))) for tier in chosen}
    tell(diagnosis, args.output)
    return FAILED if has_problems(diagnosis) else DONE


def started(installation: str) -> Mapping[str, Mapping[str, Any]]:
    """Return the settings of every tier that was started: as it was with `oak up`, or as it runs now."""
    kept = flags_of(Installation(installation))
    seen = {tier: kept.get(tier) or running.settings_of(tier, installation) for tier in TIERS}
    return {tier: settings for tier, settings in seen.items() if settings is not None}


def examine(
    tier: str,
    installation: str,
    known: Mapping[str, Any] | None,
    *,
    path: str = processes.PATH,
) -> Iterator[Finding]:
    """Yield what is found for one tier, with programs looked for in `path`.

    `known` are the settings that it was started with; None: it never was. What cannot be used of them is all that is
    found then.
    """
    try:
        settings = tiers.read_configuration(tier, {"installation": installation, **(known or {})})
    except Invalid as error:
        what, _, mistakes = str(error).partition("\n")
        file = Installation(installation).configuration(tier)
        yield problem(
            f"{what} {' '.join(mistakes.split())}", "the tier does not start", f"sudo editor {file}"
        )
        return
    yield from _examine(tier, settings, installed=known is not None, path=path)


def _examine(tier: str, settings: Any, *, installed: bool, path: str) -> Iterator[Finding]:
    match tier:
        case "root":
            from oakestra.cli.doctor import gather, root

            return root.judge(gather.root_facts(settings, installed=installed))
        case "cluster":
            from oakestra.cli.doctor import cluster, gather

            return cluster.judge(gather.cluster_facts(settings, installed=installed, path=path))
        case _:
            from oakestra.cli.doctor import gather_worker, worker

            return worker.judge(gather_worker.worker_facts(settings, installed=installed, path=path))


def tell(diagnosis: Diagnosis, output: str) -> None:
    """Print what was found."""
    if output == "table":
        print(render(diagnosis, coloured=sys.stdout.isatty() and config.colours_wanted()))
    else:
        print(rendered(output, document(diagnosis)).rstrip("\n"))
