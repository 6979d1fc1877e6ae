"""Bottleneck adapters after the attention and the feed-forward of every layer (Houlsby et al. 2019, arXiv 1902.00751).

The sub-layers are intercepted, so models know nothing of it: each gets a `down` and an `up` projection, and begins as
what it was. They cannot be merged into the model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from jaxft.errors import InvalidField
from jaxft.finetuning.intercepted import InterceptedModel, InterceptorContext, LayerMethod
from jaxft.kernels.projection import add_bias, project
from jaxft.models.attention import Attention
from jaxft.models.blocks import FeedForward
from jaxft.models.layers import activate, partitioned


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Adapters in a recipe.

    Attributes:
      size: width of the bottleneck.
    """

    size: int = 64

    def __post_init__(self) -> None:
        if self.size < 1:
            raise InvalidField("size", f"must be at least 1, found {self.size}")


@dataclasses.dataclass(frozen=True)
class AdapterModel(InterceptedModel):
    """A model with adapters.

    Attributes:
      adapters: their shape.
    """

    adapters: AdapterConfig

    def intercept(
        self, layer: LayerMethod, arguments: tuple[Any, ...], keywords: dict[str, Any], context: InterceptorContext
    ) -> Any:
        """Adds the bottleneck to what a sub-layer gives."""
        module, y = context.module, layer(*arguments, **keywords)
        if not isinstance(module, (Attention, FeedForward)) or context.method_name != "__call__":
            return y
        return y + _bottleneck(module, y, self.adapters.size)


TRAINED = ("/adapter_(down|up)_(kernel|bias)$",)


def _bottleneck(module: nn.Module, x: jax.Array, size: int) -> jax.Array:
    width = module.config.embed_dim

    def parameter(
        name: str, initializer: Callable[..., jax.Array], axes: tuple[str, ...], shape: tuple[int, ...]
    ) -> jax.Array:
        return module.param(f"adapter_{name}", partitioned(initializer, axes), shape, jnp.float32)

    normal, zeros = nn.initializers.normal(module.config.initializer_range), nn.initializers.zeros
    inner = project(x, parameter("down_kernel", normal, ("embed", "rank"), (width, size)), 1, x.dtype)
    inner = activate("gelu", add_bias(inner, parameter("down_bias", zeros, ("rank",), (size,))))
    outer = project(inner, parameter("up_kernel", zeros, ("rank", "embed"), (size, width)), 1, x.dtype)
    return add_bias(outer, parameter("up_bias", zeros, ("norm",), (width,)))
