"""The options of every run, on one machine or on several hosts; loads nothing of the product."""

import argparse


def add_options(parser: argparse.ArgumentParser, *, minutes: int) -> None:
    """`minutes` is how long a run takes by default."""
    parser.add_argument("--seed", type=int, default=1, help="Which run (1).")
    parser.add_argument(
        "--minutes",
        type=float,
        default=float(minutes),
        help=f"How long to break things ({minutes}).",
    )
    parser.add_argument("--json", help="File to write the figures to.")
    parser.add_argument(
        "--faults", default="", help="The kinds of faults, comma-separated; all by default."
    )
