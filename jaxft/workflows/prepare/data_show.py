"""What the model sees: decoded rows of every stream."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxft.data.batches import Batch
from jaxft.data.tokenizers import Tokenizer
from jaxft.objectives.objective import Objective
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches, with_rows_of_shares


@dataclasses.dataclass(frozen=True)
class Token:
    """A token of a row.

    Attributes:
      text: as the model reads it.
      segment: number of its document in the row.
      special: whether it is no text.
      predicted: whether it is what the model has to predict, from what stands before it.
      target: what has to be predicted in its place, or None.
    """

    text: str
    segment: int
    special: bool
    predicted: bool = False
    target: str | None = None


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
            shown.append({"stream": name, "row": number, **_decoded(row, objective, assembly.tokenizer)})
    return shown


def _decoded(row: Batch, objective: Objective, tokenizer: Tokenizer) -> dict[str, Any]:
    if "pixels" in row:
        parts = {}
    elif row["token_ids"].ndim == 2:  # two sentences side by side
        sides = ({key: row[key][number] for key in ("token_ids", "segment_ids")} for number in (0, 1))
        parts = {f"input {number}": _tokens(side, tokenizer) for number, side in enumerate(sides, 1)}
    elif "target_token_ids" in row:
        target = {"token_ids": row["labels"], "segment_ids": row["target_segment_ids"]}
        counts = row["label_weights"] > 0
        parts = {"input": _tokens(row, tokenizer), "target": _tokens(target, tokenizer, predicted=counts)}
    elif "tags" in row:
        parts = {"input": _with_tags(row, objective, tokenizer)}
    elif "eligible" in row:
        places = np.arange(len(row["token_ids"]))
        answer = (row["start"] > 0) & (row["start"] <= places) & (places <= row["end"])
        parts = {"input": _tokens(row, tokenizer, predicted=answer)}
    elif "gather" in row:
        parts = {"input": _tokens(row, tokenizer, _targets(row))}
    elif "labels" in row:
        parts = {"input": _with_next(row, tokenizer)}
    else:
        parts = {"input": _tokens(row, tokenizer)}
    if "label" not in row:
        return {"parts": parts}
    number = int(row["label"])
    return {"parts": parts, "label": objective.labels[number] if objective.labels else number}


def _with_tags(row: Batch, objective: Objective, tokenizer: Tokenizer) -> list[Token]:
    """Tokens of which some have a tag."""
    said = [
        objective.labels[tag] if weight > 0 else None
        for tag, weight in zip(row["tags"], row["tag_weights"], strict=True)
    ]
    tokens = _tokens(row, tokenizer)  # padding, which comes last, is not among them
    return [dataclasses.replace(token, target=tag) for token, tag in zip(tokens, said, strict=False)]


def _targets(row: Batch) -> dict[int, int]:
    """Place and id of every token that is to be predicted in its place."""
    used = np.flatnonzero(row["label_weights"] > 0)
    return dict(zip(row["gather"][used].tolist(), row["labels"][used].tolist(), strict=True))


def _with_next(row: Batch, tokenizer: Tokenizer) -> list[Token]:
    """Tokens of which each is predicted from those before it, with the ends of documents, which are predicted alone."""
    counts, labels = row["label_weights"] > 0, row["labels"]
    predicted = np.concatenate([[False], counts[:-1]])
    tokens = _tokens(row, tokenizer, predicted=predicted & (np.roll(labels, 1) == row["token_ids"]))
    segments, out = row["segment_ids"], []
    for place, token in enumerate(tokens):
        out.append(token)
        last = place + 1 == len(segments) or segments[place + 1] != segments[place]
        if last and counts[place]:
            (end,) = tokenizer.tokens([int(labels[place])])
            out.append(Token(end, token.segment, True, predicted=True))
    return out


def _tokens(
    side: Mapping[str, np.ndarray], tokenizer: Tokenizer, targets: Mapping[int, int] | None = None, predicted=None
) -> list[Token]:
    ids, segments = side["token_ids"].tolist(), side["segment_ids"].tolist()
    texts = tokenizer.tokens(ids)
    wanted = dict(zip(targets or {}, tokenizer.tokens((targets or {}).values()), strict=True))
    return [
        Token(
            text,
            segment,
            number in tokenizer.special_ids,
            predicted is not None and bool(predicted[place]),
            wanted.get(place),
        )
        for place, (text, number, segment) in enumerate(zip(texts, ids, segments, strict=True))
        if segment > 0
    ]


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


def _line(tokens: list[Token], colour: bool) -> str:
    said, segment, inside = [], 1, False
    for token in tokens:
        if inside and not (token.predicted and token.segment == segment):
            said[-1] += "" if colour else "»"
            inside = False
        if token.segment != segment:
            said.append("┃")
            segment = token.segment
        text = token.text.replace("\n", "⏎") + ("" if token.target is None else f"→{token.target}")
        if token.predicted and not inside:
            text, inside = text if colour else f"«{text}", True
        code = "32;1" if token.predicted or token.target is not None else "2" if token.special else ""
        said.append(f"\033[{code}m{text}\033[0m" if colour and code else text)
    return " ".join(said) + ("»" if inside and not colour else "")
