"""The generating ones of the small reference models, with transformers' own generation beside ours."""

from __future__ import annotations

import pathlib

import numpy as np
import torch
from huggingface.reference_models import CASES, VOCABULARY, Case, make, save

from jaxft.generation.config import SpecialTokens
from jaxft.generation.generator import Generator
from jaxft.huggingface.loaded import LoadedModel, load_model


class Pair:
    """A model of transformers and ours with the same weights.

    Attributes:
      theirs: torch module.
      loaded: ours.
      special: ids of both.
    """

    def __init__(self, name: str, directory: pathlib.Path):
        self.case: Case = CASES[name]
        self.theirs = make(self.case)
        save(self.theirs, directory)
        self.loaded: LoadedModel = load_model(directory)
        config = self.theirs.generation_config
        pad = config.pad_token_id if config.pad_token_id is not None else 0
        config.pad_token_id = pad
        self.has_encoder = self.case.kind == "encoder_decoder"
        end = config.eos_token_id
        self.special = SpecialTokens(
            end=(end,) if isinstance(end, int) else tuple(end or ()),
            pad=pad,
            start=(config.decoder_start_token_id,) if self.has_encoder else (),
            forced_last=config.forced_eos_token_id,
        )
        self.generator = Generator(self.loaded.model, self.special)

    def of_theirs(self, prompts: list[np.ndarray], max_new_tokens: int, **options) -> list[list[int]]:
        """What transformers writes, without padding after the end."""
        width = max(map(len, prompts))
        ids = np.full((len(prompts), width), self.special.pad)
        mask = np.zeros((len(prompts), width), np.int64)
        for row, prompt in enumerate(prompts):
            where = slice(0, len(prompt)) if self.has_encoder else slice(width - len(prompt), None)
            ids[row, where], mask[row, where] = prompt, 1
        with torch.no_grad():
            written = self.theirs.generate(
                torch.from_numpy(ids),
                attention_mask=torch.from_numpy(mask),
                max_new_tokens=max_new_tokens,
                do_sample=False,
                **options,
            )
        start = 1 if self.has_encoder else width
        return [self._until_end(row[start:].tolist()) for row in written]

    def _until_end(self, token_ids: list[int]) -> list[int]:
        places = [i for i, token in enumerate(token_ids) if token in self.special.end]
        return token_ids[: places[0] + 1] if places else token_ids

    def of_ours(self, prompts: list[np.ndarray], config) -> list[list[int]]:
        """What we write."""
        return [one.token_ids.tolist() for one in self.generator.generate(self.loaded.params, prompts, config)]


def draw_prompts(lengths: tuple[int, ...], seed: int = 0) -> list[np.ndarray]:
    """Random prompts of these lengths."""
    rng = np.random.default_rng(seed)
    return [rng.integers(5, VOCABULARY, length).astype(np.int32) for length in lengths]
