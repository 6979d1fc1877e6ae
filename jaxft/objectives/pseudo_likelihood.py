"""How likely a bidirectional model finds a text (Salazar et al. 2020, arXiv 1910.14659)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float

from jaxft.kernels.cross_entropy import cross_entropy
from jaxft.kernels.shapes import Array
from jaxft.models.transformer import Sequences
from jaxft.objectives.objective import Apply


def pseudo_log_likelihood(
    apply: Apply, sequences: Sequences, scored: Bool[Array, "batch length"], head: str, mask_id: int
) -> Float[Array, " batch"]:
    """Sum over tokens of the log-probability of each where it alone is masked; as many passes as a row has places.

    Args:
      apply: a model.
      sequences: whole texts.
      scored: bool `(batch, length)`: the tokens that count.
      head: name of the masked-LM head.
      mask_id: stands for a masked token.

    Returns:
      float32 `(batch,)`, in nats.
    """
    ids = sequences.token_ids

    def add(total: jax.Array, place: jax.Array) -> tuple[jax.Array, None]:
        masked = jnp.where(jnp.arange(ids.shape[1]) == place, mask_id, ids)
        gather = jnp.full((ids.shape[0], 1), place, jnp.int32)
        logits = apply(sequences.replace(token_ids=masked), head=head, gather=gather).logits[:, 0]
        losses = cross_entropy(logits, ids[:, place])
        return total - jnp.where(scored[:, place], losses, 0.0), None

    total, _ = jax.lax.scan(add, jnp.zeros(ids.shape[0], jnp.float32), jnp.arange(ids.shape[1]))
    return total
