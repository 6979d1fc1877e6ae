"""How a tensor of a Hugging Face file lies in our parameters: one notation, read in both directions.

A pattern such as `(heads head_dim) embed -> embed heads head_dim` names the axes of a torch tensor, then those of our
parameter; a group in parentheses is one axis made of several, the last varying fastest. The reserved name `part`
numbers the parameters that one tensor holds together, as in `(part heads head_dim) embed -> embed heads head_dim` of a
joint projection of queries, keys and values.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping

import numpy as np

Slices = tuple[slice, ...]
NamedAxes = tuple[tuple[str, ...], ...]

PART = "part"


@dataclasses.dataclass(frozen=True)
class Pattern:
    """A parsed pattern.

    Attributes:
      theirs: names of each axis of the torch tensor.
      ours: names of each axis of our parameter.
    """

    theirs: NamedAxes
    ours: NamedAxes

    def sizes(self, shape: tuple[int, ...], given: Mapping[str, int]) -> dict[str, int]:
        """Sizes of all names, from the shape of our parameter and those that are given."""
        sizes = dict(given)
        for names, size in zip(self.ours, shape, strict=True):
            unknown = [name for name in names if name not in sizes]
            if unknown:
                sizes[unknown[0]] = size // math.prod(sizes[name] for name in names if name != unknown[0])
        return sizes

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """Shape of the torch tensor."""
        return tuple(math.prod(sizes[name] for name in names) for names in self.theirs)

    def read(
        self, read: Callable[[Slices], np.ndarray], sizes: Mapping[str, int], wanted: Slices, part: int, offset: int
    ) -> np.ndarray:
        """A slice of our parameter out of slices of the torch tensor.

        Args:
          read: reads a slice of the torch tensor.
          sizes: of all names.
          wanted: slice of our parameter.
          part: which of several parameters of a joint tensor ours is.
          offset: where on the first torch axis the tensor of this parameter begins.
        """
        ranges = {name: slice(0, sizes[name]) for names in self.theirs for name in names}
        ranges[PART] = slice(part, part + 1)
        for names, cut in zip(self.ours, wanted, strict=True):
            if len(names) == 1:
                ranges[names[0]] = slice(cut.start or 0, sizes[names[0]] if cut.stop is None else cut.stop)
        asked, factors, inner = [], [], []
        for axis, names in enumerate(self.theirs):
            # A single value of an outer name, such as a part, leaves a range of the next one contiguous.
            first, shift = 0, offset if axis == 0 else 0
            while first < len(names) - 1 and ranges[names[first]].stop - ranges[names[first]].start == 1:
                shift += ranges[names[first]].start * math.prod(sizes[name] for name in names[first + 1 :])
                first += 1
            cut, rest = ranges[names[first]], names[first + 1 :]
            step = math.prod(sizes[name] for name in rest)
            asked.append(slice(cut.start * step + shift, cut.stop * step + shift))
            factors += [1] * first + [cut.stop - cut.start, *(sizes[name] for name in rest)]
            inner += [slice(None)] * (first + 1) + [ranges[name] for name in rest]
        array = read(tuple(asked)).reshape(factors)[tuple(inner)]
        return self._ordered(array)

    def _ordered(self, array: np.ndarray) -> np.ndarray:
        """From the torch order of single names to our axes."""
        names = [name for axis in self.theirs for name in axis]
        order = [name for axis in self.ours for name in axis]
        alone = [i for i, name in enumerate(names) if name not in order]
        array = np.squeeze(array, axis=tuple(alone))
        kept = [name for name in names if name in order]
        array = array.transpose([kept.index(name) for name in order])
        lengths = dict(zip(order, array.shape, strict=True))
        return array.reshape([math.prod(lengths[name] for name in axis) for axis in self.ours])

    def write(self, parts: list[np.ndarray], sizes: Mapping[str, int]) -> np.ndarray:
        """The torch tensor out of whole parameters, one for each `part`."""
        order = [name for axis in self.ours for name in axis]
        names = [name for axis in self.theirs for name in axis]
        kept = [name for name in names if name in order]
        single = [p.reshape([sizes[name] for name in order]).transpose([order.index(n) for n in kept]) for p in parts]
        if PART in names:
            array = np.stack(single, axis=names.index(PART))
        else:
            (array,) = single
        return array.reshape(self.shape(sizes))


@functools.cache
def parse(pattern: str) -> Pattern:
    """A pattern from its notation; without an arrow both sides have the same axes."""
    theirs, _, ours = pattern.partition("->")

    def axes(side: str) -> NamedAxes:
        return tuple(tuple(group.strip("()").split()) for group in re.findall(r"\([^)]*\)|\S+", side))

    return Pattern(axes(theirs), axes(ours or theirs))


@dataclasses.dataclass(frozen=True)
class Target:
    """A parameter of ours that a tensor holds, or a part of it.

    Attributes:
      path: within the layer or the model, names joined by `/`.
      pattern: how it lies in the tensor.
      row: which row of the parameter's leading axis it is; None for all of it.
    """

    path: str
    pattern: str
    row: int | None = None


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor of a Hugging Face file.

    Attributes:
      name: in the file; within a layer, after the layer's prefix.
      targets: our parameters; several where their patterns have a `part`, or are concatenated on the first axis.
      sizes: of names that our parameters do not tell.
      concatenated: whether the targets' tensors follow each other on the first axis.
    """

    name: str
    targets: tuple[Target, ...]
    sizes: tuple[tuple[str, int], ...] = ()
    concatenated: bool = False

    def within(self, path: str) -> Tensor:
        """The same tensor for parameters that lie deeper."""
        targets = tuple(dataclasses.replace(target, path=f"{path}/{target.path}") for target in self.targets)
        return dataclasses.replace(self, targets=targets)


def tensor(name: str, path: str, pattern: str, row: int | None = None, **sizes: int) -> Tensor:
    """A tensor that is one parameter."""
    return Tensor(name, (Target(path, pattern, row),), tuple(sizes.items()))


def joint(name: str, pattern: str, *paths: str) -> Tensor:
    """A tensor of several parameters of one shape, numbered by `part` in the pattern."""
    return Tensor(name, tuple(Target(path, pattern) for path in paths), ((PART, len(paths)),))


def concatenated(name: str, pattern: str, *paths: str) -> Tensor:
    """A tensor of several parameters that follow each other on its first axis and may differ in its length."""
    return Tensor(name, tuple(Target(path, pattern) for path in paths), concatenated=True)


def linear(name: str, path: str, use_bias: bool = True) -> tuple[Tensor, ...]:
    """A torch Linear, whose weight is `(outputs, inputs)`."""
    weight = tensor(f"{name}.weight", f"{path}/kernel", "outputs inputs -> inputs outputs")
    return (weight, tensor(f"{name}.bias", f"{path}/bias", "outputs")) if use_bias else (weight,)


def into_heads(name: str, path: str, use_bias: bool = True) -> tuple[Tensor, ...]:
    """A torch Linear from the residual stream to heads."""
    weight = tensor(f"{name}.weight", f"{path}/kernel", "(heads head_dim) embed -> embed heads head_dim")
    bias = tensor(f"{name}.bias", f"{path}/bias", "(heads head_dim) -> heads head_dim")
    return (weight, bias) if use_bias else (weight,)


def from_heads(name: str, path: str, use_bias: bool = True) -> tuple[Tensor, ...]:
    """A torch Linear from heads to the residual stream."""
    weight = tensor(f"{name}.weight", f"{path}/kernel", "embed (heads head_dim) -> heads head_dim embed")
    return (weight, tensor(f"{name}.bias", f"{path}/bias", "embed")) if use_bias else (weight,)


def norm(name: str, path: str, use_bias: bool = True) -> tuple[Tensor, ...]:
    """A torch LayerNorm, or RMSNorm without a bias."""
    scale = tensor(f"{name}.weight", f"{path}/scale", "features")
    return (scale, tensor(f"{name}.bias", f"{path}/bias", "features")) if use_bias else (scale,)


def table(name: str, path: str) -> tuple[Tensor, ...]:
    """A torch Embedding."""
    return (tensor(f"{name}.weight", f"{path}/table", "rows features"),)


@dataclasses.dataclass(frozen=True)
class Layers:
    """Tensors of every layer of a stack.

    Attributes:
      prefix: of the tensors' names, with `{}` for the number of the layer.
      stack: path of our stack.
      number: layers.
      tensors: those of a layer, or a function from the number of a layer to them.
    """

    prefix: str
    stack: str
    number: int
    tensors: tuple[Tensor, ...] | Callable[[int], tuple[Tensor, ...]]

    def of_layer(self, layer: int) -> tuple[Tensor, ...]:
        """Tensors of one layer."""
        return self.tensors(layer) if callable(self.tensors) else self.tensors
