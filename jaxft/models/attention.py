"""Multi-head attention, for all families."""

from __future__ import annotations

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Float, Int

from jaxft.kernels.attention import attention
from jaxft.kernels.cached_attention import cached_attention
from jaxft.kernels.masks import AttentionMask, ring_positions
from jaxft.kernels.shapes import Array, Hidden, Keys, Queries
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.layers import Linear, make_norm
from jaxft.models.positions import Angles, rotate
from jaxft.models.relative import RelativePositions, TransformerXLBias, disentangled_bias
from jaxft.parallel.sharding import constrain


class Attention(nn.Module):
    """Multi-head attention with grouped key and value heads.

    Keys and values, after norms and rotations, are kept as `key` and `value` where the collection `keys_values` is
    mutable; what was kept of earlier tokens is attended to where it is given as the collection `cache`.

    Attributes:
      config: the model.
      compute: how it is computed.
    """

    config: ModelConfig
    compute: ComputeConfig

    @nn.compact
    def __call__(
        self,
        x: Hidden,
        source: Float[Array, "batch source_length embed"] | None,
        mask: AttentionMask,
        angles: Angles | None = None,
        relative: RelativePositions | None = None,
        cached: Int[Array, " batch"] | None = None,
    ) -> Hidden:
        """`(batch, length, embed)`: `x` attends to `source` `(batch, source_length, embed)`, after the cache.

        Args:
          x: where queries come from, `(batch, length, embed)`.
          source: where keys and values come from; None where all of them are cached.
          mask: who sees whom.
          angles: rotary cosines and sines, or None.
          relative: relative positions, or None.
          cached: int32 `(batch,)`: tokens in the cache that stand before those of `source`, or None.
        """
        config, compute = self.config, self.compute
        natural = config.width_of_head**-0.5
        scale = natural if config.attention_scale is None else config.attention_scale
        # Scores begin equally small whatever the scale: T5, which has none, puts it into its first queries instead.
        query_projection = self._heads("query", config.num_heads, "heads", config.initializer_range * natural / scale)
        key_projection = self._heads("key", config.kv_heads, "kv_heads")
        query = query_projection(x)
        key = None if source is None else key_projection(source)
        value = None if source is None else self._heads("value", config.kv_heads, "kv_heads")(source)
        if config.query_key_norm != "none":
            query = self._normalized(query, "query_norm")
            key = None if key is None else self._normalized(key, "key_norm")
        if angles is not None:
            query, key = rotate(query, angles), None if key is None else rotate(key, angles)
        if key is not None and value is not None:
            self._keep(key, value)
        query = constrain(query, "batch", "length", "heads", "head_dim")
        if config.position == "disentangled":
            # Three kinds of scores are summed: content to content, content to position, position to content.
            scale /= math.sqrt(3)
            assert key is not None and relative is not None  # such models have no cache
            bias = disentangled_bias(query, key, relative, query_projection, key_projection)
            mask = mask.replace(bias=bias * scale)
        elif config.position == "transformer_xl":
            assert relative is not None
            query, bias = TransformerXLBias(config, compute, name="relative")(query, relative)
            mask = mask.replace(bias=bias * scale)
        mixed = self._attended(query, key, value, mask, scale, cached)
        output_bias = config.attention_bias if config.attention_output_bias is None else config.attention_output_bias
        return Linear(
            (config.embed_dim,),
            ("heads", "head_dim"),
            ("embed",),
            output_bias,
            jnp.dtype(compute.precision),
            config.initializer_range,
            jnp.dtype(compute.reduce_dtype),
            name="output",
        )(mixed)

    def _attended(
        self,
        query: Queries,
        key: Keys | None,
        value: Keys | None,
        mask: AttentionMask,
        scale: float,
        cached: Int[Array, " batch"] | None,
    ) -> Queries:
        """What each query finds, `(batch, length, heads, head_dim)`."""
        if self.has_variable("cache", "key"):
            return self._with_cache(query, key, value, mask, scale, cached)
        assert key is not None and value is not None  # else they lie in the cache
        config = self.config
        has_dropout = config.attention_dropout > 0 and self.has_rng("dropout")
        return attention(
            query,
            key,
            value,
            mask,
            scale=scale,
            soft_cap=config.attention_soft_cap,
            dropout_rate=config.attention_dropout,
            dropout_key=self.make_rng("dropout") if has_dropout else None,
            implementation=self.compute.attention,
        )

    def _keep(self, key: Keys, value: Keys) -> None:
        if self.is_mutable_collection("keys_values") and not self.is_initializing():
            self.put_variable("keys_values", "key", key)
            self.put_variable("keys_values", "value", value)

    def _with_cache(
        self,
        query: Queries,
        key: Keys | None,
        value: Keys | None,
        mask: AttentionMask,
        scale: float,
        cached: Int[Array, " batch"] | None,
    ) -> Queries:
        """Attention to the cache and then to the new tokens, `(batch, length, heads, head_dim)`."""
        parts: list[tuple[jax.Array, jax.Array]] = [
            (self.get_variable("cache", "key"), self.get_variable("cache", "value"))
        ]
        if key is not None and value is not None:
            assert cached is not None and mask.query_positions is not None  # as where there are new keys beside a cache
            parts.append((key, value))
            before = ring_positions(cached, parts[0][0].shape[1])
            mask = mask.replace(key_positions=jnp.concatenate([before, mask.query_positions], axis=1))
        return cached_attention(query, parts, mask, scale=scale, soft_cap=self.config.attention_soft_cap)

    def _heads(self, name: str, number: int, axis: str, initializer_range: float | None = None) -> Linear:
        config, compute = self.config, self.compute
        return Linear(
            (number, config.width_of_head),
            ("embed",),
            (axis, "head_dim"),
            config.attention_bias,
            jnp.dtype(compute.precision),
            initializer_range or config.initializer_range,
            jnp.dtype(compute.reduce_dtype),
            name=name,
        )

    def _normalized(self, x: Queries, name: str) -> Queries:
        norm = make_norm(self.config, self.compute, name)
        if self.config.query_key_norm == "head":
            return norm(x)
        return norm(x.reshape(*x.shape[:2], -1)).reshape(x.shape)
