"""Any fast tokenizer of Hugging Face, from a local directory."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from jaxft.data.tokenizers.parts import PartsEncoder
from jaxft.data.tokenizers.protocol import CHAT_TEMPLATE_FILE, Part
from jaxft.data.tokenizers.spans import tidy_spans
from jaxft.data.tokenizers.template import TextTemplate, template_of_probe
from jaxft.errors import DataError, RecipeError

# One of these makes a directory a tokenizer's.
TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_CONFIG_FILE = "tokenizer_config.json"
_OTHER_FILES = ("merges.txt", "added_tokens.json", "special_tokens_map.json", CHAT_TEMPLATE_FILE)
# Classes of tokenizers whose files alone say what stands around a text.
_GENERIC = ("PreTrainedTokenizerFast", "TokenizersBackend")
_SPACE_MARK = "▁"
_WORD_STARTS = ("Ġ", _SPACE_MARK)


class HuggingFaceTokenizer:
    """A tokenizer of Hugging Face; see :class:`jaxft.data.tokenizers.protocol.Tokenizer`.

    Nothing is downloaded and no code of the directory runs. What is written in ``tokenizer.json`` about truncation
    and padding doesn't apply: texts come out whole.

    ``encode`` raises DataError for a text that spells a special token which the tokenizer can neither split nor call
    unknown.

    Args:
      directory: holds ``tokenizer.json``, or the vocabulary files of a tokenizer that has a fast version.

    Raises:
      RecipeError: it can't be read, has no fast version, or has neither a SEP nor an EOS token.
    """

    def __init__(self, directory: Path):
        self._directory = Path(directory)
        self._tokenizer = tokenizer = _load(self._directory)
        # Kept, as a run may save them days later.
        self._files = _read_files(self._directory, type(tokenizer).__name__)
        separator_id = _first(tokenizer.sep_token_id, tokenizer.eos_token_id)
        if separator_id is None:
            raise RecipeError(f"tokenizer: {directory} names neither a SEP nor an EOS token in its {_CONFIG_FILE}")
        self.separator_id: int = separator_id
        self.start_id: int | None = _first(tokenizer.cls_token_id, tokenizer.bos_token_id)
        self.pad_id: int = separator_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        self.mask_id: int | None = tokenizer.mask_token_id
        # GPT-2 names its end token as the unknown one too, though it can express every text.
        taken = (self.separator_id, self.start_id, self.pad_id)
        self.unknown_id: int | None = None if tokenizer.unk_token_id in taken else tokenizer.unk_token_id
        added = tokenizer.added_tokens_decoder
        self.special_ids = frozenset(tokenizer.all_special_ids) | {i for i, token in added.items() if token.special}
        self._control_ids = np.array(sorted(self.special_ids - {self.unknown_id}), np.int32)

    @cached_property
    def vocab_size(self) -> int:
        # Not the length: added tokens may leave gaps.
        return max(self._tokenizer.get_vocab().values()) + 1

    @cached_property
    def sentinel_ids(self) -> tuple[int, ...]:
        vocabulary = self._tokenizer.get_vocab()
        named = itertools.takewhile(vocabulary.__contains__, map("<extra_id_{}>".format, itertools.count()))
        return tuple(vocabulary[name] for name in named)

    @cached_property
    def fingerprint(self) -> str:
        digest = hashlib.sha256()
        for name, content in sorted(self._files.items()):
            if name == CHAT_TEMPLATE_FILE:  # says nothing about the ids of a text
                continue
            digest.update(name.encode() + b"\0" + hashlib.sha256(content).digest())
        return digest.hexdigest()

    @cached_property
    def chat_template(self) -> str | None:
        template = self._tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    @cached_property
    def token_names(self) -> Mapping[str, str]:
        return {name: token for name, token in self._tokenizer.special_tokens_map.items() if isinstance(token, str)}

    @cached_property
    def template(self) -> TextTemplate:
        return template_of_probe(self._probed("a"), self._probed("a", "a"))

    @property
    def is_generic(self) -> bool:
        return type(self._tokenizer).__name__ in _GENERIC

    def _probed(self, *texts: str) -> tuple[list[int], list[int], list[int | None]]:
        """Ids, token types, and which of the texts each is of, as transformers lays them out."""
        found = self._tokenizer(*texts, return_token_type_ids=True, truncation=False, padding=False)
        return found["input_ids"], found["token_type_ids"], found.sequence_ids()

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        if not texts:
            return []
        batch = self._encoded(texts)
        return [self._without_controls(np.asarray(ids, np.int32)) for ids in batch["input_ids"]]

    def encode_with_spans(self, texts: Sequence[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        if not texts:
            return []
        batch, out = self._encoded(texts, spans=True), []
        for text, ids, offsets in zip(texts, batch["input_ids"], batch["offset_mapping"], strict=True):
            ids, spans = np.asarray(ids, np.int32), np.asarray(offsets, np.int32).reshape(-1, 2)
            # The space that is put before a text is given the first character of the text.
            blank = np.isin(ids, self._blank_ids)
            spans[blank, 1] = spans[blank, 0]
            # Of no other token of whitespace tokenizers say that it stands for nothing.
            tidy = tidy_spans(text, spans, ~blank & (spans[:, 0] == spans[:, 1]))
            out.append((self._without_controls(ids), tidy))
        return out

    @cached_property
    def _blank_ids(self) -> np.ndarray:
        """Ids of tokens that are the mark of spaces alone."""
        vocabulary = self._tokenizer.get_vocab().items()
        return np.array([index for token, index in vocabulary if token and not token.strip(_SPACE_MARK)], np.int32)

    @cached_property
    def _parts_encoder(self) -> PartsEncoder:
        return PartsEncoder(self._tokenizer.backend_tokenizer, self._without_controls)

    def encode_parts(self, texts: Sequence[Sequence[Part]]) -> list[tuple[np.ndarray, np.ndarray]]:
        return self._parts_encoder(texts)

    def _encoded(self, texts: Sequence[str], spans: bool = False) -> Any:
        return self._tokenizer(
            list(texts),
            add_special_tokens=False,
            split_special_tokens=True,
            truncation=False,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            return_offsets_mapping=spans,
            verbose=False,
        )

    def _without_controls(self, ids: np.ndarray) -> np.ndarray:
        """Makes control ids unknown: a Unigram model or a split at spaces finds "</s>" in text like any other piece."""
        found = np.isin(ids, self._control_ids)
        if not found.any():
            return ids
        if self.unknown_id is None:
            spelled = self.tokens(ids[found])[0]
            raise DataError(f"a text spells the special token {spelled!r}, which this tokenizer can't write as text")
        return np.where(found, np.int32(self.unknown_id), ids)

    def decode(self, ids: Iterable[int]) -> str:
        array = np.asarray(list(ids), np.int64)
        spoken = array[~np.isin(array, self._control_ids)].tolist()
        return self._tokenizer.decode(spoken, skip_special_tokens=False, clean_up_tokenization_spaces=False)

    def tokens(self, ids: Iterable[int]) -> list[str]:
        return self._tokenizer.convert_ids_to_tokens([int(index) for index in ids])

    def is_continuation(self) -> np.ndarray:
        """As the protocol says, by the convention of the vocabulary: ``##``, or no mark of a word's start.

        Raises:
          RecipeError: the vocabulary marks neither the start nor the continuation of words.
        """
        vocabulary = self._tokenizer.get_vocab()
        prefix = getattr(self._tokenizer.backend_tokenizer.model, "continuing_subword_prefix", None)
        start = max(_WORD_STARTS, key=lambda mark: sum(token.startswith(mark) for token in vocabulary))
        if not prefix and not any(token.startswith(start) for token in vocabulary):
            raise RecipeError(f"tokenizer: {self._directory} doesn't mark where words begin, so none is masked whole")
        continues = np.zeros(self.vocab_size, bool)
        for token, index in vocabulary.items():
            continues[index] = token.startswith(prefix) if prefix else not token.startswith(start)
        continues[sorted({*self.special_ids, *self._tokenizer.added_tokens_decoder})] = False
        return continues

    def save(self, directory: Path) -> None:
        """Writes the files; see the protocol."""
        directory.mkdir(parents=True, exist_ok=True)
        for name, content in self._files.items():
            (directory / name).write_bytes(content)

    def export(self, directory: Path, token_types: bool = True) -> None:
        """Writes the same files; see the protocol."""
        self.save(directory)


def _read_files(directory: Path, class_name: str) -> dict[str, bytes]:
    """Content of each file of the tokenizer. Its config names the class, as older models leave that to another file."""
    paths = [directory / name for name in (*TOKENIZER_FILES, *_OTHER_FILES)]
    path = directory / _CONFIG_FILE
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    config = {"tokenizer_class": class_name, **config}
    files = {path.name: path.read_bytes() for path in paths if path.is_file()}
    return {**files, _CONFIG_FILE: json.dumps(config, indent=2, sort_keys=True).encode() + b"\n"}


def _load(directory: Path) -> Any:
    """A ``PreTrainedTokenizerFast``; transformers takes seconds to import, so only who needs it pays."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(directory), local_files_only=True, trust_remote_code=False)
    # The Rust tokenizers raise plain Exceptions.
    except Exception as error:
        raise RecipeError(f"tokenizer: {directory} can't be read: {error}") from error
    if not tokenizer.is_fast:
        raise RecipeError(f"tokenizer: {directory} has no fast version (tokenizer.json); convert it with transformers")
    return tokenizer


def _first(*ids: int | None) -> int | None:
    return next((index for index in ids if index is not None), None)
