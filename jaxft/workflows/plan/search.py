"""Searching for the mesh, the parts of a batch and of the loss, and the remat policy with which a recipe runs best."""

from __future__ import annotations

import pathlib
from collections.abc import Iterator, Sequence
from typing import Any

from jaxft.errors import RecipeError
from jaxft.planning.topology import GIB, parse_topology
from jaxft.recipe.library import load_recipe
from jaxft.workflows.plan.candidates import Candidate, candidates
from jaxft.workflows.plan.compilation import compiled
from jaxft.workflows.plan.plan import told

# A formula may overstate memory by as much; what is still larger is not compiled.
_SLACK = 1.5


def search(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    *,
    topology: str,
    slices: int = 1,
    compile: bool = True,
    again: bool = False,
    price_per_hour: float | None = None,
    tries: int = 3,
) -> dict[str, Any]:
    """The plan of the mesh, micro-batches and remat policy with the best estimate of those that fit.

    All are judged by formula, then the best few are compiled. The batch of a step stays as it is, and the loss has more
    parts only where it would not fit without.

    Args:
      tries: how many are compiled at most.
      recipe, overrides, topology, slices, compile, again, price_per_hour: as of `jaxft.workflows.plan.plan.plan`.

    Returns:
      As `plan`, with the `overrides` to give to `jaxft train`, and the `candidates` that were looked at, by formula.

    Raises:
      RecipeError: nothing fits, or the recipe is wrong.
    """
    parsed, document = load_recipe(recipe, overrides)
    place = parse_topology(topology, slices)
    found = sorted(candidates(parsed, document, place), key=lambda one: one.sketch.estimate.step)
    if not found:
        raise RecipeError(f"no mesh of {place.devices} devices divides the batches and parameters of {parsed.name}")
    judged = _Judged(found, tries, 1 / _SLACK if compile and place.compiles else 1.0)
    plans = []
    for one in judged:
        answer = compiled(recipe, [*overrides, *one.overrides], place, again) if compile and place.compiles else None
        plans.append({**told(one.sketch, answer, price_per_hour), "overrides": list(one.overrides)})
        judged.judge(plans[-1])
    fitting = [one for one in plans if one["fits"]]
    if not fitting:
        least = min(found, key=lambda one: one.sketch.memory.total)
        sizes = f"{least.sketch.memory.total / GIB:.2f} of {place.chip.hbm_bytes / GIB:.2f} GiB"
        raise RecipeError(
            f"{parsed.name} does not fit {place.name}: of {len(found)} ways the smallest needs about "
            f"{sizes}, with {' '.join(least.overrides)}; "
            "take more devices or a smaller batch"
        )
    best = min(fitting, key=lambda one: one["estimated_step_seconds"])
    rows = [
        {
            "overrides": list(one.overrides),
            "bytes_per_device": one.sketch.memory.total,
            "estimated_step_seconds": one.sketch.estimate.step,
        }
        for one in found
    ]
    return {**best, "candidates": rows}


class _Judged:
    """Candidates to look at more closely, the best by formula first, those left out that lack memory.

    Of every mesh at most two, as neighbours differ little. What lacks memory says how far the formula falls short, and
    does not count before something fits.

    Attributes:
      found: all candidates, the best first.
      tries: how many are looked at, twice as many where none of them fits.
      share: of a formula's bytes that are at least needed, as far as is known.
    """

    def __init__(self, found: list[Candidate], tries: int, share: float):
        self._found, self._tries, self._share = found, tries, share
        self._fits = False

    def judge(self, plan: dict[str, Any]) -> None:
        """Takes notice of what a closer look at the last candidate has shown."""
        self._fits |= plan["fits"]
        if not plan["fits"]:
            self._share = max(self._share, plan["bytes_per_device"] / plan["memory_by_formula"]["total"])

    def __iter__(self) -> Iterator[Candidate]:
        taken: list[Candidate] = []
        for one in self._found:
            if len(taken) >= self._tries * (1 if self._fits else 2):
                return
            likely = one.sketch.memory.total * self._share <= one.sketch.topology.chip.hbm_bytes
            if likely and sum(other.overrides[:3] == one.overrides[:3] for other in taken) < 2:
                taken.append(one)
                yield one
