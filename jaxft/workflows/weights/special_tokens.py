"""Ids with a meaning of their own to a model, and what stands around its texts, by the files beside it."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import tokenizers

from jaxft.data.chat import chat_format, end_of_turn
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import JaxftError, RecipeError
from jaxft.generation.config import SpecialTokens
from jaxft.generation.text_layout import TextLayout
from jaxft.huggingface.sentence_modules import longest_sentence
from jaxft.models.config import ModelConfig
from jaxft.objectives.denoising import decoder_start_id
from jaxft.workflows.weights.location import ModelLocation

# Keys of generation_config.json, and of config.json in older models.
_KEYS = (
    "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
)  # fmt: skip


def special_tokens(location: ModelLocation | None, model: ModelConfig, tokenizer: Tokenizer | None) -> SpecialTokens:
    """Ids with a meaning of their own to a model that writes.

    Args:
      location: of a model of Hugging Face, whose `tokenizer.json` says what is put around a text, or of a run, which
        begins where its tokenizer has a start token, whose sources end with its separator, and whose texts may also end
        with what ends a turn of its chat template; None for a model without files, which is as a run.
      model: that writes.
      tokenizer: of the model, or None.

    Raises:
      RecipeError: a file of settings is no JSON.
    """
    values, template = _generation_settings(location), _template_of(location)
    is_ours = location is None or location.run is not None
    end = values.get("eos_token_id")
    ends = list(end) if isinstance(end, list) else [] if end is None else [end]
    if not ends and tokenizer is not None:
        ends = [tokenizer.separator_id]
    if is_ours and tokenizer is not None:
        ends += [end for end in _ends_of_turns(tokenizer) if end not in ends]
    before: tuple[int, ...] = () if tokenizer is None or tokenizer.start_id is None else (tokenizer.start_id,)
    after: tuple[int, ...] = () if tokenizer is None else (tokenizer.separator_id,)
    if model.family == "encoder_decoder":
        before = ()
    if template is not None:
        before, after = _around_text(template)
    pad = values.get("pad_token_id")
    if pad is None:
        pad = tokenizer.pad_id if tokenizer is not None else next(iter(ends), 0)
    words = values.get("bad_words_ids") or []
    suppressed = {*(word[0] for word in words if len(word) == 1), *(values.get("suppress_tokens") or [])}
    shared = SpecialTokens(end=tuple(ends), pad=max(pad, 0), suppressed=tuple(sorted(suppressed)))
    if model.family != "encoder_decoder":
        return dataclasses.replace(shared, start=before)
    start = values.get("decoder_start_token_id", values.get("bos_token_id"))
    if start is None and tokenizer is not None:
        start = decoder_start_id(tokenizer, model)
    return dataclasses.replace(
        shared,
        start=() if start is None else (start,),
        source_start=before,
        source_end=after,
        forced_first=values.get("forced_bos_token_id"),
        forced_last=values.get("forced_eos_token_id"),
    )


def text_layout(location: ModelLocation | None, model: ModelConfig, tokenizer: Tokenizer) -> TextLayout:
    """What stands around a text, or between two, that a model reads whole.

    Args:
      location: as for `special_tokens`.
      model: that reads.
      tokenizer: of the model.
    """
    longest = model.max_length
    if location is not None and location.run is None:
        longest = min(longest, longest_sentence(location.directory) or longest)
    second_type = 1 if model.token_types > 1 else 0
    template = _template_of(location)
    if template is not None:
        before, between, after, own_type = _around_pair(template)
        return TextLayout(before, after, between, own_type if second_type else 0, longest)
    start = () if tokenizer.start_id is None else (tokenizer.start_id,)
    end = (tokenizer.separator_id,)
    return TextLayout(start, end, end, second_type, longest)


def _generation_settings(location: ModelLocation | None) -> dict[str, Any]:
    """What the files beside a model say of its special tokens."""
    if location is None:
        return {}
    values = {} if location.huggingface is None else dict(location.huggingface.values)
    path = location.settings / "generation_config.json"
    if path.is_file():
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise RecipeError(f"{path} is not JSON: {error}") from error
        values |= {key: found[key] for key in _KEYS if found.get(key) is not None}
    return values


def _template_of(location: ModelLocation | None) -> pathlib.Path | None:
    """The file that says what a tokenizer of Hugging Face puts around texts.

    A run's rows are laid out by its objectives, whatever its tokenizer would put around a text.
    """
    if location is None or location.run is not None:
        return None
    path = location.directory / "tokenizer.json"
    return path if path.is_file() else None


def _ends_of_turns(tokenizer: Tokenizer) -> list[int]:
    """The special id that ends an answer in the tokenizer's own chat template, where there is one."""
    if tokenizer.chat_template is None:
        return []
    try:
        ids = end_of_turn(chat_format("own", tokenizer), tokenizer)
    except JaxftError:  # a template for other conversations
        return []
    return [first for first in ids[:1].tolist() if first in tokenizer.special_ids]


def _around_text(path: pathlib.Path) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids that a tokenizer puts before and after a text."""
    encoded = _plain(path).encode("a", add_special_tokens=True)
    is_text = [i for i, special in enumerate(encoded.special_tokens_mask) if not special]
    if not is_text:
        return (), ()
    return tuple(encoded.ids[: is_text[0]]), tuple(encoded.ids[is_text[-1] + 1 :])


def _around_pair(path: pathlib.Path) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Ids that a tokenizer puts before, between and after two texts, and the token type of the second."""
    encoded = _plain(path).encode("a", "a", add_special_tokens=True)
    first = [i for i, number in enumerate(encoded.sequence_ids) if number == 0]
    second = [i for i, number in enumerate(encoded.sequence_ids) if number == 1]
    if not first or not second:
        return (), (), (), 0
    ids = encoded.ids
    between = tuple(ids[first[-1] + 1 : second[0]])
    return tuple(ids[: first[0]]), between, tuple(ids[second[-1] + 1 :]), encoded.type_ids[second[0]]


def _plain(path: pathlib.Path) -> tokenizers.Tokenizer:
    """A tokenizer that neither pads nor cuts."""
    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
