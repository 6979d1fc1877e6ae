"""Optimizers from Optax, with weight decay by pattern."""

from __future__ import annotations

import dataclasses
import difflib
import re
from typing import Literal

import jax
import optax
import optax.contrib

from jaxft.errors import InvalidField, RecipeError

# Biases, the scales of norms, and nothing else, as in BERT.
NO_DECAY = ("bias$", "scale$")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """An optimizer in a recipe.

    Attributes:
      name: `adamw`, `adafactor` (factored second moments, steps relative to the parameters' size), `lion`, `muon`
        (orthogonalized momentum for matrices, AdamW for the rest) or `sgd`.
      learning_rate: peak of the schedule.
      weight_decay: decoupled, multiplied by the learning rate.
      no_decay: regular expressions; parameters whose name one of them finds are not decayed.
      b1: decay of the first moment (`adamw`, `lion`, `muon`) or momentum (`sgd`).
      b2: decay of the second moment (`adamw`, `lion`).
      epsilon: added to the root of the second moment.
    """

    name: Literal["adamw", "adafactor", "lion", "muon", "sgd"] = "adamw"
    learning_rate: float = 1e-4
    weight_decay: float = 0.01
    no_decay: tuple[str, ...] = NO_DECAY
    b1: float = 0.9
    b2: float = 0.999
    epsilon: float = 1e-8

    def __post_init__(self):
        if self.learning_rate <= 0:
            raise InvalidField("learning_rate", f"must be positive, found {self.learning_rate}")
        if self.weight_decay < 0:
            raise InvalidField("weight_decay", f"must not be negative, found {self.weight_decay}")
        for field in ("b1", "b2"):
            if not 0 <= getattr(self, field) < 1:
                raise InvalidField(field, f"must be in [0, 1), found {getattr(self, field)}")
        for pattern in self.no_decay:
            try:
                re.compile(pattern)
            except re.error as error:
                raise InvalidField("no_decay", f"{pattern!r} is not a regular expression: {error}") from error


def parameter_names(parameters) -> list[str]:
    """Names like `trunk/embeddings/tokens/table`, in the order of the tree's leaves."""
    paths = jax.tree_util.tree_leaves_with_path(parameters)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def decay_mask(parameters, no_decay: tuple[str, ...], trained_heads: frozenset[str]):
    """True where a parameter is decayed.

    Args:
      parameters: tree of arrays or ShapeDtypeStruct, with `trunk` and `head_<name>` on top.
      no_decay: regular expressions of names that are not decayed.
      trained_heads: heads that some stream trains; the others get no gradient and must stay exactly as they are.

    Raises:
      RecipeError: a pattern of the user's own that matches no parameter; it names the nearest.
    """
    names = parameter_names(parameters)
    for pattern in no_decay:
        if pattern not in NO_DECAY and not any(re.search(pattern, name) for name in names):
            near = difflib.get_close_matches(pattern, names, 1, 0.0)
            raise RecipeError(f"optimizer.no_decay: {pattern!r} matches no parameter; the nearest is {near[0]!r}")
    trained = {"trunk", *(f"head_{head}" for head in trained_heads)}
    decayed = [
        name.split("/")[0] in trained and not any(re.search(pattern, name) for pattern in no_decay) for name in names
    ]
    return jax.tree.unflatten(jax.tree.structure(parameters), decayed)


def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule, parameters, axes, trained_heads: frozenset[str]
) -> optax.GradientTransformation:
    """The gradient transformation of a run; clipping is the train step's.

    Args:
      config: the optimizer.
      schedule: learning rate by step.
      parameters: tree of arrays or ShapeDtypeStruct.
      axes: tree of PartitionSpec over logical axes of the same structure; it tells which axes of a kernel are its inputs.
      trained_heads: names of the heads that some stream trains.
    """
    mask = decay_mask(parameters, config.no_decay, trained_heads)
    if config.name == "muon":
        muon = optax.contrib.muon(
            schedule, beta=config.b1, weight_decay=config.weight_decay, weight_decay_mask=mask,
            adam_b1=config.b1, adam_b2=config.b2, adam_weight_decay=config.weight_decay,
            muon_weight_dimension_numbers=jax.tree.map(_muon_axes, _matrix_shapes(parameters, axes), _stacked(axes)),
            # Updates as large as AdamW's, so that one learning rate serves both halves (Liu et al. 2025, arXiv 2502.16982).
            consistent_rms=0.2,
        )  # fmt: skip
        return _on_matrices(muon, axes)
    if config.name == "adafactor":
        scaling = _on_matrices(
            optax.chain(
                optax.scale_by_factored_rms(), optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms()
            ), axes,
        )  # fmt: skip
    else:
        scaling = {
            "adamw": optax.scale_by_adam(config.b1, config.b2, config.epsilon),
            "lion": optax.scale_by_lion(config.b1, config.b2),
            "sgd": optax.trace(config.b1),
        }[config.name]
    return optax.chain(
        scaling, optax.add_decayed_weights(config.weight_decay, mask), optax.scale_by_learning_rate(schedule)
    )


# --- Kernels as matrices -------------------------------------------------------------------------------------------
# A kernel like `(layers, embed, heads, head_dim)` is a stack of matrices from `embed` to `heads * head_dim`. Optimizers that look at
# matrices see it as `(layers, inputs, outputs)`.


def _input_count(names: tuple[str | None, ...]) -> int:
    """Number of input axes of a kernel with these axes (without `layers`)."""
    return 1 if names[0] == "embed" else len(names) - 1


def _matrix_shape(shape: tuple[int, ...], spec) -> tuple[int, ...]:
    names = tuple(spec)
    lead = 1 if names and names[0] == "layers" else 0
    if len(names) - lead < 2:
        return shape
    split = lead + _input_count(names[lead:])
    flat = [1, 1]
    for place, size in enumerate(shape[lead:], lead):
        flat[place >= split] *= size
    return (*shape[:lead], *flat)


def _matrix_shapes(tree, axes):
    return jax.tree.map(lambda x, spec: jax.ShapeDtypeStruct(_matrix_shape(x.shape, spec), x.dtype), tree, axes)


def _as_matrices(tree, axes):
    return jax.tree.map(lambda x, spec: x.reshape(_matrix_shape(x.shape, spec)), tree, axes)


def _stacked(axes):
    """Per parameter: 'table' where it is an embedding or belongs to the vocabulary, else whether it is stacked."""
    is_spec = lambda x: isinstance(x, jax.sharding.PartitionSpec)  # noqa: E731
    lookup = {"vocab", "position", "token_type", "buckets", "labels"}
    return jax.tree.map(lambda spec: "table" if lookup & set(spec) else spec[:1] == ("layers",), axes, is_leaf=is_spec)


def _muon_axes(matrix, stacked):
    if stacked == "table" or len(matrix.shape) - bool(stacked) != 2:
        return None
    return optax.contrib.MuonDimensionNumbers(int(stacked), int(stacked) + 1)


def _on_matrices(inner: optax.GradientTransformation, axes) -> optax.GradientTransformation:
    """`inner`, which sees every kernel as a matrix or a stack of matrices."""

    def init(parameters):
        return inner.init(_as_matrices(parameters, axes))

    def update(updates, state, parameters=None):
        matrices, state = inner.update(_as_matrices(updates, axes), state, _as_matrices(parameters, axes))
        return jax.tree.map(lambda new, old: new.reshape(old.shape), matrices, updates), state

    return optax.GradientTransformation(init, update)
