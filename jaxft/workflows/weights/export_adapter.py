"""The low-rank update of a run in PEFT's format."""

from __future__ import annotations

import pathlib
import re
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.finetuning.lora import LoraConfig, LoraModel
from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.expressing import Form
from jaxft.huggingface.low_rank import modules_of
from jaxft.huggingface.peft_config import BASE_KEY
from jaxft.huggingface.peft_format import fingerprint, write_adapter
from jaxft.huggingface.placing import Placed
from jaxft.models.config import ModelConfig
from jaxft.models.model import Model, flat_paths, sharded_target
from jaxft.parallel.mesh import MeshConfig
from jaxft.workflows.weights.location import ModelLocation

_TASK_TYPES = {
    "sequence_classification": "SEQ_CLS", "token_classification": "TOKEN_CLS", "question_answering": "QUESTION_ANS",
}  # fmt: skip


def write_run_adapter(
    location: ModelLocation, form: Form, head: str | None, merged: Any, output: pathlib.Path
) -> dict[str, Any]:
    """Writes the low-rank update of a run, and the heads that were trained beside it.

    Args:
      location: of a run with `finetuning.lora`.
      form: the class that expresses the merged model.
      head: name of the head in it, or None.
      merged: its parameters.
      output: a new directory.

    Returns:
      `modules` and `parameters`: how many there are in the adapter.

    Raises:
      CheckpointError: the run has no such update, or PEFT cannot hold what it trained.
    """
    recipe, stored = location.recipe, location.stored
    if recipe is None or recipe.finetuning.lora is None:
        raise CheckpointError(
            f"{location.directory} has no low-rank update; --adapter is for runs with finetuning.lora"
        )
    if recipe.finetuning.train_only:
        raise CheckpointError(
            f"{location.directory} trained {', '.join(recipe.finetuning.train_only)} beside its low-rank update, which "
            "an adapter cannot hold; export the merged model, without --adapter"
        )
    if recipe.model.adapter is not None:
        raise CheckpointError(
            f"{location.directory} began from {recipe.model.pretrained} with the adapter {recipe.model.adapter} merged "
            "into it, which no adapter can name as its base; export the merged model, without --adapter"
        )
    lora = recipe.finetuning.lora
    trunk = {path: leaf for path, leaf in flat_paths(_live(location, lora)).items() if path.startswith("trunk/")}
    modules, transposed = modules_of(_of_trunk(form), trunk, lora.scale)
    saved = _head_tensors(form, flat_paths(merged))
    kind = stored.heads[head].kind if head is not None else None
    config = {
        "task_type": _task_type(kind, stored.config),
        "fan_in_fan_out": transposed,
        "base_model_name_or_path": recipe.model.pretrained,
        BASE_KEY: _base(trunk),
        "lora_dropout": lora.dropout,
    }
    write_adapter(output, modules, saved, config | {"modules_to_save": _saved_modules(saved, form) or None})
    count = sum(update.a.size + update.b.size for update in modules.values())
    return {"modules": len(modules), "parameters": count + sum(array.size for array in saved.values())}


def _live(location: ModelLocation, lora: LoraConfig) -> Any:
    """The adapted model's parameters: those that are trained, or their average."""
    run, step, stored = location.need_run(), location.step, location.stored
    target = sharded_target(LoraModel(Model(stored.config, tuple(stored.heads.items())), lora), "float32", MeshConfig())
    arrays = run.checkpoints.progress(step)["arrays"]["training"]
    name = "average" if any(path.startswith("average/") for path in arrays) else "parameters"
    # Codes are integers.
    dtypes = {path: dtype for path, (_, dtype) in arrays.items()}
    target = jax.tree_util.tree_map_with_path(
        lambda path, leaf: leaf.update(
            dtype=dtypes[f"{name}/{jax.tree_util.keystr(path, simple=True, separator='/')}"]
        ),
        target,
    )
    return run.checkpoints.restore_training(step, name, target)


def _of_trunk(form: Form) -> list[Placed]:
    return [tensor for tensor in form.placed.values() if tensor.places[0].path.startswith("trunk/")]


def _head_tensors(form: Form, parameters: Mapping[str, jax.Array]) -> dict[str, np.ndarray]:
    """Tensors of the head, as PEFT's `modules_to_save`."""
    names = [name for name, tensor in form.placed.items() if tensor.places[0].path.startswith("head_")]
    modules = {name.rpartition(".")[0] for name in names}
    inner = [one for one in modules if any(other.startswith(f"{one}.") for other in form.placed if other not in names)]
    inner += [one for one in modules if any(other != one and other.startswith(f"{one}.") for other in modules)]
    if inner:
        raise CheckpointError(
            f"PEFT saves whole modules, and the head's parameters of {inner[0]} lie beside those of others; "
            "export the merged model, without --adapter"
        )
    return {name: tensor_value(form.placed[name], parameters) for name in names}


def _saved_modules(saved: Iterable[str], form: Form) -> list[str]:
    """The modules that PEFT keeps whole: the outermost of one that the head has for itself, as PEFT's tasks name it."""
    modules = set()
    for name in saved:
        inner, outer = name.rpartition(".")[0], name.partition(".")[0]
        own = all(other in saved for other in form.placed if other.partition(".")[0] == outer)
        modules.add(outer if own else inner)
    return sorted(modules)


def _task_type(kind: str | None, model: ModelConfig) -> str | None:
    if kind == "causal_lm":
        return "SEQ_2_SEQ_LM" if model.family == "encoder_decoder" else "CAUSAL_LM"
    return "FEATURE_EXTRACTION" if kind in (None, "pooled") else _TASK_TYPES.get(kind)


def _base(trunk: Mapping[str, jax.Array]) -> dict[str, Any]:
    """What the adapter says of its base; of a quantized one without the kernels, which are not what they were."""
    base = {path: leaf for path, leaf in trunk.items() if not re.search(r"/(lora_[ab]|dora_magnitude)$", path)}
    codes = [path for path in base if path.endswith("/kernel_codes")]
    without = sorted(path.removesuffix("_codes") for path in codes)
    base = {path: leaf for path, leaf in base.items() if not path.endswith(("/kernel_codes", "/kernel_scales"))}
    return {"sha256": fingerprint(base)} | ({"without": without} if without else {})
