"""What transformers goes by when it writes with a model: the ids around a prompt, and what ends a text."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from tokenizers import Tokenizer as FastTokenizer
from tokenizers import processors

from jaxft.data.tokenizers import Tokenizer


@dataclasses.dataclass(frozen=True)
class GenerationSettings:
    """How a model writes.

    Attributes:
      values: keys and values of generation_config.json.
      around: ids before and after a prompt; None where the tokenizer's own files say it.
    """

    values: Mapping[str, Any]
    around: tuple[tuple[int, ...], tuple[int, ...]] | None = None


def write_generation_settings(
    directory: pathlib.Path, settings: GenerationSettings, tokenizer: Tokenizer | None
) -> None:
    """Writes `generation_config.json`, and changes the tokenizer's files there so that prompts are read as in training.

    Without it a prompt of a decoder would end with the token that ends texts, as the texts of encoders do.
    """
    _write_json(directory / "generation_config.json", settings.values)
    path, config = directory / "tokenizer.json", directory / "tokenizer_config.json"
    if settings.around is None or tokenizer is None or not (path.is_file() and config.is_file()):
        return
    described = json.loads(config.read_text(encoding="utf-8"))
    if not tokenizer.is_generic:
        return
    before, after = (tokenizer.tokens(ids) for ids in settings.around)
    fast = FastTokenizer.from_file(str(path))
    fast.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(token, fast.token_to_id(token)) for token in {*before, *after}],
    )
    fast.save(str(path))
    ends = {"bos_token": tokenizer.start_id, "eos_token": tokenizer.separator_id}
    named = {name: tokenizer.tokens([number])[0] for name, number in ends.items() if number is not None}
    # No model that writes takes token types.
    _write_json(config, {**named, "model_input_names": ["input_ids", "attention_mask"], **described})


def _write_json(path: pathlib.Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
