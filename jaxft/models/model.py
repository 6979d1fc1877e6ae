"""A trunk with named heads: what a run trains and a checkpoint holds."""

from __future__ import annotations

import functools
from typing import Any, Protocol, cast, runtime_checkable

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from jaxtyping import Float

from jaxft.kernels.shapes import Array, Hidden, Places, RandomKey
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.generator import ReplacementGenerator
from jaxft.models.heads import HeadConfig, LabelHead, MaskedLanguageModelHead, VocabularyProjection
from jaxft.models.transformer import Images, Sequences, Transformer
from jaxft.parallel.trees import Axes, Parameters, Shapes


class ModelOutput(flax.struct.PyTreeNode):
    """What a model returns.

    Attributes:
      hidden: last hidden states `(batch, length, embed)`.
      logits: float32 logits of the head that was asked for, a tuple of those of several heads, or None.
      pooled: `(batch, embed)` of a head of kind `pooled`, or None.
    """

    hidden: Hidden
    # Which of them the call says: no type can.
    logits: Any = None
    pooled: Float[Array, "batch embed"] | None = None


class Model(nn.Module):
    """A Transformer with heads.

    Attributes:
      config: the trunk.
      heads: pairs of a head's name and its config.
      compute: how it is computed.
    """

    config: ModelConfig
    heads: tuple[tuple[str, HeadConfig], ...] = ()
    compute: ComputeConfig = ComputeConfig()

    def setup(self) -> None:
        self.trunk = Transformer(self.config, self.compute)
        self.head = {name: self._make_head(head) for name, head in self.heads}

    def _make_head(self, head: HeadConfig) -> nn.Module:
        if head.kind == "masked_lm":
            return MaskedLanguageModelHead(self.config, self.compute, head)
        if head.kind == "generator":
            return ReplacementGenerator(self.config, self.compute, head)
        if head.kind == "causal_lm":
            return VocabularyProjection(self.config, self.compute, head.vocabulary_bias)
        return LabelHead(self.config, self.compute, head)

    def __call__(
        self,
        inputs: Sequences | Images,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: Places | None = None,
    ) -> ModelOutput:
        """Runs the trunk and a head, or several heads on one pass of the trunk.

        Args:
          inputs: the input, of the encoder in an encoder-decoder.
          targets: the decoder's input in an encoder-decoder.
          head: name of the head, or names of several; None for hidden states alone.
          gather: int32 `(batch, places)`: the positions that a vocabulary head is asked for; None for all of them.

        Returns:
          Logits `(batch, labels)` of a sequence's labels, `(batch, length, labels)` of tokens', `(batch, places or
          length, vocab)` of a vocabulary head. With a generator, its own hidden states: the trunk's blocks do not run.
        """
        if head is not None and not isinstance(head, tuple) and dict(self.heads)[head].kind == "generator":
            assert isinstance(inputs, Sequences)
            hidden = self.head[head](self.trunk.embeddings.positioned(inputs), inputs)
            logits = self.head[head].logits(at_places(hidden, gather), self.trunk.embeddings.attend)
            return ModelOutput(hidden, logits)
        hidden = self.trunk(inputs, targets)
        if head is None:
            return ModelOutput(hidden)
        read = inputs if targets is None else targets
        if isinstance(head, tuple):
            return ModelOutput(hidden, tuple(self._read(name, hidden, read, gather).logits for name in head))
        return self._read(head, hidden, read, gather)

    def _read(self, head: str, hidden: Hidden, read: Sequences | Images, gather: Places | None) -> ModelOutput:
        kind = dict(self.heads)[head].kind
        if kind in ("masked_lm", "causal_lm"):
            return ModelOutput(hidden, self.vocabulary_logits(at_places(hidden, gather), head))
        result = self.head[head](hidden, None if isinstance(read, Images) else read.segment_ids)
        return ModelOutput(hidden, pooled=result) if kind == "pooled" else ModelOutput(hidden, result)

    def vocabulary_logits(self, hidden: Float[Array, "*places embed"], head: str) -> Float[Array, "*places vocab"]:
        """Float32 logits `(..., vocab)` of a head of kind `masked_lm` or `causal_lm`, from `(..., embed)`."""
        return self.head[head](hidden, self.trunk.embeddings.attend)

    def touch_all(self, inputs: Sequences | Images, targets: Sequences | None = None) -> None:
        """Runs every part once, so that initialization makes every parameter."""
        generators = [name for name, head in self.heads if head.kind == "generator"]
        self(inputs, targets, head=tuple(name for name, _ in self.heads if name not in generators))
        for name in generators:
            self(inputs, targets, head=name)


@runtime_checkable
class AnyModel(Protocol):
    """What is initialized and applied as `Model`: itself, or one whose layers are intercepted (low-rank adapters)."""

    @property
    def config(self) -> ModelConfig:
        """The trunk."""

    @property
    def heads(self) -> tuple[tuple[str, HeadConfig], ...]:
        """Pairs of a head's name and its config."""

    @property
    def compute(self) -> ComputeConfig:
        """How it is computed."""

    def init(self, *arguments: Any, **keywords: Any) -> Any:
        """As `flax.linen.Module.init`."""

    def apply(self, *arguments: Any, **keywords: Any) -> Any:
        """As `flax.linen.Module.apply`."""

    def __hash__(self) -> int:
        """By what it is made of."""


def apply_model(
    model: AnyModel,
    parameters: Parameters,
    inputs: Sequences | Images,
    targets: Sequences | None = None,
    head: str | tuple[str, ...] | None = None,
    gather: Places | None = None,
    rngs: dict[str, RandomKey] | None = None,
) -> ModelOutput:
    """What `Model.__call__` gives with these parameters.

    Args:
      model: trunk and heads.
      parameters: of it.
      inputs: as for a call, like `targets`, `head` and `gather`.
      rngs: random keys by stream, `dropout`; None where nothing is random.
    """
    # Of `apply` no more is known than that it gives anything, or a pair where collections may change.
    return cast(ModelOutput, model.apply({"params": parameters}, inputs, targets, head, gather, rngs=rngs))


def apply_vocabulary_head(
    model: AnyModel, parameters: Parameters, hidden: Float[Array, "*places embed"], head: str
) -> Float[Array, "*places vocab"]:
    """What `Model.vocabulary_logits` gives with these parameters."""
    return cast(jax.Array, model.apply({"params": parameters}, hidden, head, method="vocabulary_logits"))


def at_places(hidden: Hidden, gather: Places | None) -> Float[Array, "batch _ embed"]:
    """Of `(batch, length, embed)` the places, int32 `(batch, places)`, or all of them where None."""
    return hidden if gather is None else jnp.take_along_axis(hidden, gather[..., None], axis=1)


def read_by_vocabulary_head(parameters: Parameters, head: str, config: ModelConfig) -> Parameters:
    """Those of a model's parameters that `Model.vocabulary_logits` reads, a nested dict.

    Args:
      parameters: nested dict.
      head: of kind `masked_lm` or `causal_lm`.
      config: of the model.
    """
    name = f"head_{head}"
    read = {name: parameters[name]} if name in parameters else {}
    if config.tied_embeddings:
        read["trunk"] = {"embeddings": {"tokens": parameters["trunk"]["embeddings"]["tokens"]}}
    return read


def abstract_parameters(model: AnyModel) -> tuple[Shapes, Axes]:
    """Shapes and logical axes of all parameters, without computing anything.

    Returns:
      A tree of ShapeDtypeStruct and a tree, of the same structure, of PartitionSpec over logical axes.
    """
    boxed = _boxed(model)
    return nn.unbox(boxed), nn.get_partition_spec(boxed)


@functools.lru_cache(maxsize=32)
def _boxed(model: AnyModel) -> Any:
    """Every part of a run asks for them, and a model is traced for a second or several each time."""
    return jax.eval_shape(lambda key: _initialize(model, key), jax.random.key(0))


def initialize(model: AnyModel, key: jax.Array) -> Parameters:
    """Fresh float32 parameters, a nested dict; to be run under `jit` with shardings and outside `jax.set_mesh`."""
    return nn.unbox(_initialize(model, key))


def _initialize(model: AnyModel, key: jax.Array) -> Any:
    config = model.config
    tokens = jnp.zeros((1, 2), jnp.int32)
    sequences = Sequences(tokens, token_types=tokens)
    pixels = jnp.zeros((1, config.channels, config.image_size, config.image_size))
    inputs = Images(pixels) if config.family == "vision" else sequences
    targets = sequences if config.family == "encoder_decoder" else None
    return model.init(key, inputs, targets, method="touch_all")["params"]
