"""Which parameters are trained, how fast, from which step on, and how much they decay, by patterns of their names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jaxft.errors import InvalidField, RecipeError
from jaxft.finetuning.naming import by_layer, check_pattern, depth, layer_names
from jaxft.models.config import ModelConfig
from jaxft.parallel.trees import Axes, Flags, Numbers, Parameters, Shapes


@dataclasses.dataclass(frozen=True)
class PolicyConfig:
    """Which parameters move, and how; patterns are regular expressions searched for in names like
    `trunk/body/layer_3/attention/query/kernel`.

    Attributes:
      freeze: parameters that stay exactly as they are.
      train_only: the only ones that do not (`["bias$", "^head_"]`: BitFit, Ben Zaken et al. 2022, arXiv 2106.10199).
      rates: factors of the learning rate by pattern; the first that matches counts.
      weight_decay: weight decay by pattern, in place of the optimizer's; the first that matches counts.
      layer_decay: factor of the learning rate from each layer to the one below it, from the heads at 1 down to the
        embeddings (Clark et al. 2020; Bao et al. 2021).
      heads_first: steps, or a share of all steps where below 1, in which heads alone are trained (Kumar et al. 2022,
        arXiv 2202.10054).
      unfreeze_every: steps, or a share of all steps where below 1, after which the next layer from the top joins in,
        the embeddings last (Howard and Ruder 2018, arXiv 1801.06146); 0: all are trained from the start.
    """

    freeze: tuple[str, ...] = ()
    train_only: tuple[str, ...] = ()
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    weight_decay: dict[str, float] = dataclasses.field(default_factory=dict)
    layer_decay: float = 1.0
    heads_first: float = 0.0
    unfreeze_every: float = 0.0

    def __post_init__(self) -> None:
        if not 0 < self.layer_decay <= 1:
            raise InvalidField("layer_decay", f"must be in (0, 1], found {self.layer_decay}")
        for field in ("rates", "weight_decay"):
            for pattern, value in getattr(self, field).items():
                if value < 0:
                    raise InvalidField(field, f"{pattern!r}: must not be negative, found {value}")
        for field in ("heads_first", "unfreeze_every"):
            value = getattr(self, field)
            if value < 0 or (value >= 1 and value != int(value)):
                raise InvalidField(field, f"must be a share below 1 or a whole number of steps, found {value}")


@dataclasses.dataclass(frozen=True)
class Policy:
    """A policy for the parameters of a model.

    Attributes:
      trained: tree of booleans: what moves at all.
      rates: tree of float32 arrays that broadcast against the parameters: factors of the learning rate.
      begins: tree of int32 arrays likewise: the first step in which they move.
      decays: tree of float32 arrays likewise: weight decay; NaN where the optimizer's counts.
      table: rows `(name, number of parameters, factor, first step, weight decay or None)` for the user, of like
        neighbours together.
    """

    trained: Flags
    rates: Numbers
    begins: Numbers
    decays: Numbers
    table: tuple[tuple[str, int, float, int, float | None], ...]

    @property
    def has_decays(self) -> bool:
        """Whether any pattern says how much a parameter decays."""
        return not all(np.all(np.isnan(decay)) for decay in jax.tree.leaves(self.decays))

    @property
    def is_plain(self) -> bool:
        """Whether everything that is trained moves alike from the start."""
        rates, begins = jax.tree.leaves(self.rates), jax.tree.leaves(self.begins)
        own = zip(jax.tree.leaves(self.trained), rates, begins, strict=True)
        return all(np.all(rate == 1) and not np.any(begin) for trained, rate, begin in own if trained)


@dataclasses.dataclass(frozen=True)
class _Share:
    """What the policy says of one name."""

    rate: float
    begin: int
    decay: float


def make_policy(
    config: PolicyConfig,
    shapes: Shapes,
    axes: Axes,
    model: ModelConfig,
    trained_heads: frozenset[str],
    total_steps: int,
) -> Policy:
    """The policy of a run.

    Args:
      config: what the recipe says.
      shapes: tree of ShapeDtypeStruct, with `trunk` and `head_<name>` on top.
      axes: tree of PartitionSpec over logical axes.
      model: the trunk.
      trained_heads: names of the heads that some stream trains; the others stay as they are.
      total_steps: of the run.

    Raises:
      RecipeError: a pattern matches nothing (the nearest names are told), or nothing is left to train.
    """
    names = layer_names(shapes, axes, model)
    flat = [name for own in names for name in own]
    for field in ("freeze", "train_only", "rates", "weight_decay"):
        for pattern in getattr(config, field):
            check_pattern(pattern, flat, f"finetuning.{field}")
    heads = {f"head_{head}" for head in trained_heads}
    leaves = jax.tree.leaves(shapes)
    shares = [
        [
            _share_of(config, name, model, heads, total_steps, bool(jnp.issubdtype(leaf.dtype, jnp.floating)))
            for name in own
        ]
        for own, leaf in zip(names, leaves, strict=True)
    ]
    trained = [any(share.rate > 0 for share in own) for own in shares]
    if not any(trained):
        raise RecipeError("finetuning: nothing is left to train; every parameter is frozen")
    return Policy(
        trained=jax.tree.unflatten(jax.tree.structure(shapes), trained),
        rates=by_layer([np.array([share.rate for share in own]) for own in shares], shapes),
        begins=by_layer([np.array([share.begin for share in own]) for own in shares], shapes, np.int32),
        decays=by_layer([np.array([share.decay for share in own]) for own in shares], shapes),
        table=_table(names, leaves, shares),
    )


def _share_of(
    config: PolicyConfig, name: str, model: ModelConfig, heads: set[str], total_steps: int, is_float: bool
) -> _Share:
    is_head = not name.startswith("trunk/")
    frozen = (
        not is_float
        or (is_head and name.split("/")[0] not in heads)
        or any(re.search(pattern, name) for pattern in config.freeze)
        or bool(config.train_only and not any(re.search(pattern, name) for pattern in config.train_only))
    )
    place, top = depth(name, model)
    rate = 0.0 if frozen else _first_match(config.rates, name, 1.0) * config.layer_decay ** (top - place)
    begin = _steps(config.unfreeze_every, total_steps) * (top - place)
    if not is_head:
        begin += _steps(config.heads_first, total_steps)
    return _Share(rate, begin, _first_match(config.weight_decay, name, np.nan))


def _first_match(values: Mapping[str, float], name: str, otherwise: float) -> float:
    return next((value for pattern, value in values.items() if re.search(pattern, name)), otherwise)


def _steps(amount: float, total_steps: int) -> int:
    return round(amount * total_steps) if amount < 1 else int(amount)


def _table(
    names: Sequence[Sequence[str]], leaves: Sequence[Any], shares: Sequence[Sequence[_Share]]
) -> tuple[tuple[str, int, float, int, float | None], ...]:
    """Rows by the parts of the model that are alike, in the order of first occurrence."""
    sizes: dict[tuple, int] = {}
    for own, leaf, of_layers in zip(names, leaves, shares, strict=True):
        for name, share in zip(own, of_layers, strict=True):
            part = "/".join(name.split("/")[: 3 if name.startswith("trunk/") else 1])
            decay = None if np.isnan(share.decay) else share.decay
            key = (part, share.rate, share.begin if share.rate else 0, decay)
            sizes[key] = sizes.get(key, 0) + int(np.prod(leaf.shape)) // len(own)
    return tuple((part, size, rate, begin, decay) for (part, rate, begin, decay), size in sizes.items())


class _CountState(NamedTuple):
    count: jax.Array  # type: ignore[assignment]  # tuples have a method of this name, which nobody calls here


def scale_by_policy(policy: Policy) -> optax.GradientTransformation:
    """Updates times their factors, and nothing before the step in which a parameter begins to move.

    Put last, it holds what is frozen bit by bit: weight decay and anchors do not move it either.
    """

    def init(parameters: Parameters) -> _CountState:
        del parameters
        return _CountState(jnp.zeros((), jnp.int32))

    def update(
        updates: Parameters, state: _CountState, parameters: Parameters | None = None
    ) -> tuple[Parameters, _CountState]:
        del parameters

        def scaled(leaf: jax.Array, rate: np.ndarray, begin: np.ndarray) -> jax.Array:
            # Adding minus zero changes no number, minus zero itself included.
            return jnp.where((state.count >= begin) & (rate > 0), leaf * rate, -0.0)

        rates, begins = (_of_trained(tree, updates) for tree in (policy.rates, policy.begins))
        return jax.tree.map(scaled, updates, rates, begins), _CountState(state.count + 1)

    return optax.GradientTransformation(init, update)


def add_decay(policy: Policy, usual: Numbers) -> optax.GradientTransformation:
    """Decoupled weight decay by pattern, and as `usual`, a tree of numbers, where no pattern says otherwise."""

    def update(
        updates: Parameters, state: optax.EmptyState, parameters: Parameters
    ) -> tuple[Parameters, optax.EmptyState]:
        def decayed(leaf: jax.Array, parameter: jax.Array, own: np.ndarray, otherwise: float) -> jax.Array:
            return leaf + jnp.where(jnp.isnan(own), otherwise, own) * parameter

        own, otherwise = _of_trained(policy.decays, updates), _of_trained(usual, updates)
        return jax.tree.map(decayed, updates, parameters, own, otherwise), state

    return optax.GradientTransformation(lambda parameters: optax.EmptyState(), update)


def _of_trained(tree: Numbers, updates: Parameters) -> Numbers:
    """`tree` without the leaves that are None in `updates`."""
    return jax.tree.map(lambda own, leaf: None if leaf is None else own, tree, updates)
