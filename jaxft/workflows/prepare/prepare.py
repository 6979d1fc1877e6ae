"""Tokenizing all data of a recipe ahead of its training."""

from __future__ import annotations

import pathlib
import time
from collections.abc import Sequence
from typing import Any

from jaxft.data.preparing import Preparation
from jaxft.errors import RecipeError
from jaxft.parallel.platform import usable_cores
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import store_sources
from jaxft.workflows.assembly.stores import StoreSource


def prepare(
    recipe: str | pathlib.Path,
    overrides: Sequence[str] = (),
    workers: int | None = None,
    part: tuple[int, int] = (0, 1),
) -> list[dict[str, Any]]:
    """Builds the token stores of a recipe that are not there yet; a killed build goes on where it was.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: like `data.cache=DIRECTORY`.
      workers: processes that tokenize; one for each core where None.
      part: `(i, n)`: the share of the work that this machine does; with a cache that all see, the last one to finish
        joins the parts.

    Returns:
      For each store `source`, `directory`, `status` (`there already`, `prepared`, `waiting for other parts`), `rows`,
      `bad` (by reason), `records`, `tokens` and `seconds`.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    if not 0 <= part[0] < part[1]:
        raise RecipeError(f"--shard {part[0]}/{part[1]}: must be i/n with i from 0 to n - 1")
    if workers is not None and workers < 0:
        raise RecipeError(f"--workers {workers}: must not be negative")
    assembly = assemble(*load_recipe(recipe, overrides))
    count = usable_cores() if workers is None else workers
    how = Preparation(assembly.recipe.data.bad_rows, count, part)
    return [_prepared(source, how) for source in store_sources(assembly)]


def _prepared(source: StoreSource, how: Preparation) -> dict[str, Any]:
    started, there = time.monotonic(), source.exists
    whole = there or source.build(how)
    result: dict[str, Any] = {
        "source": source.where,
        "directory": str(source.directory),
        "status": "there already" if there else "prepared" if whole else "waiting for other parts",
    }
    if whole:
        store = source.open(how)
        tokens = int(store.lengths.sum(dtype="int64"))
        result |= {"rows": store.rows, "bad": store.bad, "records": len(store), "tokens": tokens}
        store.close()
    return {**result, "seconds": round(time.monotonic() - started, 2)}
