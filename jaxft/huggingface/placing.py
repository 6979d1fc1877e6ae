"""Which rows of which of our parameters each tensor of a file holds."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping

from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.layout import PART, Layers, Pattern, Tensor, parse
from jaxft.models.config import LayerGroup, ModelConfig

ShapesByPath = Mapping[str, tuple[int, ...]]


@dataclasses.dataclass(frozen=True)
class Place:
    """A parameter, or a part of it, within a tensor.

    Attributes:
      path: of the parameter, names joined by `/`.
      rows: leading indices of the part; empty for the whole parameter.
      pattern: how it lies in the tensor.
      sizes: of the pattern's names.
      part: which of the tensor's parameters it is.
      offset: where it begins on the tensor's first axis.
    """

    path: str
    rows: tuple[int, ...]
    pattern: Pattern
    sizes: Mapping[str, int]
    part: int
    offset: int


@dataclasses.dataclass(frozen=True)
class Placed:
    """A tensor of a file with what it holds.

    Attributes:
      name: in the file.
      shape: in the file.
      places: our parameters in it.
    """

    name: str
    shape: tuple[int, ...]
    places: tuple[Place, ...]


def place_all(
    architecture: Architecture, model: ModelConfig, heads: Iterable[Head], prefix: str, shapes: ShapesByPath
) -> list[Placed]:
    """All tensors of a model, in the order of the architecture's table.

    Args:
      architecture: its table.
      model: the model.
      heads: its heads.
      prefix: of the trunk's names in the file.
      shapes: of our parameters, by path.
    """
    placed = [
        _place(tensor, f"{prefix}{name}", root, rows, shapes)
        for tensor, name, root, rows in _of_trunk(architecture, model)
    ]
    for head in heads:
        for tensor in head.tensors_of(model):
            name = tensor.name.replace("{trunk}", prefix)
            placed.append(_place(tensor, name, f"head_{head.name}/", (), shapes))
    return placed


def _of_trunk(architecture: Architecture, model: ModelConfig) -> Iterator[tuple[Tensor, str, str, tuple[int, ...]]]:
    """Each tensor with its name, the path before its own, and its row of stacked layers."""
    for entry in architecture.trunk(model):
        if isinstance(entry, Tensor):
            yield entry, entry.name, "trunk/", ()
            continue
        layers = entry.number if not model.share_layers else model.num_layers
        for number in range(entry.number):
            path, rows = _layer_place(entry, model.layer_groups(layers), number, model.share_layers)
            for tensor in entry.of_layer(number):
                yield tensor, entry.prefix.format(number) + tensor.name, path, rows


def _layer_place(
    layers: Layers, groups: Iterable[LayerGroup], number: int, shared: bool
) -> tuple[str, tuple[int, ...]]:
    for group in groups:
        repeat, block = divmod(number - group.start, len(group.kinds))
        if repeat < group.repeats:
            return f"trunk/{layers.stack}/{group.name}/block_{block}/", () if shared else (repeat,)
    raise AssertionError(f"layer {number} is in no group")


def _place(tensor: Tensor, name: str, root: str, rows: tuple[int, ...], shapes: ShapesByPath) -> Placed:
    places, offset = [], 0
    for part, target in enumerate(tensor.targets):
        path = root + target.path
        own = rows if target.row is None else (*rows, target.row)
        pattern = parse(target.pattern)
        sizes = pattern.sizes(shapes[path][len(own) :], dict(tensor.sizes))
        places.append(Place(path, own, pattern, sizes, part, offset))
        if tensor.concatenated:
            offset += pattern.shape(sizes)[0]
    shape = places[0].pattern.shape(places[0].sizes)
    if tensor.concatenated:
        shape = (offset, *shape[1:])
    assert len(tensor.targets) == 1 or tensor.concatenated or PART in places[0].sizes, name
    return Placed(name, shape, tuple(places))
