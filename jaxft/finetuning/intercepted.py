"""Models whose layers do more than they say, without a change of the models."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Callable
from typing import Any, Self

import flax.linen as nn

from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import AnyModel

InterceptorContext = nn.module.InterceptorContext
# The method that is intercepted, which takes what it was called with.
LayerMethod = Callable[..., Any]


@dataclasses.dataclass(frozen=True)
class InterceptedModel(abc.ABC):
    """A model that is initialized and applied as `base`, with its layers intercepted.

    Attributes:
      base: the model.
    """

    base: AnyModel

    @property
    def config(self) -> ModelConfig:
        """Of the base."""
        return self.base.config

    @property
    def heads(self) -> tuple[tuple[str, HeadConfig], ...]:
        """Of the base."""
        return self.base.heads

    @property
    def compute(self) -> ComputeConfig:
        """Of the base."""
        return self.base.compute

    def init(self, *arguments: Any, **keywords: Any) -> Any:
        """As `Model.init`, with the parameters that the interception adds."""
        with nn.intercept_methods(self.intercept):
            return self.base.init(*arguments, **keywords)

    def apply(self, *arguments: Any, **keywords: Any) -> Any:
        """As `Model.apply`."""
        with nn.intercept_methods(self.intercept):
            return self.base.apply(*arguments, **keywords)

    def clone(self, *, compute: ComputeConfig) -> Self:
        """As `Model.clone`."""
        return dataclasses.replace(self, base=self.base.clone(compute=compute))

    @abc.abstractmethod
    def intercept(
        self, layer: LayerMethod, arguments: tuple[Any, ...], keywords: dict[str, Any], context: InterceptorContext
    ) -> Any:
        """Called in place of every method of every layer (see `flax.linen.intercept_methods`)."""
