"""Cross entropy and its kin, and whether a label was guessed, in float32."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxft.parallel.platform import target_platform


def cross_entropy(
    logits: jax.Array, labels: jax.Array, *, label_smoothing: float = 0.0, focal_gamma: float = 0.0
) -> jax.Array:
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
    normalizer = jax.nn.logsumexp(logits, axis=-1)
    target = _of_labels(logits, labels)
    # Not quite 0, where a power below 1 has no finite slope.
    factor = jnp.maximum(-jnp.expm1(target - normalizer), 1e-6) ** focal_gamma if focal_gamma else 1.0
    if label_smoothing:
        target = (1 - label_smoothing) * target + label_smoothing * logits.mean(-1)
    return factor * (normalizer - target)


def binary_cross_entropy(
    logits: jax.Array, targets: jax.Array, positive_weights: jax.Array | float = 1.0
) -> jax.Array:  # fmt: skip
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


def symmetric_divergence(log_p: jax.Array, log_q: jax.Array) -> jax.Array:
    """Half the sum of both Kullback-Leibler divergences between distributions over the last axis, in nats.

    Args:
      log_p: float32 `(..., classes)`, logarithms of probabilities.
      log_q: of the same shape.

    Returns:
      float32 `(...)`.
    """
    return ((jnp.exp(log_p) - jnp.exp(log_q)) * (log_p - log_q)).sum(-1) / 2


def is_first(logits: jax.Array, labels: jax.Array) -> jax.Array:
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


def _of_labels(logits: jax.Array, labels: jax.Array) -> jax.Array:
    """The logit of each label, `(...)`.

    Accelerators sum what they mask, in the pass in which they read the logits anyway: a gather would want all of them
    in memory in float32, and its gradient an array of zeros beside them.
    """
    if target_platform() == "cpu":
        return jnp.take_along_axis(logits, labels[..., None], axis=-1)[..., 0]
    classes = jax.lax.broadcasted_iota(labels.dtype, logits.shape, logits.ndim - 1)
    return jnp.where(classes == labels[..., None], logits, 0).sum(-1)
