"""How a sentence encoder makes one vector of a sentence, as the sentence-transformers package computes it."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.heads import pool

# Names of the ways to pool, old and new, with ours.
MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last", "lasttoken": "last",
}  # fmt: skip
_ACTIVATIONS = {
    "identity": lambda x: x, "tanh": jnp.tanh, "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "relu": jax.nn.relu, "silu": jax.nn.silu, "sigmoid": jax.nn.sigmoid,
}  # fmt: skip


@dataclasses.dataclass(frozen=True, eq=False)
class Dense:
    """A linear layer on a sentence's vector. Like the others it equals only itself, so that it can be compiled in.

    Attributes:
      weight: float32 `(outputs, inputs)`.
      bias: `(outputs,)`, or None.
      activation: `identity`, `tanh`, `gelu`, `relu`, `silu` or `sigmoid`.
      residual: `(outputs, inputs)`, by which the vector itself is added to the result; None where it is not.
    """

    weight: np.ndarray
    bias: np.ndarray | None
    activation: str
    residual: np.ndarray | None

    def __call__(self, vector: jax.Array) -> jax.Array:
        """float32 `(batch, outputs)`."""
        result = vector @ self.weight.T + (0.0 if self.bias is None else self.bias)
        result = _ACTIVATIONS[self.activation](result)
        return result if self.residual is None else result + vector @ self.residual.T


@dataclasses.dataclass(frozen=True, eq=False)
class LayerNorm:
    """A norm of a sentence's vector.

    Attributes:
      scale: float32 `(features,)`.
      bias: of the same shape.
    """

    scale: np.ndarray
    bias: np.ndarray

    def __call__(self, vector: jax.Array) -> jax.Array:
        """float32 `(batch, features)`."""
        centred = vector - vector.mean(-1, keepdims=True)
        return centred / jnp.sqrt(jnp.square(centred).mean(-1, keepdims=True) + 1e-5) * self.scale + self.bias


@dataclasses.dataclass(frozen=True)
class Normalize:
    """Brings a sentence's vector to length one."""

    def __call__(self, vector: jax.Array) -> jax.Array:
        """float32 `(batch, features)`."""
        return vector / jnp.maximum(jnp.linalg.norm(vector, axis=-1, keepdims=True), 1e-12)


SentenceLayer = Dense | LayerNorm | Normalize


@dataclasses.dataclass(frozen=True)
class SentencePooling:
    """From hidden states to a vector.

    Attributes:
      mode: `mean` over the tokens, the first token (`cls`), the `last` one, or the `max` of each feature.
      normalize: whether the vector is brought to length one at last.
      layers: what the vector passes through before.
    """

    mode: str
    normalize: bool
    layers: tuple[SentenceLayer, ...] = ()

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        """float32 `(batch, features)`.

        Args:
          hidden: `(batch, length, embed)`.
          mask: `(batch, length)`, 0 where padded.
        """
        vector = self._pooled(hidden.astype(jnp.float32), mask)
        for layer in (*self.layers, *((Normalize(),) if self.normalize else ())):
            vector = layer(vector)
        return vector

    def _pooled(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        real = (mask > 0)[..., None]
        if self.mode == "mean":
            return (hidden * real).sum(1) / jnp.maximum(real.sum(1), 1)
        if self.mode == "max":
            return jnp.where(real, hidden, -jnp.inf).max(1)
        if self.mode == "last":
            return pool(hidden, mask, "last")
        first = jnp.argmax(mask > 0, axis=1)
        return jnp.take_along_axis(hidden, first[:, None, None], axis=1)[:, 0]
