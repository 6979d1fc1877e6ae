"""Scaled dot-product attention behind one contract.

Every implementation takes queries `(batch, query_length, heads, head_dim)`, keys and values
`(batch, key_length, kv_heads, head_dim)` with `heads` a multiple of `kv_heads`, an `AttentionMask`, and returns
`(batch, query_length, heads, head_dim)` in the dtype of the queries. Softmax is computed in float32. A query that sees
no key returns zeros.

- `reference`: the formula as it is written, in float32; expresses everything.
- `xla`: `jax.nn.dot_product_attention`.
- `local`: windows, block by block.
- `cudnn`: flash attention of NVIDIA's library, in 16 bits.
- `splash`: flash attention for TPUs, which shares long sequences among devices.
"""

from __future__ import annotations

import functools
import logging

from jaxft.kernels.choice import choose, situation_of
from jaxft.kernels.cudnn import cudnn
from jaxft.kernels.local import local
from jaxft.kernels.masks import AttentionMask
from jaxft.kernels.plain import reference, xla
from jaxft.kernels.shapes import Keys, Queries, RandomKey
from jaxft.kernels.splash import splash
from jaxft.parallel.platform import only_planned

_logger = logging.getLogger("jaxft")


def attention(
    query: Queries,
    key: Keys,
    value: Keys,
    mask: AttentionMask,
    *,
    scale: float,
    soft_cap: float | None = None,
    dropout_rate: float = 0.0,
    dropout_key: RandomKey | None = None,
    implementation: str = "auto",
) -> Queries:
    """Attention by the named implementation.

    Args:
      query: `(batch, query_length, heads, head_dim)`.
      key: `(batch, key_length, kv_heads, head_dim)`.
      value: as `key`.
      mask: what each query may see.
      scale: factor of the scores.
      soft_cap: scores become `soft_cap * tanh(scores / soft_cap)` (Gemma 2); None leaves them.
      dropout_rate: rate of dropout on the attention probabilities; 0 where `dropout_key` is None.
      dropout_key: random key of that dropout.
      implementation: a name above, or `auto`, which takes the fastest that expresses all of it.

    Raises:
      RecipeError: the named implementation cannot express what was asked.
    """
    rate = dropout_rate if dropout_key is not None else 0.0
    chosen, reason = choose(implementation, situation_of(query, key, mask, soft_cap, rate))
    if implementation == "auto":
        _say_once(chosen, reason)
    # Of what is only planned shapes are wanted, and libraries of devices that are not here give none.
    match "reference" if only_planned() else chosen:
        case "reference":
            return reference(
                query, key, value, mask, scale=scale, soft_cap=soft_cap, dropout_rate=rate, dropout_key=dropout_key
            )
        case "splash":
            return splash(query, key, value, mask, scale, soft_cap)
        case "cudnn":
            return cudnn(query, key, value, mask, scale)
        case "xla":
            return xla(query, key, value, mask, scale)

    def within(query: Queries, key: Keys, value: Keys, mask: AttentionMask, dropout_key: RandomKey | None) -> Queries:
        if soft_cap is None and not rate:
            return xla(query, key, value, mask, scale)
        return reference(
            query, key, value, mask, scale=scale, soft_cap=soft_cap, dropout_rate=rate, dropout_key=dropout_key
        )

    return local(query, key, value, mask, within, dropout_key if rate else None)


@functools.cache
def _say_once(chosen: str, reason: str) -> None:
    _logger.info("attention: %s (%s)", chosen, reason)
