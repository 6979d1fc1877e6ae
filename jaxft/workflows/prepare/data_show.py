"""What the model sees: decoded rows of every stream."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

from jaxft.objectives.shown import ShownRow, ShownToken
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, with_rows_of_shares


def show_data(
    recipe: str | pathlib.Path, overrides: Sequence[str] = (), rows: int = 2, step: int = 0
) -> list[dict[str, Any]]:
    """The first rows of every stream's batch of a step, decoded.

    Args:
      recipe: a file, or the name of a recipe that comes with jaxft.
      overrides: of the recipe.
      rows: of each stream.
      step: whose batch.

    Returns:
      For each row `stream`, `row`, `parts`: for `input` and, in an encoder-decoder, `target`, the tokens; and
      `label` of a classifier.

    Raises:
      JaxftError: see `jaxft.errors`.
    """
    assembly = with_rows_of_shares(assemble(*load_recipe(recipe, overrides)))
    shown = []
    for name, batches in make_batches(assembly).items():
        batch, objective = batches.batch(step), assembly.objectives[name]
        for number in range(min(rows, batches.batch_size)):
            row = {key: values[number] for key, values in batch.items()}
            shown.append({"stream": name, "row": number, **_as_dict(objective.shown(row))})
    return shown


def _as_dict(shown: ShownRow) -> dict[str, Any]:
    return {"parts": shown.parts} if shown.label is None else {"parts": shown.parts, "label": shown.label}


def as_json(shown: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The same with plain mappings for tokens."""
    return [
        {
            **row,
            "parts": {name: [dataclasses.asdict(token) for token in tokens] for name, tokens in row["parts"].items()},
        }
        for row in shown
    ]


def rows_text(shown: list[dict[str, Any]], colour: bool) -> str:
    """Rows as text.

    Documents of a row stand apart by `┃`. What is predicted is green, or stands between `«` and `»`; a token that is
    predicted in the place of another one is `read→target`. Special tokens are dim.
    """
    lines = []
    for row in shown:
        label = f"  label: {row['label']}" if "label" in row else ""
        lines.append(f"{row['stream']}, row {row['row']}{label}")
        for name, tokens in row["parts"].items():
            lines.append(f"  {name}: {_line(tokens, colour)}")
        lines.append("")
    return "\n".join(lines).rstrip()


def _line(tokens: list[ShownToken], colour: bool) -> str:
    words: list[str] = []
    segment, inside = 1, False
    for token in tokens:
        if inside and not (token.predicted and token.segment == segment):
            words[-1] += "" if colour else "»"
            inside = False
        if token.segment != segment:
            words.append("┃")
            segment = token.segment
        text = token.text.replace("\n", "⏎") + ("" if token.target is None else f"→{token.target}")
        if token.predicted and not inside:
            text, inside = text if colour else f"«{text}", True
        code = "32;1" if token.predicted or token.target is not None else "2" if token.special else ""
        words.append(f"\033[{code}m{text}\033[0m" if colour and code else text)
    return " ".join(words) + ("»" if inside and not colour else "")
