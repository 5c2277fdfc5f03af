"""`oak sim`: a whole fleet in virtual time, on this machine, without root rights."""

from __future__ import annotations

import argparse


def build(parser: argparse.ArgumentParser) -> None:
    """Describe `oak sim`."""
    verbs = parser.add_subparsers(metavar="WHAT", required=True)
    seed = verbs.add_parser(
        "seed",
        help="play a random fleet with random faults, and check that it heals",
        description="Play a random fleet with random faults. The same seed gives the same story, on any machine.",
    )
    seed.add_argument("seed", metavar="SEED", type=int, help="which one")
    seed.add_argument("--count", type=int, default=1, metavar="K", help="play so many seeds, from SEED on")
    seed.add_argument("--story", action="store_true", help="print everything that happens")
    seed.set_defaults(run=play)


def play(args: argparse.Namespace) -> int:
    """Play seeds; tell what went wrong, and how to see it again."""
    from oakestra.simulation import seeds

    red = 0
    for seed in range(args.seed, args.seed + args.count):
        played = seeds.play(seed)
        if args.story:
            print("\n".join(played.story))
        print(played.summary, flush=True)
        red += bool(played.wrong)
    return 1 if red else 0
