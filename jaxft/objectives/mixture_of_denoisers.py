"""Mixture of denoisers (UL2, Tay et al. 2022, arXiv 2205.05131)."""

from __future__ import annotations

import dataclasses
from typing import Literal

import numpy as np

from jaxft.data.store import TOKENS, Record
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.config import TextConfig
from jaxft.objectives.denoising import Pair, SequenceToSequence, sentinels_of
from jaxft.objectives.objective import ObjectiveContext, ReadsText
from jaxft.objectives.span_corruption import Noise, cut_out, longest_piece, room_of

# Regular, sequential and extreme denoising, with the rates and mean lengths of the paper's table 1.
_DENOISERS = {
    "regular": (Noise(0.15, 3), Noise(0.15, 8)),
    "sequential": (Noise(0.25, None),),
    "extreme": (Noise(0.5, 3), Noise(0.5, 8), Noise(0.15, 64), Noise(0.5, 64)),
}


@dataclasses.dataclass(frozen=True)
class MixtureOfDenoisersConfig(TextConfig):
    """Mixture of denoisers in a recipe.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of the encoder's row, special tokens included; the model's `max_length` where None.
      target_length: tokens of the decoder's row; as many where None.
      regular: weight of short spans and few (as in T5).
      sequential: weight of continuing a text.
      extreme: weight of long spans or many.
      regular_mode: text before a source that says how it was made, or None; those of the released UL2 by default.
      sequential_mode: that of continuations.
      extreme_mode: that of long spans or many.
    """

    kind: Literal["mixture_of_denoisers"] = "mixture_of_denoisers"
    text: str = "text"
    length: int | None = None
    target_length: int | None = None
    regular: float = 2.0
    sequential: float = 1.0
    extreme: float = 4.0
    regular_mode: str | None = "[NLU]"
    sequential_mode: str | None = "[S2S]"
    extreme_mode: str | None = "[NLG]"

    def __post_init__(self) -> None:
        weights = {name: getattr(self, name) for name in _DENOISERS}
        for name, weight in weights.items():
            if weight < 0:
                raise InvalidField(name, f"must not be negative, found {weight}")
        if not any(weights.values()):
            raise InvalidField("regular", "one of regular, sequential and extreme must be more than 0")


class MixtureOfDenoisers(ReadsText, SequenceToSequence):
    """Each piece is corrupted by one of seven denoisers, chosen at random by weight; its source says of which kind."""

    def __init__(self, config: MixtureOfDenoisersConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length)
        self._config, self._sentinels = config, sentinels_of(config.kind, context)
        self.target_length = config.target_length or self.length
        self._noises: list[Noise] = []
        self._modes: list[np.ndarray] = []
        weights: list[float] = []
        for name, noises in _DENOISERS.items():
            mode = getattr(config, f"{name}_mode")
            tokens = np.zeros(0, np.int32) if mode is None else context.tokenizer.encode([mode])[0]
            self._noises += noises
            self._modes += [tokens] * len(noises)
            weights += [getattr(config, name) / len(noises)] * len(noises)
        self._weights = np.array(weights) / sum(weights)
        self._mode_length = max(map(len, self._modes))
        if self.length < self._mode_length + 4:
            raise RecipeError(
                f"objective {config.kind}: rows of {self.length} tokens have no room beside the mode tokens, which "
                f"this tokenizer splits into up to {self._mode_length}: make them user_symbols, or rows longer"
            )
        self._used = [noise for noise, weight in zip(self._noises, weights, strict=True) if weight]
        self._longest = longest_piece(self._used, self.length - self._mode_length, self.target_length)
        spans = max(int(noise.counts(np.array(self._longest))[1]) for noise in self._used)
        if spans > len(self._sentinels):
            raise RecipeError(
                f"objective {config.kind}: rows of {self.length} tokens have up to {spans} spans, but the tokenizer "
                f"only {len(self._sentinels)} sentinels"
            )

    @property
    def longest(self) -> int:
        """Tokens of the longest piece that fits whichever denoiser it gets."""
        return self._longest

    def room(self, lengths: np.ndarray) -> np.ndarray:
        """What pieces take of a row, whichever denoiser they get."""
        return self._mode_length + room_of(self._used, lengths, self.length - self._mode_length, self.target_length)

    def example(self, record: Record, key: np.random.Generator) -> Pair:
        """Source and target of a piece."""
        tokens = record[TOKENS]
        number = int(key.choice(len(self._noises), p=self._weights))
        mask = self._noises[number].mask(len(tokens), key)
        source, target = cut_out(tokens, mask, self._sentinels, self.tokenizer.separator_id)
        return np.concatenate([self._modes[number], source]), target
