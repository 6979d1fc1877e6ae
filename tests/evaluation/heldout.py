"""A tiny tokenizer, texts and batches of them, all of them the real thing."""

from __future__ import annotations

import pathlib

import numpy as np
from tokenizers import Tokenizer as Trained
from tokenizers import models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from jaxft.data.batches import StreamBatches
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.tokenizers import Tokenizer, load_tokenizer
from jaxft.objectives.objective import Objective

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
WORDS = ["good", "bad", "film", "plot", "very", "not", "the", "a", "of", "and", "dull", "fine"]
LABELS = ("negative", "neutral", "positive")


def make_tokenizer(directory: pathlib.Path) -> Tokenizer:
    """A word tokenizer of Hugging Face's, written and read back."""
    trained = Trained(models.WordLevel({word: i for i, word in enumerate(SPECIAL + WORDS)}, "[UNK]"))
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    names = dict(zip(("pad_token", "unk_token", "cls_token", "sep_token", "mask_token"), SPECIAL, strict=True))
    PreTrainedTokenizerFast(tokenizer_object=trained, **names).save_pretrained(directory)
    return load_tokenizer(directory)


def make_rows(count: int, seed: int = 0) -> list[Row]:
    """Texts of one to nine words with labels, unevenly many of each."""
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(count):
        text = " ".join(generator.choice(WORDS, generator.integers(1, 10)))
        label = str(generator.choice(LABELS, p=[0.2, 0.25, 0.55]))
        rows.append(Row({"text": text, "label": label}, f"made:{number}"))
    return rows


def make_stream(
    objective: Objective, tokenizer: Tokenizer, rows: list[Row], directory: pathlib.Path, batch_size: int
) -> StreamBatches:
    """Unshuffled batches of these rows."""
    store = open_or_build(directory, lambda: rows, objective.fields, tokenizer, "made")
    plan = plan_rows(
        store.lengths,
        objective.length,
        objective.longest,
        objective.room,
        pack=objective.pack,
        truncate=objective.truncate,
    )
    return StreamBatches(store, plan, objective.make_row, batch_size, seed=0, shuffle=False, partner=objective.partner)
