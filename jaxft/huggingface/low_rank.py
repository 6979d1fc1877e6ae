"""Between our low-rank matrices and those of torch's modules, which may hold several of our layers together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.peft_format import Adapter, LowRank
from jaxft.huggingface.placing import Place, Placed

Flat = Mapping[str, jax.Array | np.ndarray]


def modules_of(placed: Iterable[Placed], parameters: Flat, scale: float) -> tuple[dict[str, LowRank], bool]:
    """The updates of torch's modules.

    A module that holds several layers, such as GPT-2's `c_attn`, gets the sum of their ranks: each layer has its own
    columns of `b`, zero in the rows of the others, so that nothing is approximated.

    Args:
      placed: tensors of the trunk.
      parameters: of the adapted model, by path.
      scale: factor of every update.

    Returns:
      Updates by module, and whether the weights of some are `(inputs, outputs)`.

    Raises:
      CheckpointError: a layer's update is in no tensor.
    """
    modules, transposed, found = {}, False, set()
    for tensor in placed:
        adapted = [place for place in tensor.places if _sibling(place, "lora_a") in parameters]
        if not (adapted and tensor.name.endswith(".weight")):
            continue
        outputs, inputs = _order(tensor, parameters)
        modules[tensor.name.removesuffix(".weight")] = _update(tensor, outputs, inputs, parameters, scale)
        transposed |= is_transposed(tensor)
        found |= {_sibling(place, "lora_a") for place in adapted}
    if missing := sorted({name for name in parameters if name.endswith("/lora_a")} - found):
        layer = missing[0].removesuffix("/lora_a")
        raise CheckpointError(f"no module of Hugging Face is the layer {layer}, so its update has no place there")
    return modules, transposed


def _sibling(place: Place, name: str) -> str:
    return place.path.removesuffix("kernel") + name


def _shape(place: Place, parameters: Flat) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of the inputs and of the outputs of a layer."""
    if (path := _sibling(place, "lora_a")) not in parameters:
        raise CheckpointError(f"{place.path} shares a tensor with adapted layers: adapt all of them, or none")
    rows = len(place.rows)
    return parameters[path].shape[rows:-1], parameters[_sibling(place, "lora_b")].shape[rows + 1 :]


def _order(tensor: Placed, parameters: Flat) -> tuple[np.ndarray, np.ndarray]:
    """For each output of a module, the number of the layer and of its output `(outputs, 2)`; for each input its
    number."""
    numbers, places = {}, []
    for part, place in enumerate(tensor.places):
        inputs, outputs = _shape(place, parameters)
        size = int(np.prod(inputs)), int(np.prod(outputs))
        # Where each number of the kernel comes from, so that the pattern itself says where it goes.
        codes = np.stack(np.meshgrid([part], np.arange(size[0]), np.arange(size[1]), indexing="ij"), -1)[0]
        numbers[place.path] = codes.reshape(*inputs, *outputs, 3)
        places.append(place)
    written = [
        tensor_value(
            Placed(tensor.name, tensor.shape, tuple(_whole(place) for place in places)),
            {path: array[..., which] for path, array in numbers.items()},
        )
        for which in range(3)
    ]
    parts, sources, targets = (array.T if is_transposed(tensor) else array for array in written)
    return np.stack([parts[:, 0], targets[:, 0]], -1), sources[0]


def is_transposed(tensor: Placed) -> bool:
    """Whether a weight is `(inputs, outputs)`, as in GPT-2; ours begin with their inputs."""
    pattern = tensor.places[0].pattern
    return pattern.ours[0][0] in pattern.theirs[0]


def _whole(place: Place) -> Place:
    """A place whose parameter is one layer's alone."""
    return Place(place.path, (), place.pattern, place.sizes, place.part, place.offset)


def _update(tensor: Placed, outputs: np.ndarray, inputs: np.ndarray, parameters: Flat, scale: float) -> LowRank:
    own_a, own_b, magnitudes = [], [], []
    for place in tensor.places:
        a, b = (np.asarray(parameters[_sibling(place, name)])[place.rows] for name in ("lora_a", "lora_b"))
        own_a.append(a.reshape(-1, a.shape[-1]))
        own_b.append(b.reshape(b.shape[0], -1))
        if (path := _sibling(place, "dora_magnitude")) in parameters:
            magnitudes.append(np.asarray(parameters[path])[place.rows].reshape(-1))
    ranks = [b.shape[0] for b in own_b]
    starts = np.cumsum([0, *ranks])
    b = np.zeros((len(outputs), starts[-1]), np.float32)
    for row, (part, number) in enumerate(outputs):
        b[row, starts[part] : starts[part + 1]] = own_b[part][:, number]
    a = np.concatenate([own[inputs].T for own in own_a])
    magnitude = np.array([magnitudes[part][number] for part, number in outputs], np.float32) if magnitudes else None
    return LowRank(a, b, scale, magnitude)


def merge(adapter: Adapter, placed: Iterable[Placed], parameters: Flat) -> dict[str, np.ndarray]:
    """The parameters that change, whole, by path.

    Args:
      adapter: updates by module.
      placed: tensors of the base, trunk and heads.
      parameters: of the base, by path.

    Raises:
      CheckpointError: the base has no such module, or one of another shape.
    """
    by_name = {tensor.name: tensor for tensor in placed}
    changed: dict[str, np.ndarray] = {}
    for module, update in adapter.modules.items():
        name = f"{module}.weight"
        if name not in by_name:
            raise CheckpointError(f"{adapter.directory}: the base has no layer {module}")
        tensor = by_name[name]
        wanted = (update.b.shape[0], update.a.shape[1])
        transposed = is_transposed(tensor)
        shape = tensor.shape[::-1] if transposed else tensor.shape
        if shape != wanted:
            raise CheckpointError(
                f"{adapter.directory}: {module} is {list(wanted)} there and {list(shape)} in the base"
            )
        whole = update.merged(tensor_value(tensor, parameters), transposed)
        put(tensor, whole, parameters, changed)
    for name, stored in adapter.saved.items():
        if name not in by_name:
            raise CheckpointError(f"{adapter.directory}: the base has no place for {name}")
        if stored.shape != by_name[name].shape:
            shapes = f"{list(stored.shape)} there and {list(by_name[name].shape)} in the base"
            raise CheckpointError(f"{adapter.directory}: {name} is {shapes}")
        put(by_name[name], stored.read().astype(np.float32), parameters, changed)
    return changed


def put(tensor: Placed, value: np.ndarray, parameters: Flat, changed: dict[str, np.ndarray]) -> None:
    """Writes a tensor of a file into the parameters that it holds, whole ones of which go into `changed`."""
    for place in tensor.places:
        if place.path not in changed:
            changed[place.path] = np.array(parameters[place.path], np.float32)
        shape = changed[place.path][place.rows].shape
        everything = tuple(slice(0, size) for size in shape)
        part = place.pattern.read(lambda cut: value[cut], place.sizes, everything, place.part, place.offset)
        changed[place.path][place.rows] = part.reshape(shape)
