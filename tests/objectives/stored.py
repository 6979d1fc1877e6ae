"""Records as the token store gives them back, for objectives that keep more of a text than its tokens."""

from __future__ import annotations

import pathlib
from collections.abc import Sequence

import numpy as np

from jaxft.data.batches import Batch, StreamBatches
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import Record
from jaxft.objectives.objective import Objective


def stored(
    objective: Objective, rows: Sequence[Row], directory: pathlib.Path, fields=None
) -> tuple[list[Record], Batch]:
    """The records of all rows of a batch, and the batch."""
    store = open_or_build(directory, lambda: rows, fields or objective.fields, objective.tokenizer, "made")
    plan = plan_rows(
        store.lengths,
        objective.length,
        objective.longest,
        objective.room,
        pack=objective.pack,
        truncate=objective.truncate,
        overlap=objective.overlap,
    )
    batches = StreamBatches(
        store, plan, objective.make_row, len(plan), seed=0, shuffle=False, partner=objective.partner
    )
    return [record for row in batches.records(np.arange(len(plan))) for record in row], batches.padded_batch(0)
