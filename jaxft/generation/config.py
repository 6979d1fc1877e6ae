"""How tokens are chosen and when to stop: of all texts, of one prompt, and by the ids that a model has for it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

from jaxft.errors import InvalidField

# Logits are float32: what multiplies or divides them stays far from where that ends, and so do powers of lengths.
_MOST, _LEAST, _MOST_POWER = 1e6, 1e-6, 8


@dataclasses.dataclass(frozen=True)
class GenerationConfig:
    """How a model writes.

    Attributes:
      max_new_tokens: most tokens that are written; fewer where the model's context ends before.
      min_new_tokens: so many are written before the end token may be.
      temperature: divides the logits before a token is drawn; 0 always takes the likeliest (greedy).
      top_k: only so many of the likeliest tokens are drawn from; 0 for all.
      top_p: only the likeliest tokens that together have this probability (Holtzman et al. 2020, arXiv 1904.09751).
      min_p: only tokens with at least this share of the likeliest one's probability (Nguyen et al. 2024, arXiv
        2407.01082).
      typical_p: only the tokens whose information is closest to the distribution's entropy, that together have this
        probability (Meister et al. 2022, arXiv 2202.00666).
      repetition_penalty: divides positive and multiplies negative logits of tokens that the prompt or the text has
        (Keskar et al. 2019, arXiv 1909.05858); 1 for none.
      presence_penalty: taken from the logits of tokens that were written before.
      frequency_penalty: taken from the logits of tokens for each time that they were written.
      no_repeat_ngram: no sequence of so many tokens occurs twice in prompt and text; 0 for no such rule.
      logit_bias: pairs of a token's id and what is added to its logit, before all other rules.
      beams: sequences kept by beam search; 1 for none.
      length_penalty: beam search divides log-probabilities by the length to this power.
      beam_groups: beams are searched for in so many groups, one after the other, of which each is kept away from what
        those before it write at the same place (diverse beam search, Vijayakumar et al. 2016, arXiv 1610.02424).
      diversity_penalty: taken from a token's log-probability for each beam of an earlier group that writes it there.
      early_stopping: beam search ends when there are `beams` finished sequences (True), when a better one is unlikely
        (False), or when none can be better (`never`).
      contrastive_alpha: weight of the likeness to what is already there, in contrastive search over the `top_k`
        likeliest tokens (Su et al. 2022, arXiv 2202.06417); 0 for another way of choosing.
      draft_tokens: how many tokens a draft model writes ahead in speculative decoding.
      num_return_sequences: how many texts each prompt gets.
      stop: texts at whose first occurrence the text ends, without them.
      stop_token_ids: further ids that end the text, as the end token does.
      regex: a regular expression that the whole text matches.
      json_schema: a JSON schema, as JSON, that the text follows.
      top_logprobs: the log-probabilities of so many of the likeliest tokens are kept at each place.
      prefix: text that every text begins with, of which it is a part.
      seed: of what is drawn.
    """

    max_new_tokens: int = 128
    min_new_tokens: int = 0
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    typical_p: float = 1.0
    repetition_penalty: float = 1.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    no_repeat_ngram: int = 0
    logit_bias: tuple[tuple[int, float], ...] = ()
    beams: int = 1
    length_penalty: float = 1.0
    beam_groups: int = 1
    diversity_penalty: float = 0.0
    early_stopping: Literal[True, False, "never"] = False
    contrastive_alpha: float = 0.0
    draft_tokens: int = 4
    num_return_sequences: int = 1
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    regex: str | None = None
    json_schema: str | None = None
    prefix: str = ""
    top_logprobs: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("max_new_tokens", "beams", "beam_groups", "num_return_sequences", "draft_tokens"):
            _check(self, name, getattr(self, name) >= 1, "must be at least 1")
        for name in ("min_new_tokens", "top_k", "no_repeat_ngram", "seed", "diversity_penalty", "top_logprobs"):
            _check(self, name, getattr(self, name) >= 0, "must not be negative")
        _check(self, "seed", self.seed < 2**32, "must be below 2**32")
        for name in (
            "temperature",
            "presence_penalty",
            "frequency_penalty",
            "repetition_penalty",
            "length_penalty",
            "diversity_penalty",
        ):
            value = getattr(self, name)
            _check(self, name, not isinstance(value, float) or math.isfinite(value), "must be a finite number")
            _check(self, name, abs(value) <= _MOST, f"must be from -{_MOST:g} to {_MOST:g}")
        _check(self, "length_penalty", abs(self.length_penalty) <= _MOST_POWER, f"must be at most {_MOST_POWER}")
        _check(self, "logit_bias", all(math.isfinite(bias) for _, bias in self.logit_bias), "must be finite numbers")
        once = len(dict(self.logit_bias)) == len(self.logit_bias)
        _check(self, "logit_bias", once, "must name each token once")
        _check(self, "temperature", self.temperature >= 0, "must not be negative (0 takes the likeliest token)")
        is_divisor = self.temperature == 0 or self.temperature >= _LEAST
        _check(self, "temperature", is_divisor, f"must be 0 or at least {_LEAST:g}")
        for name in ("top_p", "typical_p"):
            _check(self, name, 0 < getattr(self, name) <= 1, "must be above 0 and at most 1")
        for name in ("min_p", "contrastive_alpha"):
            _check(self, name, 0 <= getattr(self, name) < 1, "must be at least 0 and below 1")
        _check(self, "repetition_penalty", self.repetition_penalty > 0, "must be above 0 (1 is no penalty)")
        _check(self, "repetition_penalty", self.repetition_penalty >= _LEAST, f"must be at least {_LEAST:g}")
        _check(self, "early_stopping", self.early_stopping in (True, False, "never"), "must be true, false or 'never'")
        _check(self, "stop", all(self.stop), "must not hold an empty text")
        if self.min_new_tokens > self.max_new_tokens:
            raise InvalidField("min_new_tokens", f"{self.min_new_tokens} is more than max_new_tokens")
        self._check_combinations()

    @property
    def is_constrained(self) -> bool:
        """Whether an expression or a schema says what is written."""
        return self.regex is not None or self.json_schema is not None

    def _check_combinations(self) -> None:
        if self.regex is not None and self.json_schema is not None:
            raise InvalidField("regex", "and json_schema exclude each other; give one of them")
        if self.prefix and self.is_constrained:
            raise InvalidField(
                "prefix", "can't be used with a regex or json_schema, which says how a text begins itself"
            )
        whole = self.beams % self.beam_groups == 0
        _check(self, "beam_groups", whole, f"must divide beams ({self.beams})")
        alone = self.beam_groups > 1 or self.diversity_penalty == 0
        _check(self, "diversity_penalty", alone, "is for beam_groups above 1")
        if self.beams > 1:
            _check(self, "temperature", self.temperature == 0, "must be 0 with beams: beam search draws nothing")
            _check(self, "top_logprobs", self.top_logprobs == 0, "must be 0 with beams")
            _check(self, "contrastive_alpha", self.contrastive_alpha == 0, "must be 0 with beams")
            enough = self.num_return_sequences <= self.beams
            _check(self, "num_return_sequences", enough, f"must be at most beams ({self.beams})")
        elif self.num_return_sequences > 1 and self.temperature == 0:
            raise InvalidField(
                "num_return_sequences", "above 1 needs a temperature above 0 or beams: greedy texts are all the same"
            )
        if self.contrastive_alpha:
            _check(self, "top_logprobs", self.top_logprobs == 0, "must be 0 for contrastive search")
            _check(self, "top_k", self.top_k >= 2, "must be at least 2 for contrastive search (4 to 8 are usual)")
            _check(self, "temperature", self.temperature == 0, "must be 0 for contrastive search, which draws nothing")


# What texts that are written together may each have of their own.
_OWN = ("max_new_tokens", "stop", "seed")


def common_options(config: GenerationConfig) -> GenerationConfig:
    """The configuration without what texts that are written together may each have of their own."""
    plain = GenerationConfig()
    own = {name: getattr(plain, name) for name in _OWN} | {"max_new_tokens": max(1, config.min_new_tokens)}
    return dataclasses.replace(config, **own)


def _check(config: GenerationConfig, name: str, right: bool, problem: str) -> None:
    if not right:
        raise InvalidField(name, f"{problem}, found {getattr(config, name)!r}")


def _never() -> bool:
    return False


@dataclasses.dataclass(frozen=True)
class PromptOptions:
    """What a prompt may have of its own, among others that are written with the same options.

    Attributes:
      max_new_tokens: as in `GenerationConfig`.
      stop: likewise.
      seed: likewise.
      number: by which, beside the seed, its texts are drawn: that of the prompt among those of the same seed.
      is_withdrawn: asked now and then whether nobody waits for its texts any more, which then end.
    """

    max_new_tokens: int
    stop: tuple[str, ...] = ()
    seed: int = 0
    number: int = 0
    is_withdrawn: Callable[[], bool] = _never

    @classmethod
    def of(cls, config: GenerationConfig, number: int = 0) -> PromptOptions:
        """That of a prompt where a configuration speaks for all."""
        return cls(config.max_new_tokens, config.stop, config.seed, number)


@dataclasses.dataclass(frozen=True)
class SpecialTokens:
    """Ids with a meaning of their own to a model that writes.

    Attributes:
      end: ids that end a text.
      pad: id that fills rows; any will do.
      start: what a decoder reads before the first prompt's token, or an encoder-decoder's decoder before it writes;
        empty where a decoder has no such token.
      source_end: what is put after the source of an encoder-decoder.
      source_start: what is put before it.
      forced_first: id that the text begins with (mBART's language), or None.
      forced_last: id that the text ends with where it is cut off (BART), or None.
      suppressed: ids that are never written (Marian's padding).
    """

    end: tuple[int, ...]
    pad: int = 0
    start: tuple[int, ...] = ()
    source_start: tuple[int, ...] = ()
    source_end: tuple[int, ...] = ()
    forced_first: int | None = None
    forced_last: int | None = None
    suppressed: tuple[int, ...] = ()
