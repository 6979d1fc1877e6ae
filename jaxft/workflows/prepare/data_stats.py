"""Numbers about the data of a recipe: lengths, packing, shares, duplicates, scripts, bad rows."""

from __future__ import annotations

import hashlib
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxft.data.packing import RowPlan
from jaxft.data.preparing import Preparation
from jaxft.data.scripts import shares_of_scripts
from jaxft.data.store import TOKENS, TokenStore
from jaxft.data.tokenizers import Tokenizer
from jaxft.data.windows import WindowedPlan
from jaxft.objectives.objective import Objective
from jaxft.recipe.library import load_recipe
from jaxft.reporting.lengths_plot import plot_lengths
from jaxft.reporting.reading import Reading
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, store_sources, total_steps, with_rows_of_shares
from jaxft.workflows.assembly.parts import Assembly
from jaxft.workflows.assembly.stores import StoreSource, plan

_SAMPLE = 2000
_BLOCK = 10_000


def data_stats(
    recipe: str | pathlib.Path, overrides: Sequence[str] = (), picture: str | pathlib.Path | None = None
) -> dict[str, Any]:
    """Numbers about every store of a recipe, and about each stream's share of a step.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: of the recipe.
      picture: where to draw the histograms of lengths, a PNG, or None.

    Returns:
      `stores`: for each `source`, `rows`, `bad` (by reason), `records`, `tokens`, `lengths` (minimum, median, mean,
      95th percentile, maximum), `packed_rows`, `fill` (share of the places that hold text), `cut` (texts too long),
      `split` (texts in several pieces), `duplicates` (records that repeat an earlier one), `unknown` (share of unknown
      tokens) and `scripts` (share of the known letters, by script) of a sample. `streams`: for each `name`,
      `rows_per_step`, `share_of_rows`, and `epochs` over the run.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    assembly = assemble(*load_recipe(recipe, overrides))
    how = Preparation(assembly.recipe.data.bad_rows)
    stores, lengths = [], {}
    for source in store_sources(assembly):
        store = source.open(how)
        stores.append(_of_store(source, store, assembly.tokenizer))
        lengths[source.where] = np.asarray(store.lengths)
    if picture is not None:
        plot_lengths(lengths, picture)
    return {"stores": stores, "streams": _of_streams(with_rows_of_shares(assembly))}


def _of_store(source: StoreSource, store: TokenStore, tokenizer: Tokenizer) -> dict[str, Any]:
    lengths, objective = store.lengths, source.objective
    rows = plan(source.where, store, objective, seed=0)
    quantiles = np.percentile(lengths, (0, 50, 95, 100))
    return {
        "source": source.where,
        "rows": store.rows,
        "bad": store.bad,
        "records": len(store),
        "tokens": int(lengths.sum(dtype=np.int64)),
        "lengths": {
            "minimum": int(quantiles[0]),
            "median": float(quantiles[1]),
            "mean": float(lengths.mean()),
            "95%": float(quantiles[2]),
            "maximum": int(quantiles[3]),
        },
        "packed_rows": len(rows),
        "fill": rows.fill if isinstance(rows, WindowedPlan) else _fill(rows, objective),
        "cut": int((lengths > objective.longest).sum()) if objective.truncate else 0,
        "split": 0 if objective.truncate else int((lengths > objective.longest).sum()),
        "duplicates": _duplicates(store, source.where),
        **_of_sample(store, tokenizer),
    }


def _fill(rows: RowPlan, objective: Objective) -> float:
    """Share of all places of rows that pieces take, special tokens among them."""
    return float(objective.room(rows.lengths).sum() / (len(rows) * objective.length))


def _duplicates(store: TokenStore, where: str) -> int:
    """Records whose tokens are those of an earlier one."""
    seen: set[bytes] = set()
    with Reading(f"{where}, looking for duplicates", rows=len(store)) as reading:
        for start in range(0, len(store), _BLOCK):
            records = store.read(list(range(start, min(start + _BLOCK, len(store)))))
            seen.update(_digest(record[TOKENS]) for record in records)
            reading.add_rows(len(records))
    return len(store) - len(seen)


def _digest(tokens: np.ndarray) -> bytes:
    return hashlib.blake2b(tokens.tobytes(), digest_size=12).digest()


def _of_sample(store: TokenStore, tokenizer: Tokenizer) -> dict[str, Any]:
    """Unknown tokens and scripts of records that are evenly spread over the store."""
    chosen = np.unique(np.linspace(0, len(store) - 1, min(_SAMPLE, len(store))).astype(int))
    tokens = np.concatenate([record[TOKENS] for record in store.read(chosen.tolist())])
    unknown = 0.0 if tokenizer.unknown_id is None else float((tokens == tokenizer.unknown_id).mean())
    # Spelled out, the unknown token would count as letters.
    known = tokens[tokens != tokenizer.unknown_id]
    return {"unknown": unknown, "scripts": shares_of_scripts(tokenizer.decode(known.tolist()))}


def _of_streams(assembly: Assembly) -> list[dict[str, Any]]:
    batches = make_batches(assembly)
    steps, all_rows = total_steps(assembly, batches), sum(own.batch_size for own in batches.values())
    return [
        {
            "name": name,
            "rows_per_step": own.batch_size,
            "share_of_rows": own.batch_size / all_rows,
            "epochs": steps * own.batch_size / own.rows,
        }
        for name, own in batches.items()
    ]
