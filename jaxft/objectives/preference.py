"""Preferences of people over two answers, learned without a model of rewards (DPO, Rafailov et al. 2023)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, text_column
from jaxft.data.store import TOKENS, Fields, Record
from jaxft.errors import DataError, InvalidField
from jaxft.kernels.cross_entropy import cross_entropy
from jaxft.kernels.shapes import Array
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.config import ObjectiveConfig
from jaxft.objectives.objective import Apply, Objective, ObjectiveContext, Ratio, StreamLoss, count_tokens
from jaxft.objectives.rows import enclose, lay
from jaxft.objectives.shown import ShownRow, side_tokens

_PROMPT, _REJECTED = "prompt", "rejected"


@dataclasses.dataclass(frozen=True)
class PreferenceConfig(ObjectiveConfig):
    """Preferences in a recipe (arXiv 2305.18290).

    Attributes:
      prompt: column with what is answered.
      chosen: column with the better answer.
      rejected: column with the other one.
      template: text of the whole prompt, in which `{prompt}` stands for the column's; the answer follows it.
      loss: of the difference of both answers' rewards, where a reward is `beta` times how much likelier an answer is
        than at the start: `dpo` is the negative logarithm of its sigmoid, `hinge` what it lacks to 1 (SLiC, Zhao et
        al. 2023, 2305.10425), `ipo` its squared distance to 1/2, over `beta` squared (Azar et al. 2023, 2310.12036).
      beta: how strongly the model is held to what it was at the start.
      length: tokens of prompt and answer; where they are longer, the beginning of the prompt is cut, and the end of an
        answer that alone fills more than half of them. The model's `max_length` where None.
    """

    kind: Literal["preference"] = "preference"
    prompt: str = "prompt"
    chosen: str = "chosen"
    rejected: str = "rejected"
    template: str = "{prompt}\n"
    loss: Literal["dpo", "ipo", "hinge"] = "dpo"
    beta: float = 0.1
    length: int | None = None

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise InvalidField("beta", f"must be positive, found {self.beta}")
        if self.template.count("{prompt}") != 1:
            raise InvalidField("template", f"must hold {{prompt}} once, found {self.template!r}")

    def text_columns(self) -> tuple[str, ...]:
        """The prompt and both answers."""
        return (self.prompt, self.chosen, self.rejected)


class Preference(Objective):
    """Makes the better of two answers likelier than it was at the start, and the other one less likely."""

    families = frozenset({"decoder"})
    pack = False
    truncate = True
    needs_origin = True
    metrics = ("accuracy", "margin", "loss")
    default_metrics = metrics
    lower_is_better = frozenset({"loss"})

    def __init__(self, config: PreferenceConfig, context: ObjectiveContext):
        super().__init__(config.kind, context, config.length, {"causal_lm": HeadConfig("causal_lm")})
        self._config = config
        self._start = context.tokenizer.template.before.ids
        self.overhead = 1 + len(self._start)

    def fields(self, row: Row) -> Fields:
        """The prompt and both answers."""
        config = self._config
        chosen, rejected = (text_column(row, column) for column in (config.chosen, config.rejected))
        if chosen == rejected:
            problem = f"columns {config.chosen!r} and {config.rejected!r} hold the same answer"
            raise DataError(f"{row.location}: {problem}; there is nothing to prefer", "same_answers")
        prompt = config.template.replace("{prompt}", text_column(row, config.prompt))
        return Fields({TOKENS: chosen, _PROMPT: prompt, _REJECTED: rejected})

    def record_options(self) -> str:
        """The columns and the template."""
        config = self._config
        columns = f"prompt={config.prompt} chosen={config.chosen} rejected={config.rejected}"
        return f"{columns} template={config.template}"

    def make_row(self, records: list[Record], keys: list[np.random.Generator]) -> Batch:
        """The prompt with either answer: `token_ids`, `segment_ids` and `answer` (1 for its tokens and its end) int32
        `(2, length)`."""
        (record,) = records
        prompt, answers = self._fitted(record[_PROMPT], (record[TOKENS], record[_REJECTED]))
        tokenizer = self.tokenizer
        texts = [enclose(self._start, np.append(prompt, one), tokenizer.separator_id) for one in answers]
        marks = [np.arange(len(text)) >= len(text) - len(one) - 1 for text, one in zip(texts, answers, strict=True)]
        return {
            "token_ids": np.stack([lay([text], self.length, tokenizer.pad_id) for text in texts]),
            "segment_ids": np.stack([lay([np.ones(len(text))], self.length) for text in texts]),
            "answer": np.stack([lay([mark], self.length) for mark in marks]),
        }

    def shown(self, row: Batch) -> ShownRow:
        """The prompt with the better answer, and with the other one."""
        return ShownRow(side_tokens(row, self.tokenizer))

    def _fitted(self, prompt: np.ndarray, answers: tuple[np.ndarray, ...]) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
        """Both answers after the same prompt, as much of it as both leave room for: its end says what is asked."""
        room = self.longest
        answers = tuple(one[: room - min(len(prompt), room // 2)] for one in answers)
        left = room - max(map(len, answers))
        return prompt[max(len(prompt) - left, 0) :], answers

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The loss that the config names, one weight for each pair.

        `accuracy` is how many of the better answers have the larger reward, `margin` by how much.
        """
        config, weights = self._config, batch["row_weight"]
        assert apply.origin is not None  # as for all that `needs_origin`
        gained = self.log_probabilities(apply, batch) - self.log_probabilities(apply.origin, batch)
        difference = gained[:, 0] - gained[:, 1]
        losses = preference_loss(difference, config.beta, config.loss)
        weight = weights.sum()
        ratios = {
            "accuracy": Ratio(((difference > 0) * weights).sum(), weight),
            "margin": Ratio((config.beta * difference * weights).sum(), weight),
        }
        return StreamLoss((losses * weights).sum(), weight, count_tokens(batch["segment_ids"]), ratios)

    def log_probabilities(self, apply: Apply, batch: Mapping[str, jax.Array]) -> Float[Array, "batch 2"]:
        """Of the better and the other answer, each after the prompt, in nats; float32 `(batch, 2)`."""
        ids, segments, answer = (
            batch[name].reshape(-1, self.length) for name in ("token_ids", "segment_ids", "answer")
        )
        logits = apply(Sequences(ids, segments, padded=True), head=self.head_name).logits[:, :-1]
        losses = cross_entropy(logits, ids[:, 1:])
        return -(losses * answer[:, 1:]).sum(1).reshape(-1, 2)


def preference_loss(difference: Float[Array, " batch"], beta: float, kind: str) -> Float[Array, " batch"]:
    """The loss of each pair, float32 `(batch,)`.

    Args:
      difference: by how many nats more the better answer has gained since the start than the other, float32 `(batch,)`.
      beta: see `PreferenceConfig`.
      kind: likewise.
    """
    if kind == "ipo":
        return jnp.square(difference - 1 / (2 * beta))
    if kind == "hinge":
        return jnp.maximum(1 - beta * difference, 0.0)
    return jax.nn.softplus(-beta * difference)
