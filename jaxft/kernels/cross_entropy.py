"""Cross entropy and its kin, and whether a label was guessed, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Bool, Float, Int

from jaxft.kernels.shapes import Array, Scalar
from jaxft.parallel.platform import target_platform

Logits = Float[Array, "*places classes"]
Labels = Int[Array, "*places"]
OfPlaces = Float[Array, "*places"]


def cross_entropy(
    logits: Logits, labels: Labels, *, label_smoothing: float = 0.0, focal_gamma: float = 0.0
) -> OfPlaces:
    """Negative log-likelihood of each label, in nats.

    Args:
      logits: `(..., classes)`, any float dtype; computed in float32.
      labels: int32 `(...)`, each in `[0, classes)`: ids are checked on the host, ignored places carry weight 0.
      label_smoothing: share of the target that is spread evenly over all classes.
      focal_gamma: power of one minus the label's probability by which the loss is multiplied, so that what is known
        already counts less (focal loss, Lin et al. 2017, arXiv 1708.02002); 0 for none.

    Returns:
      float32 `(...)`.
    """
    logits = logits.astype(jnp.float32)
    if target_platform() == "tpu" and not label_smoothing and not focal_gamma:
        return _in_one_pass(logits, labels)[0]
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    target = _of_labels(logits, labels)
    # Not quite 0, where a power below 1 has no finite slope.
    factor = jnp.maximum(-jnp.expm1(target - normalizer), 1e-6) ** focal_gamma if focal_gamma else 1.0
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing * logits.mean(-1)
    return factor * (normalizer - target)


# Below any logit.
_LOWEST = -3e38


@jax.custom_vjp
def _in_one_pass(logits: Logits, labels: Labels) -> tuple[OfPlaces, OfPlaces]:
    """Both of float32 logits, which are read once, and once more for their gradient.

    Vocabularies are large: each pass over their logits takes a TPU as long as the norms of four layers.
    """
    return _in_one_pass_forward(logits, labels)[0]


def _in_one_pass_forward(
    logits: Logits, labels: Labels
) -> tuple[tuple[OfPlaces, OfPlaces], tuple[Logits, Labels, OfPlaces]]:
    of_label = jnp.where(_is_label(logits, labels), logits, 0)
    one, zero = jnp.ones_like(logits), jnp.float32(0)
    found = jax.lax.reduce(
        (jnp.maximum(logits, _LOWEST), one, one, of_label),
        (jnp.float32(_LOWEST), zero, zero, zero),
        _merged,
        (logits.ndim - 1,),
    )
    largest, total, count, target = found
    normalizer = largest + jnp.log(total)
    first = (target == largest) & (count == 1)
    return (normalizer - target, first.astype(jnp.float32)), (logits, labels, normalizer)


def _merged(left: tuple[jax.Array, ...], right: tuple[jax.Array, ...]) -> tuple[jax.Array, ...]:
    """Of two sets of logits: the largest, the sum of the exponentials of all less that, how many are as large, a sum.

    As sums of exponentials are found block by block in "Online normalizer calculation for softmax" (Milakov and
    Gimelshein 2018, arXiv 1805.02867).
    """
    ahead = left[0] - right[0]
    smaller = jnp.exp(-jnp.abs(ahead))
    total = jnp.where(ahead >= 0, left[1] + smaller * right[1], smaller * left[1] + right[1])
    count = jnp.where(ahead >= 0, left[2], 0) + jnp.where(ahead <= 0, right[2], 0)
    return jnp.maximum(left[0], right[0]), total, count, left[3] + right[3]


def _in_one_pass_backward(
    saved: tuple[Logits, Labels, OfPlaces], gradients: tuple[OfPlaces, OfPlaces]
) -> tuple[Logits, None]:
    logits, labels, normalizer = saved
    wrong = jnp.exp(logits - normalizer[..., None]) - _is_label(logits, labels)
    return gradients[0][..., None] * wrong, None


_in_one_pass.defvjp(_in_one_pass_forward, _in_one_pass_backward)


def binary_cross_entropy(
    logits: Float[Array, "*places labels"],
    targets: Float[Array, "*#places labels"],
    positive_weights: Float[Array, " labels"] | float = 1.0,
) -> Float[Array, "*places labels"]:
    """Negative log-likelihood of yes and no by a sigmoid, in nats.

    Args:
      logits: `(..., labels)`, any float dtype; computed in float32.
      targets: float32 of the same shape, in `[0, 1]`.
      positive_weights: by which the loss of each label's yes is multiplied, float32 `(labels,)`.

    Returns:
      float32 `(..., labels)`.
    """
    logits = logits.astype(jnp.float32)
    yes, no = jax.nn.softplus(-logits), jax.nn.softplus(logits)
    return positive_weights * targets * yes + (1 - targets) * no


def symmetric_divergence(log_p: Logits, log_q: Logits) -> OfPlaces:
    """Half the sum of both Kullback-Leibler divergences between distributions over the last axis, in nats.

    Args:
      log_p: float32 `(..., classes)`, logarithms of probabilities.
      log_q: of the same shape.

    Returns:
      float32 `(...)`.
    """
    return ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1) / 2


def cross_entropy_and_first(
    logits: Logits, labels: Labels, *, label_smoothing: float = 0.0
) -> tuple[OfPlaces, OfPlaces]:
    """`cross_entropy` and `is_first`, on TPUs in the same pass over the logits.

    Args:
      logits: `(..., classes)`, any float dtype; computed in float32.
      labels: int32 `(...)`, each in `[0, classes)`.
      label_smoothing: as of `cross_entropy`.

    Returns:
      Two float32 arrays `(...)`; the second has no gradient.
    """
    if target_platform() == "tpu" and not label_smoothing:
        return _in_one_pass(logits.astype(jnp.float32), labels)
    return cross_entropy(logits, labels, label_smoothing=label_smoothing), is_first(logits, labels)


def weighted_sums(
    logits: Logits, labels: Labels, weights: OfPlaces, *, label_smoothing: float = 0.0
) -> tuple[Scalar, Scalar]:
    """Sums of `cross_entropy` and of `is_first`, each times its weight.

    Args:
      logits: `(..., classes)`, any float dtype.
      labels: int32 `(...)`, each in `[0, classes)`.
      weights: float32 `(...)`.
      label_smoothing: as of `cross_entropy`.

    Returns:
      Two float32 scalars; the second has no gradient.
    """
    losses, first = cross_entropy_and_first(logits, labels, label_smoothing=label_smoothing)
    return (losses * weights).sum(), (first * weights).sum()


def is_first(logits: Logits, labels: Labels) -> OfPlaces:
    """Whether each label alone has the largest logit: 1 or 0; a tie is no right guess.

    Counting the logits that reach the label costs a third of an argmax on CPUs.

    Args:
      logits: `(..., classes)`, any float dtype.
      labels: int32 `(...)`, each in `[0, classes)`.

    Returns:
      float32 `(...)`.
    """
    target = _of_labels(logits, labels)[..., None]
    return ((logits >= target).sum(-1) == 1).astype(jnp.float32)


def _of_labels(logits: Logits, labels: Labels) -> OfPlaces:
    """The logit of each label, `(...)`.

    Accelerators sum what they mask, in the pass in which they read the logits anyway: a gather would want all of them
    in memory in float32, and its gradient an array of zeros beside them.
    """
    if target_platform() == "cpu":
        return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    return jnp.where(_is_label(logits, labels), logits, 0).sum(-1)


def _is_label(logits: Logits, labels: Labels) -> Bool[Array, "*places classes"]:
    """Where each label is, boolean `(..., classes)`."""
    return jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1) == labels[..., None]
