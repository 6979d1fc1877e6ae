"""What every pretraining objective learns from real text in a few hundred steps, beside guessing by frequency.

    python tests/benchmarks/objectives.py --data ../shared/data --steps 300

Trains a small model of the family that the objective is for, and prints held-out losses before and after, the loss of
the best guess that knows only how often each label occurs (of a constant guess where labels are not tokens), and the
metrics.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import tempfile
import time
from typing import Any

import numpy as np

from jaxft.data.batches import Batch
from jaxft.reporting.tables import text_table
from jaxft.reporting.writers import read_rows
from jaxft.workflows.assembly.batches import make_batches
from jaxft.workflows.assembly.evaluators import make_evaluators
from jaxft.workflows.assembly.trained_run import open_run
from jaxft.workflows.train.train import train

_SIZE = "max_length: 128, dropout: 0, attention_dropout: 0"
# A published shape made small.
_SMALL = f"embed_dim: 128, num_layers: 2, num_heads: 2, mlp_dim: 512, initializer_range: 0.06, {_SIZE}"
_ENCODER = f"{{preset: encoder-tiny, {_SIZE}}}"
_PAIRS = f"{{preset: encoder-tiny, token_types: 2, {_SIZE}}}"
_DECODER = f"{{preset: decoder-tiny, {_SIZE}}}"
_BOTH = f"{{preset: encoder-decoder-tiny, {_SIZE}}}"
_BART = f"{{preset: bart-base, num_decoder_layers: 2, {_SMALL}}}"
# Norms before the sub-layers, since a few hundred steps are few for norms after them.
_XLNET = f"{{preset: xlnet-base, norm_placement: pre, final_norm: true, {_SMALL}}}"
# Which tokens were replaced is learned slowly, since a generator leaves likely ones. Spelling is learned first: letters
# (and 60 sentinels), and rotary positions, by which neighbours are soon told from others.
_FINDER = f"{{preset: encoder-tiny, {_SIZE}}}"
_ELECTRA = f"{{preset: electra-small, embedding_dim: 64, {_SMALL.replace('num_heads: 2', 'num_heads: 4')}}}"


@dataclasses.dataclass(frozen=True)
class Case:
    """An objective and the model it trains; `metric` tells more than the loss.

    Where `steps` is given it takes at least so many, and `vocab_size` is of the English vocabulary.
    """

    name: str
    model: str
    objective: str
    metric: str = "accuracy"
    constant: float | None = None
    vocab_size: int = 8000
    steps: int = 0


_CASES = (
    Case("masked_lm", _ENCODER, "{kind: masked_lm, mask_rate: 0.3}"),
    Case("masked_lm, spans", _ENCODER, "{kind: masked_lm, mask_rate: 0.3, span_length: 3}"),
    Case("next_sentence", _PAIRS, "{kind: next_sentence, mask_rate: 0.3}", "pair_accuracy"),
    Case("sentence_order", _PAIRS, "{kind: sentence_order, mask_rate: 0.3}", "pair_accuracy"),
    Case("causal_lm", _DECODER, "{kind: causal_lm}", "bits_per_byte"),
    Case("prefix_lm", _DECODER, "{kind: prefix_lm}"),
    Case("span_corruption", _BOTH, "{kind: span_corruption}"),
    Case("mixture_of_denoisers", _BOTH, "{kind: mixture_of_denoisers}"),
    Case("text_infilling", _BART, "{kind: text_infilling}"),
    Case("permutation_lm", _XLNET, "{kind: permutation_lm}"),
    Case("replaced_token", _ELECTRA, "{kind: replaced_token}", "f1"),
    Case("replaced_token, found", _FINDER, "{kind: replaced_token}", "f1", vocab_size=180, steps=1000),
    Case("masked_next_token", _DECODER, "{kind: masked_next_token}"),
    Case(
        "contrastive", _ENCODER.replace("dropout: 0,", "dropout: 0.1,"), "{kind: contrastive, length: 64}",
        "uniformity", math.log(16),
    ),
)  # fmt: skip
_LANGUAGES = ("English", "Chinese")


def _texts(language: str, data: pathlib.Path, directory: pathlib.Path) -> None:
    """Writes `train.jsonl` and `heldout.jsonl`: addresses, or poems of which every twentieth is held out."""
    if language == "English":
        parts = [(data / f"lm/state_union_{part}.jsonl").read_text().splitlines() for part in ("train", "heldout")]
        parts[1] = parts[1][:3]
    else:
        lines = (data / "lm/tang_poems_zh.jsonl").read_text().splitlines()
        parts = [[line for i, line in enumerate(lines) if (i % 20 == 0) == held] for held in (False, True)]
    for name, part in zip(("train", "heldout"), parts, strict=True):
        (directory / f"{name}.jsonl").write_text("\n".join(part) + "\n", encoding="utf-8")


def _recipe(case: Case, language: str, options: argparse.Namespace) -> str:
    steps = max(case.steps, options.steps)
    start = f"""model: {case.model}
tokenizer: {{train: {{vocab_size: {case.vocab_size if language == "English" else 8000}, sentinels: 60}}}}"""
    if options.pretrained:
        start = f"model: {{pretrained: {options.pretrained}, dropout: 0, attention_dropout: 0}}"
    return f"""
name: objective
{start}
streams:
  text: {{source: {{jsonl: train.jsonl}}, objective: {case.objective}, batch_size: 16}}
evaluation:
  heldout: {{stream: text, source: {{jsonl: heldout.jsonl}}}}
optimizer: {{name: adamw, learning_rate: {options.learning_rate}, b2: 0.98}}
schedule: {{name: cosine, warmup: 0.1}}
training: {{steps: {steps}, evaluate_every: {steps}}}
"""


def _measure(case: Case, language: str, options: argparse.Namespace, directory: pathlib.Path) -> dict[str, Any]:
    _texts(language, pathlib.Path(options.data), directory)
    recipe = directory / "recipe.yaml"
    recipe.write_text(_recipe(case, language, options), encoding="utf-8")
    started = time.time()
    train(recipe, (), directory / "run", quiet=True)
    rows = [row for row in read_rows(directory / "run" / "metrics.jsonl") if row["kind"] == "evaluation"]
    loss = "masked_lm_loss" if "heldout.masked_lm_loss" in rows[0] else "loss"
    baseline = case.constant
    if case.name == "replaced_token":
        loss = "generator_loss"
    elif case.name == "replaced_token, found":
        # A constant guess knows how many tokens are replaced at the end.
        loss, share = "discriminator_loss", rows[-1]["heldout.replaced"]
        baseline = -share * math.log(share) - (1 - share) * math.log(1 - share)
    opened = open_run(directory / "run")
    if baseline is None:
        training, heldout = make_batches(opened.assembly)["text"], make_evaluators(opened.assembly)["heldout"].batches
        seen = [training.batch(step) for step in range(100)]
        left = [heldout.padded_batch(number) for number in range(heldout.final_batches())]
        baseline = _guess(seen, left, opened.assembly.tokenizer.vocab_size)
    return {
        "objective": case.name,
        "text": language,
        "before": rows[0][f"heldout.{loss}"],
        "after": rows[-1][f"heldout.{loss}"],
        "guess": baseline,
        "metric": f"{case.metric} {rows[-1][f'heldout.{case.metric}']:.3f}",
        "seconds": round(time.time() - started),
    }


def _guess(seen: list[Batch], heldout: list[Batch], vocab_size: int) -> float:
    """Loss, in nats, of the best guess that knows only how often each label occurs in training."""
    counts = np.ones(vocab_size)
    for batch in seen:
        np.add.at(counts, batch["labels"], batch["label_weights"])
    losses = -np.log(counts / counts.sum())
    weights = [batch["label_weights"] * batch["row_weight"][:, None] for batch in heldout]
    total = sum((losses[batch["labels"]] * weight).sum() for batch, weight in zip(heldout, weights, strict=True))
    return float(total / sum(weight.sum() for weight in weights))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="../shared/data", help="directory with lm/")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--pretrained", help="directory of a model to start from, in place of small new ones")
    parser.add_argument("--only", help="name of one objective")
    parser.add_argument("--text", choices=_LANGUAGES, nargs="*", default=_LANGUAGES)
    options = parser.parse_args()
    found = []
    for language in options.text:
        for case in _CASES:
            if options.only not in (None, case.name):
                continue
            with tempfile.TemporaryDirectory() as directory:
                found.append(_measure(case, language, options, pathlib.Path(directory)))
                print(json.dumps(found[-1]), flush=True)
    columns = list(found[0])
    print(text_table(columns, [[row[column] for column in columns] for row in found]))


if __name__ == "__main__":
    main()
