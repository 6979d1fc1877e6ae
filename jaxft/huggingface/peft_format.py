"""Low-rank updates in the format of PEFT: `adapter_config.json` and `adapter_model.safetensors`."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.peft_config import CONFIG_FILE, AdapterConfig, read_adapter_config
from jaxft.huggingface.safetensors_files import StoredTensor, tensors_of, write_file

TENSOR_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
_SUFFIXES = {
    "lora_A.weight": "a", "lora_B.weight": "b", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class LowRank:
    """The update of one torch module.

    Attributes:
      a: `(rank, inputs)`.
      b: `(outputs, rank)`.
      scale: factor of their product.
      magnitude: `(outputs,)` of DoRA, or None.
    """

    a: np.ndarray
    b: np.ndarray
    scale: float
    magnitude: np.ndarray | None = None

    def merged(self, weight: np.ndarray, transposed: bool) -> np.ndarray:
        """The weight `(outputs, inputs)`, or the other way around where transposed, that computes the same."""
        weight = (weight.T if transposed else weight).astype(np.float32)
        whole = weight + np.float32(self.scale) * (self.b.astype(np.float32) @ self.a.astype(np.float32))
        if self.magnitude is not None:
            lengths = np.maximum(np.linalg.norm(whole, axis=1), 1e-12)
            whole = whole * (self.magnitude.astype(np.float32) / lengths)[:, None]
        return whole.T if transposed else whole


@dataclasses.dataclass(frozen=True)
class Adapter:
    """An adapter in PEFT's format.

    Attributes:
      directory: where it is.
      config: its adapter_config.json.
      modules: updates by the name of the torch module.
      saved: whole tensors of modules that were trained beside, by name.
    """

    directory: pathlib.Path
    config: AdapterConfig
    modules: Mapping[str, LowRank]
    saved: Mapping[str, StoredTensor]


def read_adapter(directory: pathlib.Path) -> Adapter:
    """An adapter of kind LoRA or DoRA.

    Raises:
      CheckpointError: it is none, or has parts that cannot be merged exactly; they are named.
    """
    config = read_adapter_config(directory)
    if not (directory / TENSOR_FILE).is_file():
        pickled = " (adapter_model.bin is a pickle, which is not read)" * (directory / "adapter_model.bin").is_file()
        raise CheckpointError(f"{directory} has no {TENSOR_FILE}{pickled}")
    parts: dict[str, dict[str, np.ndarray]] = {}
    saved = {}
    for name, stored in tensors_of(directory / TENSOR_FILE).items():
        if not name.startswith(PREFIX):
            raise CheckpointError(f"{directory}: {name} is not of the form {PREFIX}MODULE.lora_A.weight")
        name = name.removeprefix(PREFIX)
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(f".{suffix}")), None)
        if suffix is not None:
            parts.setdefault(name.removesuffix(f".{suffix}"), {})[_SUFFIXES[suffix]] = stored.read()
        elif ".lora_" in name:
            raise CheckpointError(f"{directory}: {name} is no update of a linear layer, the only ones that are merged")
        else:
            saved[name] = stored
    modules = {module: _low_rank(config, module, own) for module, own in parts.items()}
    if not modules:
        raise CheckpointError(f"{directory} holds no low-rank update")
    return Adapter(directory, config, modules, saved)


def _low_rank(config: AdapterConfig, module: str, parts: dict[str, np.ndarray]) -> LowRank:
    directory = config.path.parent
    if "a" not in parts or "b" not in parts:
        raise CheckpointError(f"{directory}: {module} has only one of lora_A and lora_B")
    if parts["a"].ndim != 2 or parts["b"].ndim != 2 or parts["a"].shape[0] != parts["b"].shape[1]:
        shapes = f"{list(parts['a'].shape)} and {list(parts['b'].shape)}"
        raise CheckpointError(f"{directory}: {module} has lora_A and lora_B of shapes {shapes}")
    if bool(config.values.get("use_dora")) != ("magnitude" in parts):
        raise CheckpointError(f"{directory}: use_dora is {config.values.get('use_dora')}, but not so for {module}")
    if not config.is_target(module):
        raise CheckpointError(f"{config.path}: {module} has an update, but is none of the modules that are adapted")
    rank = parts["a"].shape[0]
    if rank != config.rank(module):
        raise CheckpointError(
            f"{config.path}: r and rank_pattern give {module} the rank {config.rank(module)}, its update has {rank}"
        )
    return LowRank(parts["a"], parts["b"], config.scale(module), parts.get("magnitude"))


def write_adapter(
    directory: pathlib.Path, modules: Mapping[str, LowRank], saved: Mapping[str, np.ndarray], config: Mapping[str, Any]
) -> None:
    """Writes an adapter.

    Args:
      directory: a new one.
      modules: updates by the name of the torch module.
      saved: whole tensors of modules that were trained beside, by name.
      config: further keys of adapter_config.json.

    Raises:
      CheckpointError: the directory holds an adapter already.
    """
    if (directory / CONFIG_FILE).exists():
        raise CheckpointError(f"{directory} holds an adapter already; choose another directory")
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for module, update in modules.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = update.a
        tensors[f"{PREFIX}{module}.lora_B.weight"] = update.b
        if update.magnitude is not None:
            tensors[f"{PREFIX}{module}.lora_magnitude_vector"] = update.magnitude
    tensors |= {f"{PREFIX}{name}": array for name, array in saved.items()}
    write_file(directory / TENSOR_FILE, {name: np.asarray(array, np.float32) for name, array in tensors.items()})
    ranks = {module: update.a.shape[0] for module, update in modules.items()}
    alphas = {module: update.scale * ranks[module] for module, update in modules.items()}
    rank, alpha = min(ranks.values()), min(alphas.values())
    values = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": sorted(modules),
        "use_dora": any(one.magnitude is not None for one in modules.values()),
        "rank_pattern": {module: own for module, own in ranks.items() if own != rank},
        "alpha_pattern": {module: own for module, own in alphas.items() if own != alpha},
        "modules_to_save": sorted({name.rpartition(".")[0] for name in saved}) or None,
        "inference_mode": True,
        **config,
    }
    # Last, since it is what says that an adapter is here.
    (directory / CONFIG_FILE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def fingerprint(parameters: Mapping[str, jax.Array]) -> str:
    """What tells one base from another: a digest of float32 arrays and their paths."""
    digest = hashlib.sha256()
    for path in sorted(parameters):
        array = np.ascontiguousarray(np.asarray(parameters[path], np.float32))
        digest.update(f"{path} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
