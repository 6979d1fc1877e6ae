"""Parameters as steps of a few tokens read them fastest."""

from __future__ import annotations

import weakref
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from jaxft.models.config import ModelConfig
from jaxft.models.model import AnyModel
from jaxft.parallel.trees import Parameters


class SeparateLayers(flax.struct.PyTreeNode):
    """Parameters of which each layer has arrays of its own.

    XLA's compiler for CPUs fuses the slice that takes a layer's matrix out of a stack into the product with it, which
    then is a plain loop: for a few rows it takes up to eight times as long as the product with a matrix that lies alone
    (GPT-2, one row: 100 ms for 24 products of 768 x 3072, and 13 ms).

    Attributes:
      params: the collection `params`, with tuples of arrays, one for each layer, in place of stacked arrays.
      projection: the transposed token embedding where it also is the projection onto the vocabulary, or None.
    """

    params: Parameters
    projection: jax.Array | None

    def variables(self) -> dict[str, Any]:
        """The collections that a model reads; under `jit` alone, where the compiler sees through the stacking."""
        params = jax.tree.map(
            lambda x: jnp.stack(x) if isinstance(x, tuple) else x, self.params, is_leaf=lambda x: isinstance(x, tuple)
        )
        if self.projection is None:
            return {"params": params}
        return {"params": params, "layout": {"trunk": {"embeddings": {"tokens": {"transposed": self.projection}}}}}


# Parameters as a model's own, or laid out by `Layout`.
LaidOutParameters = Parameters | SeparateLayers


class Layout:
    """Lays a model's parameters out for writing on the device where they lie.

    Args:
      model: whose parameters.
    """

    def __init__(self, model: AnyModel):
        self._config, self._stacks = model.config, _stack_names(model.config)
        self._known: tuple[weakref.ref, jax.Array] | None = None

    def __call__(self, parameters: Parameters) -> LaidOutParameters:
        """The parameters themselves but where they lie on one CPU; there what was stacked is not copied, but seen."""
        leaves = jax.tree.leaves(parameters)
        if not all(isinstance(leaf, jax.Array) for leaf in leaves):
            return parameters
        devices = set().union(*(leaf.devices() for leaf in leaves))
        if len(devices) > 1 or devices.pop().platform != "cpu":
            return parameters
        params = jax.tree_util.tree_map_with_path(
            lambda path, x: _layers(x) if any(key.key in self._stacks for key in path) else x, parameters
        )
        return SeparateLayers(params, self._projection(parameters))

    def _projection(self, parameters: Parameters) -> jax.Array | None:
        if not self._config.tied_embeddings:
            return None
        table = parameters["trunk"]["embeddings"]["tokens"]["table"]
        if self._known is None or self._known[0]() is not table:
            self._known = weakref.ref(table), jnp.asarray(table.T)
        return self._known[1]


def _stack_names(config: ModelConfig) -> frozenset[str]:
    """Names of the groups of layers, as in `jaxft.models.blocks.Stack`, whose parameters are stacked."""
    if config.share_layers:
        return frozenset()
    counts = (config.num_layers, config.decoder_layers) if config.family == "encoder_decoder" else (config.num_layers,)
    return frozenset(group.name for count in counts for group in config.layer_groups(count))


def _layers(stacked: jax.Array) -> tuple[jax.Array, ...]:
    """Each layer's part; memory that lies well for it is shared, as neither of the two ever changes."""
    (device,) = stacked.devices()
    return tuple(jax.device_put(part, device) for part in np.asarray(stacked))
