"""Reading safetensors slice by slice, and writing them tensor by tensor.

The format (https://github.com/huggingface/safetensors): 8 bytes with the length of a JSON header, the header with each
tensor's dtype, shape and place, then the bytes. Read here by its own code since the library neither refuses duplicate
names nor reads a part of a tensor without mapping the file into memory.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import ml_dtypes
import numpy as np

from jaxft.errors import CheckpointError

_logger = logging.getLogger("jaxft")

DTYPES = {
    "F64": np.dtype(np.float64), "F32": np.dtype(np.float32), "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16), "I64": np.dtype(np.int64), "I32": np.dtype(np.int32),
    "I16": np.dtype(np.int16), "I8": np.dtype(np.int8), "U8": np.dtype(np.uint8), "BOOL": np.dtype(np.bool_),
}  # fmt: skip
_NAMES = {dtype: name for name, dtype in DTYPES.items()}

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"
_LARGEST_HEADER = 100 * 2**20
_PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack")
# Bytes read at once where a slice is not contiguous in the file.
_BLOCK = 16 * 2**20


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file.

    Attributes:
      file: where it is.
      offset: of its first byte in the file.
      dtype: as stored.
      shape: as stored.
    """

    file: pathlib.Path
    offset: int
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self, wanted: tuple[slice, ...] | None = None) -> np.ndarray:
        """A slice, in the stored dtype; the whole tensor by default."""
        wanted = wanted or tuple(slice(0, size) for size in self.shape)
        if not self.shape:
            return self._rows(0, 1, 1).reshape(())
        rows, rest = wanted[0], wanted[1:]
        width = math.prod(self.shape[1:])
        if all(cut == slice(0, size) for cut, size in zip(rest, self.shape[1:], strict=True)):
            return self._rows(rows.start, rows.stop, width).reshape(-1, *self.shape[1:])
        at_once = max(1, _BLOCK // max(1, width * self.dtype.itemsize))
        shape = (rows.stop - rows.start, *(cut.stop - cut.start for cut in rest))
        result = np.empty(shape, self.dtype)
        for first in range(rows.start, rows.stop, at_once):
            last = min(first + at_once, rows.stop)
            block = self._rows(first, last, width).reshape(-1, *self.shape[1:])
            result[first - rows.start : last - rows.start] = block[(slice(None), *rest)]
        return result

    def _rows(self, first: int, last: int, width: int) -> np.ndarray:
        result = np.empty((last - first) * width, self.dtype)
        with self.file.open("rb", buffering=0) as stream:
            stream.seek(self.offset + first * width * self.dtype.itemsize)
            view, done = result.view(np.uint8).data, 0
            while done < len(view):
                count = stream.readinto(view[done:])
                if not count:
                    raise CheckpointError(f"{self.file} ends before its tensors do: it is truncated")
                done += count
        return result


def stored_tensors(directory: pathlib.Path) -> dict[str, StoredTensor]:
    """All tensors of a directory in Hugging Face layout, by name.

    Raises:
      CheckpointError: there are no safetensors, a shard is missing, an index names files elsewhere or tensors that its
        files do not hold, a file is damaged, or a name is there twice.
    """
    if (directory / SINGLE).exists():
        if (directory / INDEX).exists():
            _logger.warning("%s has both %s and %s: the former is read, as transformers does", directory, SINGLE, INDEX)
        return _header(directory / SINGLE)
    if (directory / INDEX).exists():
        return _indexed(directory)
    if pickles := sorted(path.name for path in directory.glob("*") if path.suffix in _PICKLES):
        raise CheckpointError(
            f"{directory} has pickled weights ({pickles[0]}), which can run code when they are read; convert them "
            "where you trust them: AutoModel.from_pretrained(DIR).save_pretrained(NEW_DIR, safe_serialization=True)"
        )
    raise CheckpointError(f"{directory} has neither {SINGLE} nor {INDEX}")


def tensors_of(path: pathlib.Path) -> dict[str, StoredTensor]:
    """All tensors of one file, by name.

    Raises:
      CheckpointError: it is no safetensors file, or damaged.
    """
    return _header(path)


def write_file(path: pathlib.Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes arrays into one file."""
    described = {name: (array.dtype, array.shape) for name, array in tensors.items()}
    _write(path, described, described, lambda name: tensors[name])


def _indexed(directory: pathlib.Path) -> dict[str, StoredTensor]:
    path = directory / INDEX
    index = _json(path.read_bytes(), path)
    weights = index.get("weight_map") if isinstance(index, dict) else None
    if not isinstance(weights, dict) or not all(isinstance(file, str) for file in weights.values()):
        raise CheckpointError(f"{path} has no weight_map from names to files")
    found: dict[str, StoredTensor] = {}
    for file in sorted(set(weights.values())):
        if file in ("", ".", "..") or "/" in file or "\\" in file or pathlib.Path(file).suffix != ".safetensors":
            raise CheckpointError(f"{path} points to {file!r}: only .safetensors files beside it are read")
        if not (directory / file).exists():
            raise CheckpointError(f"{directory} lacks {file}, which {INDEX} names")
        for name, stored in _header(directory / file).items():
            if name in found:
                raise CheckpointError(f"{directory}: tensor {name} is both in {found[name].file.name} and in {file}")
            if weights.get(name) != file:
                said = weights.get(name, "nothing")
                raise CheckpointError(f"{directory}: tensor {name} is in {file}, but {INDEX} says {said}")
            found[name] = stored
    if missing := sorted(set(weights) - set(found)):
        name = missing[0]
        raise CheckpointError(f"{directory}: tensor {name} is not in {weights[name]}, where {INDEX} says it is")
    return found


def _header(path: pathlib.Path) -> dict[str, StoredTensor]:
    size = path.stat().st_size
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _LARGEST_HEADER):
            raise CheckpointError(f"{path} is not a safetensors file, or it is truncated")
        header = _json(stream.read(length), path)
    if not isinstance(header, dict):
        raise CheckpointError(f"{path} has no safetensors header")
    header.pop("__metadata__", None)
    tensors, ends = {}, []
    for name, entry in header.items():
        try:
            dtype, shape = DTYPES[entry["dtype"]], tuple(int(n) for n in entry["shape"])
            first, last = (int(n) for n in entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise CheckpointError(f"{path}: the header's entry for {name} cannot be read: {entry}") from None
        if first < 0 or min(shape, default=0) < 0 or last - first != math.prod(shape) * dtype.itemsize:
            raise CheckpointError(f"{path}: {name} of shape {shape} does not fill bytes {first} to {last}")
        ends.append((first, last, name))
        tensors[name] = StoredTensor(path, 8 + length + first, dtype, shape)
    reached = 0
    for first, last, name in sorted(ends):
        if first != reached:
            raise CheckpointError(f"{path}: the bytes of {name} overlap others or leave a gap")
        reached = last
    if 8 + length + reached != size:
        verb = "is truncated" if size < 8 + length + reached else "has bytes after its tensors"
        raise CheckpointError(f"{path} {verb}: {size} bytes instead of {8 + length + reached}")
    return tensors


def _json(text: bytes, path: pathlib.Path) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result: dict[str, Any] = {}
        for name, value in pairs:
            if name in result:
                raise CheckpointError(f"{path} has {name!r} twice")
            result[name] = value
        return result

    try:
        return json.loads(text, object_pairs_hook=unique)
    # A deeply nested text exhausts the parser's stack.
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None


def write_tensors(
    directory: pathlib.Path,
    described: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    values: Callable[[str], np.ndarray],
    shard_bytes: int,
) -> None:
    """Writes tensors one at a time, in one file or, above `shard_bytes`, in several with an index.

    Args:
      directory: where to.
      described: dtype and shape by name.
      values: computes a tensor; called once for each, in order.
      shard_bytes: largest number of bytes of tensors in a file (a single larger tensor gets a file of its own).
    """
    shards: list[list[str]] = [[]]
    filled = 0
    for name, (dtype, shape) in described.items():
        size = math.prod(shape) * dtype.itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(name)
        filled += size
    if len(shards) == 1:
        _write(directory / SINGLE, shards[0], described, values)
        return
    weight_map: dict[str, str] = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(directory / file, names, described, values)
        weight_map |= dict.fromkeys(names, file)
    total = sum(math.prod(shape) * dtype.itemsize for dtype, shape in described.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _write(
    path: pathlib.Path,
    names: Iterable[str],
    described: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    values: Callable[[str], np.ndarray],
) -> None:
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    reached = 0
    for name in names:
        dtype, shape = described[name]
        end = reached + math.prod(shape) * dtype.itemsize
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [reached, end]}
        reached = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in names:
            array = np.asarray(values(name), order="C")
            assert (array.dtype, array.shape) == described[name], name
            stream.write(array.reshape(-1).view(np.uint8).data)
        stream.flush()
        os.fsync(stream.fileno())
