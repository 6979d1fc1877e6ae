"""Mixtures of examples and their labels (mixup, Zhang et al. 2017, arXiv 1710.09412).

The vectors of two sentences are mixed where the last projection reads them (senMixup, Guo et al. 2019, arXiv
1905.08941). As that projection is affine and the two shares make up 1, it gives for a mixture of vectors the same
mixture of the logits: so the logits are mixed, and no head has to know of it.
"""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int
from scipy.special import betaincinv

from jaxft.kernels.shapes import Array, RandomKey

# Places of the table by which shares are drawn.
_QUANTILES = 4097


@flax.struct.dataclass
class Mixing:
    """Which example of a batch each one is mixed with.

    Attributes:
      share: float32 `(batch,)`, of the example itself, from 0.5 to 1; the rest is its partner's.
      partner: int32 `(batch,)`, row of the other one.
    """

    share: Float[Array, " batch"]
    partner: Int[Array, " batch"]

    def __call__(
        self, own: Float[Array, "batch ..."], others: Float[Array, "batch ..."] | None = None
    ) -> Float[Array, "batch ..."]:
        """The mixture of what belongs to each example with what belongs to its partner.

        Args:
          own: float `(batch, ...)`.
          others: of the same shape, in the rows of the partners already; rows of `own` where None.
        """
        others = own[self.partner] if others is None else others
        share = self.share.reshape(-1, *[1] * (own.ndim - 1))
        return share * own + (1 - share) * others


def draw_mixing(key: RandomKey, alpha: float, count: int) -> Mixing:
    """Random partners and shares for the rows of a batch, a pure function of the key.

    Args:
      key: random key.
      alpha: shares are Beta(alpha, alpha); each example is given the larger one, so that it is left as it is where
        alpha goes to 0.
      count: rows of the batch.
    """
    for_share, for_partner = jax.random.split(key)
    # By a table of the upper half of the distribution: the program of a sampler of Beta takes seconds to compile.
    places = np.linspace(0, 1, _QUANTILES)
    table = betaincinv(alpha, alpha, (1 + places) / 2)
    share = jnp.interp(jax.random.uniform(for_share, (count,)), places.astype(np.float32), table.astype(np.float32))
    return Mixing(share, jax.random.permutation(for_partner, count))
