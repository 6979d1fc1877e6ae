"""The verb `plan`: its options, what it calls and prints."""

from __future__ import annotations

import argparse
import json


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of `jaxft plan` beside the recipe and its overrides."""
    parser.add_argument(
        "--topology", required=True, help="a kind and a number of chips or a shape: v5e-256, v5p:4x4x8, h100-8 ..."
    )
    parser.add_argument("--slices", type=int, default=1, help="TPU slices of that topology (default: %(default)s)")
    parser.add_argument("--price-per-hour", type=float, metavar="PRICE", help="of one chip, in any currency")
    parser.add_argument("--parameters", action="store_true", help="list every parameter and how it is split")
    parser.add_argument("--no-compile", action="store_true", help="formulas alone")
    parser.add_argument("--again", action="store_true", help="compile also where the answer is remembered")
    parser.add_argument(
        "--search", action="store_true", help="look for the mesh, micro-batches and remat policy that run best"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of text")


def plan(options: argparse.Namespace) -> None:
    """`jaxft plan`"""
    from jaxft.workflows.plan.plan import plan
    from jaxft.workflows.plan.report import plan_text
    from jaxft.workflows.plan.search import search

    found = (search if options.search else plan)(
        options.recipe,
        options.overrides,
        topology=options.topology,
        slices=options.slices,
        compile=not options.no_compile,
        again=options.again,
        price_per_hour=options.price_per_hour,
    )
    print(json.dumps(found, indent=2) if options.json else plan_text(found, options.parameters))
