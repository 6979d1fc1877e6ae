"""How important each parameter is for what a model knows: the diagonal of the empirical Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import jax
import jax.numpy as jnp

from jaxft.objectives.objective import Apply, Objective
from jaxft.parallel.trees import Numbers, Parameters


def fisher_information(
    bind: Callable[[Parameters], Apply],
    objective: Objective,
    parameters: Parameters,
    batches: Iterable[Mapping[str, jax.Array]],
) -> Numbers:
    """Mean over rows of the squared gradient of each row's mean loss.

    Args:
      bind: from parameters to a model as the objective calls it.
      objective: of pretraining.
      parameters: tree of float32 arrays; the others are None.
      batches: of the objective, on the device.

    Returns:
      A tree of float32 arrays like `parameters`, scaled so that its mean over all parameters is 1: a strength then
      means the same for every model and objective.
    """

    def loss_of(parameters: Parameters, row: Mapping[str, jax.Array]) -> jax.Array:
        sums = objective.loss(bind(parameters), objective.balance(jax.tree.map(lambda x: x[None], row)))
        return sums.loss / jnp.maximum(sums.weight, 1e-9)

    @jax.jit
    def added(total: Numbers, parameters: Parameters, batch: Mapping[str, jax.Array]) -> Numbers:
        def add(total: Numbers, row: Mapping[str, jax.Array]) -> tuple[Numbers, None]:
            gradient = jax.grad(loss_of)(parameters, row)
            return jax.tree.map(lambda t, g: t + g * g, total, gradient), None

        return jax.lax.scan(add, total, batch)[0]

    total = jax.tree.map(jnp.zeros_like, parameters)
    for batch in batches:
        total = added(total, parameters, batch)
    size = sum(leaf.size for leaf in jax.tree.leaves(total))
    mean = sum(leaf.sum() for leaf in jax.tree.leaves(total)) / size
    return jax.tree.map(lambda leaf: leaf / jnp.maximum(mean, 1e-30), total)
