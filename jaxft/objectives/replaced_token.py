"""Replaced-token detection (ELECTRA, Clark et al. 2020, arXiv 2003.10555)."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxft.errors import InvalidField, RecipeError
from jaxft.kernels.cross_entropy import weighted_sums
from jaxft.kernels.shapes import Array, RandomKey
from jaxft.models.heads import HeadConfig
from jaxft.models.transformer import Sequences
from jaxft.objectives.language_loss import token_loss
from jaxft.objectives.masked_lm import put_tokens, restored
from jaxft.objectives.masking import MaskedObjective, Masking, MaskingConfig
from jaxft.objectives.objective import Apply, ObjectiveContext, Ratio, StreamLoss, count_tokens


@dataclasses.dataclass(frozen=True)
class ReplacedTokenConfig(MaskingConfig):
    """Replaced-token detection in a recipe; the fields of `MaskingConfig` too.

    Attributes:
      text: column with the text; long texts are split, short ones packed.
      length: tokens of a row, special tokens included; the model's `max_length` where None.
      generator_size: width of the generator as a share of the discriminator's.
      discriminator_weight: of the discriminator's loss beside the generator's.
    """

    kind: Literal["replaced_token"] = "replaced_token"
    text: str = "text"
    length: int | None = None
    masked: float = 0.85
    randomized: float = 0.0
    generator_size: float = 0.25
    discriminator_weight: float = 50.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.generator_size <= 1:
            raise InvalidField("generator_size", f"must be more than 0 and at most 1, found {self.generator_size}")
        if self.discriminator_weight <= 0:
            raise InvalidField("discriminator_weight", f"must be positive, found {self.discriminator_weight}")


class ReplacedToken(MaskedObjective):
    """A small masked language model fills masked places; the trunk tells which tokens are not the original ones.

    Both share the embeddings. No gradient passes through the samples.
    """

    _config: ReplacedTokenConfig
    families = frozenset({"encoder"})
    # `replaced` is the share of tokens that are not the original ones, which tells what a constant guess is worth.
    metrics = ("loss", "f1", "accuracy", "replaced", "discriminator_loss", "generator_loss", "generator_accuracy")
    default_metrics = metrics
    lower_is_better = frozenset({"loss", "discriminator_loss", "generator_loss"})

    def __init__(self, config: ReplacedTokenConfig, context: ObjectiveContext):
        model = context.model
        discriminator = HeadConfig("token_classification", 1, transform=model.activation, dropout=0.0)
        generator = HeadConfig("generator", size=config.generator_size)
        heads = {"replaced_token": discriminator, "generator": generator}
        super().__init__(config.kind, context, config.length, heads)
        if model.position in ("relative_bias", "disentangled", "transformer_xl") or (
            model.embedding_projection == "first" and model.width_of_embedding != model.embed_dim
        ):
            raise RecipeError(f"objective {config.kind}: its generator cannot share the embeddings of this model")
        self._config, self._context = config, context
        self._masking = Masking(config.kind, config, context.tokenizer, self.length)

    def balance(self, batch: Mapping[str, jax.Array]) -> Mapping[str, jax.Array]:
        """With the weight of each masked token against one of the discriminator's: the sum of sums is one of means."""
        masked = (batch["label_weights"] * batch["row_weight"][:, None]).sum()
        seen = ((batch["segment_ids"] > 0) * batch["row_weight"][:, None]).sum()
        return {**batch, "generator_weight": batch["row_weight"] * seen / jnp.maximum(masked, 1.0)}

    def loss(self, apply: Apply, batch: Mapping[str, jax.Array]) -> StreamLoss:
        """The generator's cross entropy and the discriminator's binary one."""
        masked = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
        logits = apply(masked, head="generator", gather=batch["gather"]).logits
        weights = batch["label_weights"] * batch["row_weight"][:, None]
        sums = weighted_sums(logits, batch["labels"], weights)
        generator = token_loss(sums, weights.sum(), count_tokens(batch["segment_ids"]))

        original = restored(batch)
        filled = put_tokens(original, batch, sample(logits, apply.key))
        replaced = (filled != original).astype(jnp.float32)
        found = apply(masked.replace(token_ids=filled), head="replaced_token").logits[..., 0]
        losses = jax.nn.softplus(found) - found * replaced
        seen = (batch["segment_ids"] > 0) * batch["row_weight"][:, None]
        discriminator, count = (losses * seen).sum(), seen.sum()
        guess = (found > 0).astype(jnp.float32)
        agreed = (guess * replaced * seen).sum()
        ratios = {
            "f1": Ratio(2 * agreed, ((guess + replaced) * seen).sum()),
            "accuracy": Ratio(((guess == replaced) * seen).sum(), count),
            "replaced": Ratio((replaced * seen).sum(), count),
            "discriminator_loss": Ratio(discriminator, count),
            "generator_loss": Ratio(generator.loss, generator.weight),
            "generator_accuracy": generator.ratios["accuracy"],
        }
        share = batch["generator_weight"].sum() / jnp.maximum(batch["row_weight"].sum(), 1.0)
        total = self._config.discriminator_weight * discriminator + share * generator.loss
        return StreamLoss(total, count, generator.tokens, ratios)

    def total(self, means: Mapping[str, float]) -> float:
        """Both means."""
        return means["generator_loss"] + self._config.discriminator_weight * means["discriminator_loss"]


def sample(logits: Float[Array, "*places vocab"], key: RandomKey | None) -> Int[Array, "*places"]:
    """Ids drawn from the softmax, int32 `(...)`, without a gradient; the same ones every time where there is no key."""
    return jax.random.categorical(jax.random.key(0) if key is None else key, jax.lax.stop_gradient(logits))
