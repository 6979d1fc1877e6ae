"""Ids with a meaning of their own to a model, and what stands around its texts, by the files beside it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

from jaxft.data.chat import chat_format, end_of_turn
from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import JaxftError, RecipeError
from jaxft.generation.config import SpecialTokens
from jaxft.generation.text_layout import TextLayout
from jaxft.huggingface.sentence_modules import longest_sentence
from jaxft.models.config import ModelConfig
from jaxft.objectives.denoising import decoder_start_id, seq2seq_template
from jaxft.workflows.weights.location import ModelLocation

# Keys of generation_config.json, and of config.json in older models.
_KEYS = (
    "eos_token_id", "pad_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "bad_words_ids", "suppress_tokens",
)  # fmt: skip


def special_tokens(location: ModelLocation | None, model: ModelConfig, tokenizer: Tokenizer | None) -> SpecialTokens:
    """Ids with a meaning of their own to a model that writes.

    Args:
      location: of a model of Hugging Face, or of a run, whose texts may also end with what ends a turn of its chat
        template; None for a model without files, which is as a run.
      model: that writes.
      tokenizer: of the model, or None.

    Raises:
      RecipeError: a file of settings is no JSON.
    """
    values = _generation_settings(location)
    is_ours = location is None or location.run is not None
    end = values.get("eos_token_id")
    ends = list(end) if isinstance(end, list) else [] if end is None else [end]
    if not ends and tokenizer is not None:
        ends = [tokenizer.separator_id]
    if is_ours and tokenizer is not None:
        ends += [end for end in _ends_of_turns(tokenizer) if end not in ends]
    before, after = _around(location, model, tokenizer)
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
    cut = None if location is None or location.use is None else location.use.length
    return TextLayout(tokenizer.template, longest, cut)


def _around(
    location: ModelLocation | None, model: ModelConfig, tokenizer: Tokenizer | None
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Ids before and after what a model reads before it writes: a prompt, or the source of an encoder-decoder."""
    if tokenizer is None:
        return (), ()
    template = tokenizer.template
    if model.family == "encoder_decoder":
        template = seq2seq_template(tokenizer, location is not None and location.huggingface is not None)
    return template.before.ids, template.after.ids


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


def _ends_of_turns(tokenizer: Tokenizer) -> list[int]:
    """The special id that ends an answer in the tokenizer's own chat template, where there is one."""
    if tokenizer.chat_template is None:
        return []
    try:
        ids = end_of_turn(chat_format("own", tokenizer), tokenizer)
    except JaxftError:  # a template for other conversations
        return []
    return [first for first in ids[:1].tolist() if first in tokenizer.special_ids]
