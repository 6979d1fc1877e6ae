"""A description of what each query may see, from which every attention kernel makes what it needs."""

from __future__ import annotations

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from jaxft.kernels.shapes import Array

# Who sees whom.
Visible = Bool[Array, "#batch #heads #query_length #key_length"]


class AttentionMask(flax.struct.PyTreeNode):
    """Who may see whom.

    Attributes:
      causal: keys after the query are hidden (static).
      window: `(left, right)`: how many keys before and after the query are visible besides itself (static).
      query_segments: int32 `(batch, query_length)`, or None. Tokens see only their own segment; segment 0 is padding.
      key_segments: int32 `(batch, key_length)`, or None; given whenever `query_segments` is.
      padded: whether these are a single segment with padding behind it in each row, so that lengths say all of them
        (static).
      prefix: bool `(batch, key_length)`, or None: keys that queries of their segment see although they come later.
      query_order: int32 `(batch, query_length)`, or None: only keys of a lower order are visible (XLNet).
      key_order: int32 `(batch, key_length)`, or None; given whenever `query_order` is.
      query_positions: int32 `(batch, query_length)`, or None: where the queries stand in their sequences, by which
        `causal` and `window` then go instead of by index, as they must where keys come out of a cache.
      key_positions: int32 `(batch, key_length)`, or None; given whenever `query_positions` is. A key with a negative
        one is hidden.
      balanced: for how many devices that share the length the tokens were laid out (see `balanced_order`), by which
        `causal` and `window` then go; 1 where they stand as they follow each other (static).
      bias: float, broadcastable to `(batch, heads, query_length, key_length)`, or None: added to the scaled scores.
      exact_bias: whether that bias must not be rounded to 16 bits, in which keys far away would share one (static).
    """

    causal: bool = flax.struct.field(pytree_node=False, default=False)
    window: tuple[int, int] | None = flax.struct.field(pytree_node=False, default=None)
    balanced: int = flax.struct.field(pytree_node=False, default=1)
    query_segments: Int[Array, "batch query_length"] | None = None
    key_segments: Int[Array, "batch key_length"] | None = None
    padded: bool = flax.struct.field(pytree_node=False, default=False)
    prefix: Bool[Array, "batch key_length"] | None = None
    query_order: Int[Array, "batch query_length"] | None = None
    key_order: Int[Array, "batch key_length"] | None = None
    query_positions: Int[Array, "batch query_length"] | None = None
    key_positions: Int[Array, "batch key_length"] | None = None
    bias: Float[Array, "#batch #heads #query_length #key_length"] | None = None
    exact_bias: bool = flax.struct.field(pytree_node=False, default=False)

    def dense(self, query_length: int, key_length: int) -> Visible | None:
        """Who sees whom: bool, broadcastable to `(batch, heads, query_length, key_length)`; None where all see all."""
        parts = []
        if self.query_positions is None:
            places, key_places = (balanced_order(length, self.balanced) for length in (query_length, key_length))
            distance = jnp.asarray(key_places[None, :] - places[:, None])[None, None]
        else:
            assert self.key_positions is not None  # given with those of the queries
            distance = self.key_positions[:, None, None, :] - self.query_positions[:, None, :, None]
            parts.append(self.key_positions[:, None, None, :] >= 0)
        if self.causal:
            past = distance <= 0
            parts.append(past if self.prefix is None else past | self.prefix[:, None, None, :])
        if self.window is not None:
            left, right = self.window
            parts.append((distance >= -left) & (distance <= right))
        if self.query_segments is not None:
            assert self.key_segments is not None  # likewise
            queries, keys = self.query_segments[:, None, :, None], self.key_segments[:, None, None, :]
            parts.append((queries == keys) & (keys > 0))
        if self.query_order is not None:
            assert self.key_order is not None  # likewise
            parts.append(self.key_order[:, None, None, :] < self.query_order[:, None, :, None])
        visible = None
        for part in parts:
            visible = part if visible is None else visible & part
        return visible

    def sees_any(self) -> Bool[Array, "batch query_length"] | None:
        """Which queries see a key, of a mask by segments, `causal` and `window` alone.

        Returns:
          bool `(batch, query_length)`; None where all do.
        """
        if self.query_segments is None:
            return None
        assert self.key_segments is not None  # given with those of the queries
        real = self.query_segments > 0
        if self.causal or self.window is not None:
            return real  # themselves
        return real & (self.query_segments[:, :, None] == self.key_segments[:, None, :]).any(-1)


def balanced_order(length: int, devices: int) -> Int[np.ndarray, " {length}"]:
    """Which token of a sequence stands at each place where devices share the length of causal attention evenly.

    Of `2 * devices` parts each device has one from the front and one from the back, so that all of them have as many
    pairs of queries and keys to look at (as in "Striped attention", Brandon et al. 2023, arXiv 2311.09431, by parts).

    Args:
      length: tokens, a multiple of `2 * devices` where there are several devices.
      devices: that share them.

    Returns:
      int32 `(length,)`.
    """
    tokens = np.arange(length, dtype=np.int32)
    if devices == 1:
        return tokens
    parts = tokens.reshape(2 * devices, -1)
    pairs = [part for device in range(devices) for part in (parts[device], parts[-1 - device])]
    return np.concatenate(pairs)


def ring_positions(lengths: Int[Array, " batch"], slots: int) -> Int[Array, "batch {slots}"]:
    """Which token each slot of a cache holds, if tokens were written in turn, each over the one `slots` before it.

    Args:
      lengths: int32 `(batch,)`: tokens written.
      slots: of the cache; where no more than that were written, token i is in slot i.

    Returns:
      int32 `(batch, slots)`: positions of the tokens, negative for a slot that nothing was written to.
    """
    last = lengths[:, None] - 1
    return last - (last - jnp.arange(slots, dtype=jnp.int32)) % slots
