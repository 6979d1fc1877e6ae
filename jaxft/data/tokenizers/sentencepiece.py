"""SentencePiece tokenizers (Kudo and Richardson, arXiv 1808.06226), trained here.

A directory holds ``tokenizer.model``, which any SentencePiece reads, and ``jaxft_tokenizer.json``, which says
how it was trained.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import sentencepiece

from jaxft.data.tokenizers.conversion import converted, token_names, write_converted
from jaxft.data.tokenizers.parts import PartsEncoder
from jaxft.data.tokenizers.protocol import CHAT_TEMPLATE_FILE, Part
from jaxft.data.tokenizers.spans import tidy_spans
from jaxft.data.tokenizers.template import own_template
from jaxft.errors import DataError, InvalidField, RecipeError

MODEL_FILE = "tokenizer.model"
DESCRIPTION_FILE = "jaxft_tokenizer.json"
SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
PAD_ID, UNKNOWN_ID, START_ID, SEPARATOR_ID, MASK_ID = range(5)
_WORD_START = "▁"
# Blocks of ideographs, as in BERT's tokenizer: scripts that write no spaces between words.
_IDEOGRAPH = re.compile(
    "[\u4e00-\u9fff\u3400-\u4dbf\uf900-\ufaff\U00020000-\U0002a6df\U0002a700-\U0002ceaf\U0002f800-\U0002fa1f]"
)


@dataclass(frozen=True)
class SentencePieceConfig:
    """How a SentencePiece vocabulary is trained.

    Attributes:
      vocab_size: number of ids, the five special ones included.
      model_type: ``unigram`` (Kudo 2018) or ``bpe``.
      character_coverage: fraction of the corpus's characters that get a piece of their own, from 0.98 to 1.
      byte_fallback: write other characters as bytes instead of the unknown token (costs 256 ids).
      lowercase: fold case, beside the NFKC normalization that is always done.
      sentinels: special tokens <extra_id_0>, <extra_id_1>, ... that stand for spans of text, as in T5 (which has 100).
      special_tokens: further special tokens, such as those of a chat template ("<|im_start|>").
      user_symbols: strings that are always one token. Line breaks are kept only if "\\n" is among them; otherwise
        a run of whitespace becomes one space.

    Raises:
      InvalidField: an impossible value.
    """

    vocab_size: int = 8000
    model_type: Literal["unigram", "bpe"] = "unigram"
    character_coverage: float = 0.9995
    byte_fallback: bool = False
    lowercase: bool = False
    sentinels: int = 0
    special_tokens: tuple[str, ...] = ()
    user_symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.sentinels < 0:
            raise InvalidField("sentinels", f"must not be negative; found {self.sentinels}")
        check_special_tokens(self.special_tokens, self.user_symbols)
        known = len(SPECIAL_TOKENS) + len(self.special_tokens) + len(self.user_symbols) + self.sentinels
        if self.vocab_size <= known:
            raise InvalidField("vocab_size", f"must exceed the special and user symbols; found {self.vocab_size}")
        if self.model_type not in ("unigram", "bpe"):
            raise InvalidField("model_type", f"expected unigram or bpe; found {self.model_type!r}")
        if not 0.98 <= self.character_coverage <= 1.0:  # as SentencePiece demands
            problem = f"expected a fraction from 0.98 to 1; found {self.character_coverage}"
            raise InvalidField("character_coverage", problem)
        for symbol in self.user_symbols:
            if not symbol or symbol in SPECIAL_TOKENS or self.user_symbols.count(symbol) > 1:
                raise InvalidField("user_symbols", f"{symbol!r} is empty, given twice or a special token")


def check_special_tokens(tokens: tuple[str, ...], user_symbols: tuple[str, ...]) -> None:
    """Checks the special tokens that a config adds.

    Raises:
      InvalidField: one is empty, there already, or given twice.
    """
    for token in tokens:
        if not token.strip() or tokens.count(token) > 1 or token in (*SPECIAL_TOKENS, *user_symbols):
            raise InvalidField("special_tokens", f"{token!r} is empty, given twice, or there already")
        if re.fullmatch(r"<extra_id_\d+>", token):
            raise InvalidField("special_tokens", f"{token!r} is a sentinel; say how many with `sentinels`")


def sentinel(number: int) -> str:
    """The token that stands for span `number` of a corrupted text, as T5 calls it."""
    return f"<extra_id_{number}>"


def train_sentencepiece(
    texts: Iterable[str], config: SentencePieceConfig, output_directory: Path
) -> SentencePieceTokenizer:
    """Trains a vocabulary and writes it; deterministic in texts and config.

    Args:
      texts: the corpus; read once, text by text. (SentencePiece itself keeps its words in memory.)
      config: see there.
      output_directory: is made if absent.

    Raises:
      DataError: the corpus holds no text, or is too small, or too rich in characters, for ``vocab_size``.
    """
    lines = _Lines(texts)
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **_options(config))
    except RuntimeError as error:
        # SentencePiece wraps what the texts themselves raised.
        if lines.error is not None:
            raise lines.error from None
        raise DataError(_training_problem(str(error), config)) from error
    output_directory.mkdir(parents=True, exist_ok=True)
    (output_directory / MODEL_FILE).write_bytes(model.getvalue())
    description = {"kind": "sentencepiece", "training": dataclasses.asdict(config)}
    (output_directory / DESCRIPTION_FILE).write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
    return SentencePieceTokenizer(output_directory)


class _Lines:
    """The lines of texts, one by one; keeps what reading them raised."""

    def __init__(self, texts: Iterable[str]):
        self._texts = texts
        self.error: Exception | None = None

    def __iter__(self) -> Iterator[str]:
        try:
            for text in self._texts:
                yield from text.split("\n")
        except Exception as error:
            self.error = error
            raise


def _options(config: SentencePieceConfig) -> dict[str, Any]:
    pad, unknown, start, separator, mask = SPECIAL_TOKENS
    return {
        "vocab_size": config.vocab_size,
        "model_type": config.model_type,
        "character_coverage": config.character_coverage,
        "byte_fallback": config.byte_fallback,
        "normalization_rule_name": "nmt_nfkc_cf" if config.lowercase else "nmt_nfkc",
        "pad_id": PAD_ID,
        "unk_id": UNKNOWN_ID,
        "bos_id": START_ID,
        "eos_id": SEPARATOR_ID,
        "pad_piece": pad,
        "unk_piece": unknown,
        "bos_piece": start,
        "eos_piece": separator,
        # Control symbols are never found in text. The first one takes the first free id, MASK_ID.
        "control_symbols": [mask, *map(sentinel, range(config.sentinels)), *config.special_tokens],
        "user_defined_symbols": list(config.user_symbols),
        # In bytes. By default longer lines (4,192) are dropped.
        "max_sentence_length": 2**30,
        "minloglevel": 2,
    }


def _training_problem(message: str, config: SentencePieceConfig) -> str:
    largest = re.search(r"set it to a value <= (\d+)", message)
    if largest:
        return (
            f"tokenizer: the corpus is too small for vocab_size {config.vocab_size}; the largest possible is "
            f"{largest[1]}"
        )
    smallest = re.search(r"smaller than required_chars\. \d+ vs (\d+)", message)
    if smallest:
        return (
            f"tokenizer: vocab_size {config.vocab_size} is too small for the characters of the corpus; give at least "
            f"{smallest[1]}, or a lower character_coverage"
        )
    if "sentences_.empty()" in message or "all_chars_count" in message:
        return "tokenizer: the corpus holds no text to train on"
    return f"tokenizer: training failed: {message}"


class SentencePieceTokenizer:
    """A tokenizer of :func:`train_sentencepiece`; see :class:`jaxft.data.tokenizers.protocol.Tokenizer`.

    Args:
      directory: holds ``tokenizer.model`` and ``jaxft_tokenizer.json``.

    Raises:
      RecipeError: a file is missing or damaged.
    """

    pad_id = PAD_ID
    unknown_id = UNKNOWN_ID
    start_id = START_ID
    separator_id = SEPARATOR_ID
    mask_id = MASK_ID
    template = own_template(START_ID, SEPARATOR_ID)
    is_generic = True

    def __init__(self, directory: Path):
        try:
            self._description = (Path(directory) / DESCRIPTION_FILE).read_bytes()
            training = json.loads(self._description)["training"]
            self._model_type, self._user_symbols = training["model_type"], frozenset(training["user_symbols"])
            self._sentinels = int(training.get("sentinels", 0))
            self._others = len(training.get("special_tokens", ()))
            self._model = (Path(directory) / MODEL_FILE).read_bytes()
            path = Path(directory) / CHAT_TEMPLATE_FILE
            self.chat_template = path.read_text(encoding="utf-8") if path.is_file() else None
            self._processor = sentencepiece.SentencePieceProcessor(model_proto=self._model)
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
            raise RecipeError(f"tokenizer: {directory} can't be read: {error}") from error
        found = tuple(self._processor.id_to_piece(list(range(len(SPECIAL_TOKENS)))))
        if found != SPECIAL_TOKENS:
            raise RecipeError(
                f"tokenizer: {Path(directory) / MODEL_FILE} was not made by jaxft: its first ids are "
                f"{', '.join(found)}, not {', '.join(SPECIAL_TOKENS)}"
            )

    @property
    def vocab_size(self) -> int:
        return self._processor.get_piece_size()

    @property
    def special_ids(self) -> frozenset[int]:
        return frozenset(range(len(SPECIAL_TOKENS) + self._sentinels + self._others))

    @property
    def sentinel_ids(self) -> tuple[int, ...]:
        return tuple(range(len(SPECIAL_TOKENS), len(SPECIAL_TOKENS) + self._sentinels))

    @cached_property
    def fingerprint(self) -> str:
        return hashlib.sha256(self._model).hexdigest()

    @cached_property
    def token_names(self) -> Mapping[str, str]:
        return token_names(self._processor)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        return [np.asarray(ids, np.int32) for ids in self._processor.encode(list(texts), out_type=int)]

    @cached_property
    def _parts_encoder(self) -> PartsEncoder:
        # SentencePiece itself can't continue a text after a special token: it begins each with a space.
        return PartsEncoder(converted(self._processor, self._model_type, self._user_symbols))

    def encode_parts(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        """See the protocol; ids are those of the exported tokenizer."""
        return self._parts_encoder(texts)

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        out = []
        for text, found in zip(texts, self._processor.encode(list(texts), return_type="offset_mapping"), strict=True):
            written = np.array([bool(piece.replace(_WORD_START, " ").strip()) for piece in found["pieces"]], bool)
            spans = np.asarray(found["offsets"], np.int32).reshape(-1, 2)
            out.append((np.asarray(found["ids"], np.int32), tidy_spans(text, spans, written)))
        return out

    def decode(self, ids: Iterable[int]) -> str:
        return self._processor.decode([int(index) for index in ids])

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return self._processor.id_to_piece([int(index) for index in ids])

    def is_continuation(self) -> np.ndarray:
        """As the protocol says; user symbols and ideographs begin a word (Chinese has no spaces that would say so)."""
        continues = np.array([self._continues(piece) for piece in self.tokens(range(self.vocab_size))])
        continues[sorted(self.special_ids)] = False
        return continues

    def _continues(self, piece: str) -> bool:
        return not (piece.startswith(_WORD_START) or piece in self._user_symbols or _IDEOGRAPH.match(piece))

    def save(self, directory: Path) -> None:
        """Writes the files; see the protocol."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / MODEL_FILE).write_bytes(self._model)
        (directory / DESCRIPTION_FILE).write_bytes(self._description)
        if self.chat_template is not None:
            (directory / CHAT_TEMPLATE_FILE).write_text(self.chat_template, encoding="utf-8")

    def export(self, directory: Path, token_types: bool = True) -> None:
        """Writes ``tokenizer.json`` and ``tokenizer_config.json`` beside both files; see the protocol.

        In which corners transformers gives other ids, :mod:`jaxft.data.tokenizers.conversion` says.
        """
        self.save(directory)
        write_converted(directory, self._processor, self._model_type, self._user_symbols, token_types)
