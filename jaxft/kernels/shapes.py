"""The words for the axes of arrays, and the shapes that many functions share.

Annotations such as `Float[Array, "batch length embed"]` say what kind of numbers an array holds and what its axes are;
within one call the same word is the same size. They cost nothing when the package runs: the tests check them.

- `batch`: rows; `length`: places of a row, `query_length` and `key_length` where queries and keys differ,
  `source_length` of an encoder's input beside a decoder's; `places`: of a row, those that are asked for.
- `heads`: of queries; `kv_heads`: of keys and values; `group`: query heads that share one of these; `head_dim`: their
  width.
- `embed`: width of the hidden states; `features`: of any vectors; `vocab`, `classes`, `labels`: what logits are over.
- `layers`: stacked ones; `slots`: of a cache; `blocks`: pieces of one size.
- `*places` and the like stand for any number of axes, `#batch` for one that may be 1 and is then the same for all, `_`
  and `...` for what has no word. A single word has a space before it, or it would be taken for a name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
from jaxtyping import Float, Int, Key

if TYPE_CHECKING:
    from jax import Array
else:
    # Outside of compiled functions those of numpy do as well, and its numbers as scalars, as they do for all of JAX.
    Array = jax.Array | np.ndarray | np.generic

Queries = Float[Array, "batch query_length heads head_dim"]
# Values too.
Keys = Float[Array, "batch key_length kv_heads head_dim"]
Hidden = Float[Array, "batch length embed"]
# A number for each token: its id, its segment, its position.
OfTokens = Int[Array, "batch length"]
# Numbers of tokens in their rows.
Places = Int[Array, "batch places"]
Scalar = Float[Array, ""]
RandomKey = Key[Array, ""]
