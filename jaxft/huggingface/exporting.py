"""Weights back to files: config.json, safetensors, tokenizer, generation settings and a model card."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Mapping

import jax
import ml_dtypes
import numpy as np

from jaxft.data.tokenizers import Tokenizer
from jaxft.errors import CheckpointError
from jaxft.huggingface.expressing import Form
from jaxft.huggingface.generation_settings import write_generation_settings
from jaxft.huggingface.placing import Placed
from jaxft.huggingface.safetensors_files import write_tensors
from jaxft.huggingface.sentence_modules import sentence_files
from jaxft.models.model import flat_paths
from jaxft.parallel.trees import Parameters

SHARD_BYTES = 5 * 10**9
_DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16), "float16": np.dtype(np.float16)}


def write_model(
    directory: pathlib.Path,
    form: Form,
    parameters: Parameters,
    tokenizer: Tokenizer | None,
    *,
    dtype: str | None = None,
    shard_bytes: int = SHARD_BYTES,
    card: str | None = None,
    longest_text: int | None = None,
) -> None:
    """Writes a model in Hugging Face layout, one tensor at a time.

    Args:
      directory: where to; made if missing, and refused if it holds a model already.
      form: names, shapes and config.json.
      parameters: nested dict.
      tokenizer: written along.
      dtype: `float32`, `bfloat16` or `float16` for all tensors; that of the form where None.
      shard_bytes: largest size of a file.
      card: text of README.md.
      longest_text: tokens to which its tokenizer cuts texts where that is asked for; as its files have it where None.

    Raises:
      CheckpointError: the directory holds a model, or `dtype` is none of the above, or cannot hold a tensor.
    """
    if dtype is not None and dtype not in _DTYPES:
        raise CheckpointError(f"dtype must be one of {', '.join(_DTYPES)}, found {dtype!r}")
    if (directory / "config.json").exists():
        raise CheckpointError(f"{directory} holds a model already; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    flat = flat_paths(parameters)
    described, by_file_name = {}, {}
    for name, tensor in form.placed.items():
        chosen = form.dtypes.get(name, _DTYPES["float32"]) if dtype is None else _DTYPES[dtype]
        file_name = form.names.get(name, name)
        described[file_name], by_file_name[file_name] = (chosen, tensor.shape), tensor

    def value(file_name: str) -> np.ndarray:
        array = tensor_value(by_file_name[file_name], flat)
        return _converted(array, described[file_name][0], f"{directory}: {file_name}")

    write_tensors(directory, described, value, shard_bytes)
    _write_settings(directory, form, tokenizer, longest_text)
    if card is not None:
        (directory / "README.md").write_text(card, encoding="utf-8")
    config = dict(form.config)
    dtypes = {dtype for dtype, _ in described.values()}
    if len(dtypes) == 1:
        config.pop("torch_dtype", None)
        config["dtype"] = next(name for name, value in _DTYPES.items() if value in dtypes)
    # Last, since it is what says that a model is here.
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _converted(array: np.ndarray, dtype: np.dtype, what: str) -> np.ndarray:
    with np.errstate(over="ignore"):
        converted = array.astype(dtype, copy=False)
    if dtype == np.float16 and np.isinf(converted).any() and np.isfinite(array).all():
        raise CheckpointError(
            f"{what} has values up to {np.abs(array).max():.3g}, and float16 ends at 65504; choose bfloat16 or float32"
        )
    return converted


def _write_settings(directory: pathlib.Path, form: Form, tokenizer: Tokenizer | None, longest_text: int | None) -> None:
    """Writes the tokenizer, what travels with the model, and how it writes."""
    if tokenizer is not None:
        tokenizer.export(directory, token_types=form.config.get("type_vocab_size", 0) > 1)
        if longest_text is not None:
            _limit_texts(directory / "tokenizer_config.json", longest_text)
    if form.directory is not None:
        copy_settings(form.directory, directory)
    if form.generation_settings is not None:
        write_generation_settings(directory, form.generation_settings, tokenizer)


def _limit_texts(path: pathlib.Path, longest: int) -> None:
    """Writes to how many tokens a tokenizer cuts texts, unless its own limit is lower."""
    if path.is_file():
        values = json.loads(path.read_text(encoding="utf-8"))
        own = values.get("model_max_length")
        values["model_max_length"] = min(longest, own) if isinstance(own, int) else longest
        path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def travelling_files(source: pathlib.Path) -> tuple[str, ...]:
    """Names of the files of a model's settings, which travel along with its weights."""
    own = ("generation_config.json", "preprocessor_config.json")
    return (*(name for name in own if (source / name).is_file()), *sentence_files(source))


def copy_settings(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copies the files of a model's settings."""
    for name in travelling_files(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, target / name)


def tensor_value(tensor: Placed, parameters: Mapping[str, jax.Array | np.ndarray]) -> np.ndarray:
    """A tensor of the file from our parameters, by path."""
    parts = [_part(parameters[place.path], place.rows) for place in tensor.places]
    if len({place.offset for place in tensor.places}) > 1:
        pieces = [place.pattern.write([part], place.sizes) for place, part in zip(tensor.places, parts, strict=True)]
        return np.concatenate(pieces)
    return tensor.places[0].pattern.write(parts, tensor.places[0].sizes)


def _part(parameter: jax.Array | np.ndarray, rows: tuple[int, ...]) -> np.ndarray:
    return np.asarray(parameter[rows] if rows else parameter)
