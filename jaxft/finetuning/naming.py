"""Names of parameters by layer, which patterns in recipes are matched against.

Like layers are stacked in one array, so an array may have several names: that of the queries of a four-layer encoder
is `trunk/body/layer_0/attention/query/kernel` to `trunk/body/layer_3/attention/query/kernel`.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import jax
import numpy as np
from numpy.typing import DTypeLike

from jaxft.errors import RecipeError
from jaxft.models.config import ModelConfig
from jaxft.parallel.trees import Axes, Numbers, Parameters, Shapes

_STACKED = re.compile(r"(?P<side>.*)/stack/(?P<group>[a-z_]+)/block_(?P<block>\d+)/(?P<rest>.*)")
_LAYER = re.compile(r"(?P<side>trunk/\w+)/layer_(?P<number>\d+)/")


def parameter_names(parameters: Parameters | Shapes) -> list[str]:
    """Names like `trunk/embeddings/tokens/table`, in the order of the tree's leaves."""
    paths = jax.tree_util.tree_leaves_with_path(parameters)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in paths]


def layer_names(shapes: Parameters | Shapes, axes: Axes, config: ModelConfig) -> list[tuple[str, ...]]:
    """Names of each array, in the order of the tree's leaves: one, or one for each layer that it holds.

    Args:
      shapes: tree of arrays or ShapeDtypeStruct.
      axes: tree of PartitionSpec over logical axes, of the same structure.
      config: the trunk.
    """
    specs = jax.tree.leaves(axes, is_leaf=lambda leaf: isinstance(leaf, jax.sharding.PartitionSpec))
    leaves = zip(parameter_names(shapes), jax.tree.leaves(shapes), specs, strict=True)
    return [_names(name, leaf.shape, tuple(spec), config) for name, leaf, spec in leaves]


def _names(name: str, shape: tuple[int, ...], spec: tuple, config: ModelConfig) -> tuple[str, ...]:
    match = _STACKED.fullmatch(name)
    if match is None:
        return (name,)
    side, rest = match["side"], match["rest"]
    if spec[:1] != ("layers",):
        return (f"{side}/shared_layer/{rest}",)
    groups = {group.name: group for group in config.layer_groups(_depth_of_side(side, config))}
    group = groups[match["group"]]
    numbers = [group.start + repeat * len(group.kinds) + int(match["block"]) for repeat in range(shape[0])]
    return tuple(f"{side}/layer_{number}/{rest}" for number in numbers)


def _depth_of_side(side: str, config: ModelConfig) -> int:
    return config.decoder_layers if side == "trunk/decoder" else config.num_layers


def depth(name: str, config: ModelConfig) -> tuple[int, int]:
    """How far from the input a parameter acts, and the largest such number of its side of the model.

    Embeddings and positions are at 0, layer `i` at `i + 1`, what follows the layers, and heads, at the largest. Layers
    that share their parameters are one.
    """
    match = _LAYER.match(name)
    if match is not None:
        return int(match["number"]) + 1, _depth_of_side(match["side"], config) + 1
    top = 2 if config.share_layers else config.num_layers + 1
    if name.startswith("trunk/") and "/shared_layer/" in name:
        return 1, top
    after = not name.startswith("trunk/") or "/final_norm/" in name or "/output_projection/" in name
    return top if after else 0, top


def check_pattern(pattern: str, names: Iterable[str], option: str) -> None:
    """Makes sure that a regular expression finds one of the names.

    Raises:
      RecipeError: it is none, or finds nothing; the nearest name is told.
    """
    known = list(names)
    try:
        found = any(re.search(pattern, name) for name in known)
    except re.error as error:
        raise RecipeError(f"{option}: {pattern!r} is not a regular expression: {error}") from error
    if not found:
        near = ", ".join(map(repr, _nearest(pattern, known)))
        raise RecipeError(f"{option}: {pattern!r} matches no parameter; the nearest are {near}")


def _nearest(pattern: str, names: Iterable[str]) -> list[str]:
    """The two pieces of names that look most like a pattern, of as many parts as it has."""
    parts = pattern.strip("^/$").count("/") + 1
    pieces = dict.fromkeys(
        "/".join(split[start : start + parts])
        for split in (name.strip("/").split("/") for name in names)
        for start in range(max(1, len(split) - parts + 1))
    )
    return difflib.get_close_matches(pattern, pieces, 2, 0.0)


def by_layer(values: list[np.ndarray], shapes: Parameters | Shapes, dtype: DTypeLike = np.float32) -> Numbers:
    """A tree of arrays that broadcast against the parameters, from one value for each name of each array."""

    def shaped(own: np.ndarray, leaf: jax.Array | jax.ShapeDtypeStruct) -> np.ndarray:
        own = np.asarray(own, dtype)
        return own[0] if len(own) == 1 else own.reshape(-1, *[1] * (len(leaf.shape) - 1))

    leaves = [shaped(own, leaf) for own, leaf in zip(values, jax.tree.leaves(shapes), strict=True)]
    return jax.tree.unflatten(jax.tree.structure(shapes), leaves)
