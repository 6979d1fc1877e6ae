"""WordPiece and byte-level BPE vocabularies, trained here by Hugging Face's tokenizers."""

from __future__ import annotations

import collections
import dataclasses
import json
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from jaxft.data.tokenizers.huggingface import HuggingFaceTokenizer
from jaxft.data.tokenizers.sentencepiece import (
    MASK_ID,
    PAD_ID,
    SEPARATOR_ID,
    SPECIAL_TOKENS,
    START_ID,
    UNKNOWN_ID,
    check_special_tokens,
    sentinel,
)
from jaxft.errors import DataError, InvalidField


@dataclasses.dataclass(frozen=True)
class _VocabularyConfig:
    vocab_size: int
    sentinels: int = 0
    special_tokens: tuple[str, ...] = ()
    user_symbols: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_special_tokens(self.special_tokens, self.user_symbols)
        if self.sentinels < 0:
            raise InvalidField("sentinels", f"must not be negative; found {self.sentinels}")
        smallest = len(_special_tokens(self)) + len(self.user_symbols) + self._alphabet
        if self.vocab_size <= smallest:
            raise InvalidField("vocab_size", f"must exceed {smallest}, what is there before training")
        if not all(self.user_symbols) or len(set(self.user_symbols)) < len(self.user_symbols):
            raise InvalidField("user_symbols", "one is empty or given twice")

    @property
    def _alphabet(self) -> int:
        return 0


@dataclasses.dataclass(frozen=True)
class WordPieceConfig(_VocabularyConfig):
    """BERT's kind of vocabulary (Wu et al. 2016, arXiv 1609.08144).

    Attributes:
      vocab_size: number of ids, the special ones included.
      sentinels: special tokens <extra_id_0>, ... that stand for spans of text.
      special_tokens: further special tokens, such as those of a chat template.
      user_symbols: strings that are always one token.
      lowercase: fold case and drop accents, as in BERT's uncased models.
    """

    vocab_size: int = 30522
    lowercase: bool = True


@dataclasses.dataclass(frozen=True)
class ByteBPEConfig(_VocabularyConfig):
    """GPT-2's kind of vocabulary (Radford et al. 2019): pairs of bytes, so that no text is unknown and none is changed.

    Attributes:
      vocab_size: number of ids, the special ones and the 256 bytes included.
      sentinels: special tokens <extra_id_0>, ... that stand for spans of text.
      special_tokens: further special tokens, such as those of a chat template.
      user_symbols: strings that are always one token.
    """

    vocab_size: int = 50257

    @property
    def _alphabet(self) -> int:
        return 256


def train_huggingface(
    texts: Iterable[str], config: WordPieceConfig | ByteBPEConfig, output_directory: Path
) -> HuggingFaceTokenizer:
    """Trains a vocabulary and writes it in Hugging Face's layout.

    Args:
      texts: the corpus; read once.
      config: which kind, and how large.
      output_directory: is made if absent.

    Raises:
      DataError: the corpus holds no text.
    """
    from transformers import PreTrainedTokenizerFast

    read = _not_empty(texts)
    tokenizer = _word_piece(config, read) if isinstance(config, WordPieceConfig) else _byte_bpe(config, read)
    if config.user_symbols:
        tokenizer.add_tokens([tokenizers.AddedToken(symbol, normalized=False) for symbol in config.user_symbols])
    start, separator = (SPECIAL_TOKENS[START_ID], START_ID), (SPECIAL_TOKENS[SEPARATOR_ID], SEPARATOR_ID)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{start[0]} $A {separator[0]}",
        pair=f"{start[0]} $A {separator[0]} $B:1 {separator[0]}:1",
        special_tokens=[start, separator],
    )
    names = {
        "pad_token": PAD_ID,
        "cls_token": START_ID,
        "sep_token": SEPARATOR_ID,
        "mask_token": MASK_ID,
        "bos_token": START_ID,
        "eos_token": SEPARATOR_ID,
    }
    if isinstance(config, WordPieceConfig):
        names["unk_token"] = UNKNOWN_ID
    named = {name: SPECIAL_TOKENS[number] for name, number in names.items()}
    output_directory.mkdir(parents=True, exist_ok=True)
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named).save_pretrained(str(output_directory))
    return HuggingFaceTokenizer(output_directory)


def _special_tokens(config: _VocabularyConfig) -> list[str]:
    return [*SPECIAL_TOKENS, *map(sentinel, range(config.sentinels)), *config.special_tokens]


def _word_piece(config: WordPieceConfig, texts: Iterable[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token=SPECIAL_TOKENS[UNKNOWN_ID]))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=config.lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = _special_tokens(config)
    with tempfile.TemporaryFile("w+", encoding="utf-8") as spool:
        characters: collections.Counter[str] = collections.Counter()
        for text in texts:
            characters.update(tokenizer.normalizer.normalize_str(text))
            spool.write(json.dumps(text) + "\n")
        spool.seek(0)
        alphabet = _alphabet(characters, config.vocab_size - len(special))
        # The library numbers the letters within words in a random order, by which it then decides ties. So that
        # training is deterministic, they are given to it as if they were special; the vocabulary alone is kept.
        trainer = trainers.WordPieceTrainer(
            vocab_size=config.vocab_size - len(config.user_symbols),
            special_tokens=[*special, *(f"##{letter}" for letter in alphabet)],
            initial_alphabet=alphabet,
            limit_alphabet=len(alphabet),
            show_progress=False,
        )
        tokenizer.train_from_iterator(map(json.loads, spool), trainer)
    trained = tokenizers.Tokenizer(models.WordPiece(tokenizer.get_vocab(), unk_token=SPECIAL_TOKENS[UNKNOWN_ID]))
    trained.normalizer, trained.pre_tokenizer = tokenizer.normalizer, tokenizer.pre_tokenizer
    trained.decoder = decoders.WordPiece()
    trained.add_special_tokens(special)
    return trained


def _alphabet(characters: collections.Counter[str], vocab_size: int) -> list[str]:
    """The most frequent characters, each of which takes two ids, as many as fill half of the vocabulary."""
    letters = sorted((c for c in characters if not c.isspace()), key=lambda c: (-characters[c], c))
    return sorted(letters[: max(1, vocab_size // 4)])


def _byte_bpe(config: ByteBPEConfig, texts: Iterable[str]) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=config.vocab_size - len(config.user_symbols),
        special_tokens=_special_tokens(config),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _not_empty(texts: Iterable[str]) -> Iterator[str]:
    empty = True
    for text in texts:
        empty = empty and not text.strip()
        yield text
    if empty:
        raise DataError("tokenizer: the corpus holds no text to train on")
