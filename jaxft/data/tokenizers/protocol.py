"""What every tokenizer offers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from jaxft.data.tokenizers.template import TextTemplate

# As transformers names the file of a tokenizer's chat template.
CHAT_TEMPLATE_FILE = "chat_template.jinja"


@dataclass(frozen=True)
class Part:
    """A part of a text that a template has written around texts of others.

    Attributes:
      text: may be empty.
      template: whether the template wrote it, so that a special token which it spells is that token.
      learned: whether a model learns to write it.
    """

    text: str
    template: bool = False
    learned: bool = False


class Tokenizer(Protocol):
    """Text to ids and back. Ids are in ``[0, vocab_size)``.

    Attributes:
      vocab_size: number of ids, which an embedding table must hold.
      pad_id: fills what is not text; where a tokenizer has none, its ``separator_id``.
      unknown_id: stands for what the vocabulary can't express; None where it can express everything.
      start_id: CLS or BOS; None where a tokenizer has none.
      separator_id: SEP or EOS.
      mask_id: stands for a masked token; None where a tokenizer has none.
      sentinel_ids: ids that stand for spans of a corrupted text (T5's <extra_id_0>, <extra_id_1>, ...), in order.
      special_ids: all ids that are no text, these and others.
      fingerprint: SHA-256 (hexadecimal) of the files that define the ids.
      chat_template: of Jinja, with which the model that the tokenizer belongs to was trained; None where it has none.
      token_names: special tokens by the names that chat templates know them by (``bos_token``, ...).
      template: what stands around texts.
      is_generic: whether nothing but its own files says what stands around texts, so that an export may write others.
    """

    @property
    def vocab_size(self) -> int: ...
    @property
    def pad_id(self) -> int: ...
    @property
    def unknown_id(self) -> int | None: ...
    @property
    def start_id(self) -> int | None: ...
    @property
    def separator_id(self) -> int: ...
    @property
    def mask_id(self) -> int | None: ...
    @property
    def sentinel_ids(self) -> tuple[int, ...]: ...
    @property
    def special_ids(self) -> frozenset[int]: ...
    @property
    def fingerprint(self) -> str: ...
    @property
    def chat_template(self) -> str | None: ...
    @property
    def token_names(self) -> Mapping[str, str]: ...
    @property
    def template(self) -> TextTemplate: ...
    @property
    def is_generic(self) -> bool: ...

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Ids of each text, int32 (length,), uncut and with no special ids around them.

        Text is only text: one that spells a special token ("[MASK]") never gives that token's id. The one special
        id that occurs is ``unknown_id``.
        """

    def encode_parts(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Ids of texts that are given in parts, int32 (length,), and which of them are learned, bool (length,).

        The parts of a text are encoded as one, as transformers encodes what a chat template renders: a token may reach
        over the edge of a part. It is learned where any of its characters is. Special tokens are found in what a
        template wrote, and never in other parts.
        """

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """As ``encode``, with where each token stands in its text.

        Returns:
          For each text the ids and spans, int32 (length, 2): first character and one past the last, counted in the text
          as it was given, without whitespace around them. Tokens that write one character together all have it; a
          token of whitespace alone has a span of no length.
        """

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids. Special ids leave no trace, except that ``unknown_id`` does."""

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """The vocabulary's entry of each id, as it is written there."""

    def is_continuation(self) -> np.ndarray:
        """Which ids continue the word of the token before them, bool (vocab_size,); for masking whole words."""

    def save(self, directory: Path) -> None:
        """Writes the files from which ``load_tokenizer(directory)`` gives the same tokenizer."""

    def export(self, directory: Path, token_types: bool = True) -> None:
        """Writes files from which transformers' AutoTokenizer gives the same ids, beside all that ``save`` writes.

        Args:
          directory: is made if absent.
          token_types: whether AutoTokenizer tells the two texts of a pair apart by token types, which a model without
            them doesn't take. A tokenizer of Hugging Face does as its own files say.
        """
