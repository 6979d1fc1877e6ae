"""What stands in the place of a tokenizer where a model reads images."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np

from jaxft.data.tokenizers.protocol import Part
from jaxft.data.tokenizers.template import own_template

ABSENT_FILE = "no_tokenizer.json"


class NoTokenizer:
    """Of a run whose model reads no text: every text is one token, so that whatever it names counts as one piece."""

    vocab_size = 1
    pad_id = 0
    unknown_id = None
    start_id = None
    separator_id = 0
    mask_id = None
    sentinel_ids: tuple[int, ...] = ()
    special_ids: frozenset[int] = frozenset()
    fingerprint = "none"
    chat_template = None
    token_names: Mapping[str, str] = MappingProxyType({})
    template = own_template(None, 0)
    is_generic = True

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """One id for each text, int32 `(1,)`."""
        return [np.zeros(1, np.int32) for _ in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """Nothing."""
        return ""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """An entry without text for each id."""
        return ["" for _ in ids]

    def is_continuation(self) -> np.ndarray:
        """Of the one id: no."""
        return np.zeros(1, bool)

    def encode_parts(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """One id for each text, none of which is learned."""
        return [(np.zeros(1, np.int32), np.zeros(1, bool)) for _ in texts]

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """One id for each text, which spells all of it."""
        return [(np.zeros(1, np.int32), np.array([[0, len(text)]], np.int32)) for text in texts]

    def save(self, directory: Path) -> None:
        """Writes the file by which `load_tokenizer` knows that there is none."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ABSENT_FILE).write_text("{}\n", encoding="utf-8")

    def export(self, directory: Path, token_types: bool = True) -> None:
        """Writes nothing: Hugging Face's models of images come without a tokenizer."""
