"""Whether transformers reads texts out of an exported directory as the model was trained to read them."""

from __future__ import annotations

import pathlib

import numpy as np

from jaxft.data.tokenizers import TextTemplate, Tokenizer
from jaxft.errors import CheckpointError, DataError

# Words, numbers, marks, space at edges, other scripts, what is composed, and what no vocabulary has.
_TEXTS = (
    "The quick brown fox, number 42, jumps over 3.14 lazy dogs!",
    "  space   before and after\t",
    "naïve café — “quoted” e-mail@example.org",
    "Ünïcödé ﬁne 汉字 かな кириллица ελληνικά",
    "🙂 \u200b x",
    "ALL CAPITALS and camelCase and snake_case",
)


def check_tokenizer(directory: pathlib.Path, tokenizer: Tokenizer, template: TextTemplate, pairs: bool) -> None:
    """Compares what transformers' tokenizer makes of texts with what the model was trained on.

    Args:
      directory: that was written.
      tokenizer: of the model.
      template: what stood around its texts.
      pairs: whether it reads two texts.

    Raises:
      CheckpointError: they differ; the text and the first place are named.
    """
    from transformers import AutoTokenizer  # takes seconds to import

    theirs = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    for text in _TEXTS:
        try:
            ids, other = tokenizer.encode([text, _TEXTS[0]])
        except DataError:  # one that no row of training can have either
            continue
        _check_same(directory, text, theirs(text)["input_ids"], template.wrap(ids))
        if pairs:
            _check_same(directory, text, theirs(text, _TEXTS[0])["input_ids"], template.row(ids, other)[0])


def _check_same(directory: pathlib.Path, text: str, theirs: list[int], ours: np.ndarray) -> None:
    if theirs == ours.tolist():
        return
    place = next((i for i, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), min(len(theirs), len(ours)))
    raise CheckpointError(
        f"{directory}: transformers reads {text!r} otherwise than this model was trained: token {place + 1} is "
        f"{[*theirs, None][place]} there and {[*ours.tolist(), None][place]} here ({len(theirs)} tokens, {len(ours)})"
    )
