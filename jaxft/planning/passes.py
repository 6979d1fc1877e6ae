"""Which passes through the model an objective makes, found by tracing its loss."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import jax

from jaxft.kernels.shapes import Places, Scalar
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import AnyModel, ModelOutput
from jaxft.models.transformer import Images, Sequences
from jaxft.objectives.objective import Apply, Objective
from jaxft.parallel.trees import Parameters, Shapes
from jaxft.planning.flops import Pass
from jaxft.training.step import bind


@dataclasses.dataclass(frozen=True)
class _Recording(Apply):
    """A bound model that writes down how it is called; see `jaxft.objectives.objective.Apply`.

    Attributes:
      model: trunk and heads.
      bound: the model itself.
      passes: where the passes are written down.
      key: random key of what an objective samples.
      origin: the model at the start, which is recorded too, or None.
      trained: whether gradients flow back through its passes.
    """

    model: AnyModel
    bound: Apply
    passes: list[Pass]
    key: jax.Array
    origin: Apply | None = None
    trained: bool = True

    def __call__(
        self,
        sequences: Sequences,
        targets: Sequences | None = None,
        head: str | tuple[str, ...] | None = None,
        gather: Places | None = None,
    ) -> ModelOutput:
        heads = dict(self.model.heads)
        names = (head,) if isinstance(head, str) else head or ()
        self.passes.append(
            _pass(self.model.config, [heads[name] for name in names], sequences, targets, gather, self.trained)
        )
        return self.bound(sequences, targets, head, gather)

    def token_sums(
        self,
        labels: jax.Array,
        weights: jax.Array,
        head: str,
        sequences: Sequences,
        targets: Sequences | None = None,
        gather: Places | None = None,
        label_smoothing: float = 0.0,
    ) -> tuple[Scalar, Scalar]:
        sums = super().token_sums(labels, weights, head, sequences, targets, gather, label_smoothing)
        self.passes[-1] = dataclasses.replace(self.passes[-1], in_parts=True)
        return sums


def _pass(
    config: ModelConfig,
    heads: list[HeadConfig],
    inputs: Sequences | Images,
    targets: Sequences | None,
    gather: jax.Array | None,
    trained: bool,
) -> Pass:
    places = None if gather is None else gather.shape[1]
    if isinstance(inputs, Images):
        length = config.class_tokens + (config.image_size // config.patch_size) ** 2
        return Pass(inputs.pixels.shape[0], length, heads=tuple(heads), trained=trained)
    causal = config.family == "decoder" and not config.bidirectional
    rows, length = inputs.token_ids.shape
    return Pass(
        rows,
        length,
        0 if targets is None else targets.token_ids.shape[1],
        places,
        tuple(heads),
        causal=causal if inputs.causal is None else inputs.causal,
        prefix=inputs.prefix is not None,
        streams=1 if inputs.order is None else 2,
        trained=trained,
    )


def passes_of(
    objective: Objective, model: AnyModel, parameters: Shapes, batch: Mapping[str, jax.ShapeDtypeStruct]
) -> tuple[Pass, ...]:
    """The passes that a loss makes on a batch; nothing is computed.

    Args:
      objective: whose loss.
      model: trunk and heads.
      parameters: tree of ShapeDtypeStruct.
      batch: shapes by name.
    """
    passes: list[Pass] = []

    def loss(parameters: Parameters, batch: Mapping[str, jax.Array]) -> jax.Array:
        key = jax.random.key(0)
        origin = _Recording(model, bind(model, parameters), passes, key, trained=False)
        bound = bind(model, parameters, key)
        recording = _Recording(model, bound, passes, key, origin if objective.needs_origin else None)
        return objective.loss(recording, objective.balance(batch)).loss

    jax.eval_shape(loss, parameters, batch)
    return tuple(passes)
