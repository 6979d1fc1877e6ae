"""Low-rank updates in and out of PEFT's format: a base with an adapter merged into it, and a run as an adapter."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.finetuning.lora import LoraConfig, LoraModel
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.expressing import Form, expressing
from jaxft.huggingface.low_rank import merge, modules_of
from jaxft.huggingface.peft_format import BASE_KEY, Adapter, fingerprint, read_adapter, write_adapter
from jaxft.huggingface.placing import Placed, place_all
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters, flat_paths, sharded_target
from jaxft.parallel.mesh import MeshConfig
from jaxft.recipe.library import load_recipe
from jaxft.workflows.runs.run_directory import RunDirectory

_logger = logging.getLogger("jaxft")

_TASK_TYPES = {
    "sequence_classification": "SEQ_CLS", "token_classification": "TOKEN_CLS", "question_answering": "QUESTION_ANS",
}  # fmt: skip


# --- In ---


def with_adapter(base, path: str | pathlib.Path):
    """Weights to start from with an adapter merged into them.

    Args:
      base: `jaxft.workflows.weights.pretrained.Pretrained`.
      path: directory of the adapter.

    Raises:
      CheckpointError: it cannot be read, or was made for another base.
    """
    adapter = read_adapter(pathlib.Path(path))
    problems = []
    for architecture, values in expressing(base.config, base.huggingface):
        prefix = architecture.prefix
        if not any(module.startswith(prefix) for module in adapter.modules):
            prefix = ""
        heads = _saved_heads(architecture, base.config, values, adapter, prefix)
        adapted = AdaptedWeights(base, adapter, architecture, prefix, heads)
        known = {tensor.name for tensor in adapted.placed()}
        missing = [module for module in adapter.modules if f"{module}.weight" not in known]
        if not missing:
            return adapted
        problems.append(f"as a {architecture.model_types[0]} it has no layer {missing[0]}")
    raise CheckpointError(
        f"{adapter.directory} does not fit the base: {'; '.join(problems) or 'no table expresses it'}"
    )


def _saved_heads(
    architecture: Architecture, model: ModelConfig, values: Mapping[str, Any], adapter: Adapter, prefix: str
) -> tuple[tuple[Head, HeadConfig], ...]:
    """Heads that the adapter holds whole."""
    found, claimed = [], set()
    declared = {head.name: head for heads in architecture.classes.values() for head in heads}
    for head in sorted(declared.values(), key=lambda head: -len(head.tensors_of(model))):
        tensors = {tensor.name.replace("{trunk}", prefix): tensor for tensor in head.tensors_of(model)}
        if not tensors or not set(tensors) <= set(adapter.saved) or set(tensors) & claimed:
            continue
        labels = [n for n, t in tensors.items() if t.targets[0].path == "classifier/kernel"]
        own = dict(values)
        if labels:
            own["id2label"] = {str(i): str(i) for i in range(adapter.saved[labels[0]].shape[0])}
        found.append((head, head.config_of(HuggingFaceConfig(own, str(adapter.directory)))))
        claimed |= set(tensors)
    return tuple(found)


@dataclasses.dataclass(frozen=True)
class AdaptedWeights:
    """A base with a low-rank update merged into it; implements `jaxft.workflows.weights.pretrained.Pretrained`.

    Attributes:
      base: weights to start from.
      adapter: the update.
      architecture: whose names the adapter uses.
      prefix: of the trunk's names in it.
      saved_heads: that the adapter brings.
    """

    base: Any
    adapter: Adapter
    architecture: Architecture
    prefix: str
    saved_heads: tuple[tuple[Head, HeadConfig], ...]

    @property
    def config(self) -> ModelConfig:
        """Of the base."""
        return self.base.config

    @property
    def heads(self) -> Mapping[str, HeadConfig]:
        """Of the base, and those that the adapter brings."""
        return dict(self.base.heads) | {head.name: config for head, config in self.saved_heads}

    @property
    def tokenizer_directory(self) -> pathlib.Path:
        """Of the base."""
        return self.base.tokenizer_directory

    @property
    def huggingface(self) -> HuggingFaceConfig | None:
        """Of the base."""
        return self.base.huggingface

    @property
    def settings(self) -> pathlib.Path:
        """Of the base."""
        return self.base.settings

    def placed(self) -> list[Placed]:
        """Torch's tensors of the trunk and of the heads that the adapter brings."""
        own = Model(self.config, tuple((head.name, config) for head, config in self.saved_heads))
        shapes = {path: leaf.shape for path, leaf in flat_paths(abstract_parameters(own)[0]).items()}
        return place_all(self.architecture, self.config, [head for head, _ in self.saved_heads], self.prefix, shapes)

    def parameters(self, target) -> dict[str, Any]:
        """The base's arrays with the update in them; see `Pretrained`.

        Raises:
          CheckpointError: the adapter was made for another base, or does not fit its shapes.
        """
        found = self.base.parameters(target)
        brought = {f"head_{head.name}" for head, _ in self.saved_heads} & set(target)
        for name in brought - set(found):
            # Every one of its arrays comes from the adapter.
            found[name] = jax.tree.map(
                lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), target[name]
            )
        flat = flat_paths(found)
        self._check_base(flat)
        placed = [t for t in self.placed() if all(place.path in flat for place in t.places)]
        there = {tensor.name for tensor in placed}
        left_out = {t.name for t in self.placed()} - there
        adapter = dataclasses.replace(
            self.adapter, saved={name: own for name, own in self.adapter.saved.items() if name not in left_out}
        )
        changed = merge(adapter, placed, flat)
        leaves = [
            jax.device_put(changed[path].astype(leaf.dtype), leaf.sharding) if path in changed else leaf
            for path, leaf in flat.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(found), leaves)

    def _check_base(self, flat: Mapping[str, jax.Array]) -> None:
        said = self.adapter.config.get(BASE_KEY)
        if not isinstance(said, dict) or "sha256" not in said:
            _logger.warning(
                "%s does not say which weights it was made for (its base is called %s): names and shapes alone are "
                "checked",
                self.adapter.directory,
                self.adapter.config.get("base_model_name_or_path"),
            )
            return
        without = set(said.get("without", ()))
        trunk = {path: leaf for path, leaf in flat.items() if path.startswith("trunk/") and path not in without}
        if fingerprint(trunk) != said["sha256"]:
            made_for = self.adapter.config.get("base_model_name_or_path")
            raise CheckpointError(
                f"{self.adapter.directory} was made for other weights than these (its base was {made_for}): "
                "their fingerprints differ"
            )


# --- Out ---


def write_run_adapter(
    run: RunDirectory, step: int, form: Form, head: str | None, merged: Any, output: pathlib.Path
) -> dict[str, Any]:
    """Writes the low-rank update of a run, and the heads that were trained beside it.

    Args:
      run: a run with `finetuning.lora`.
      step: which checkpoint.
      form: the class that expresses the merged model.
      head: name of the head in it, or None.
      merged: its parameters.
      output: a new directory.

    Returns:
      `modules` and `parameters`: how many there are in the adapter.

    Raises:
      CheckpointError: the run has no such update, or PEFT cannot hold what it trained.
    """
    recipe, _ = load_recipe(run.path / "recipe.yaml") if (run.path / "recipe.yaml").is_file() else (None, None)
    if recipe is None or recipe.finetuning.lora is None:
        raise CheckpointError(f"{run.path} has no low-rank update; --adapter is for runs with finetuning.lora")
    if recipe.finetuning.train_only:
        raise CheckpointError(
            f"{run.path} trained {', '.join(recipe.finetuning.train_only)} beside its low-rank update, which an "
            "adapter cannot hold; export the merged model, without --adapter"
        )
    lora = recipe.finetuning.lora
    trunk = {path: leaf for path, leaf in flat_paths(_live(run, step, lora)).items() if path.startswith("trunk/")}
    modules, transposed = modules_of(_of_trunk(form), trunk, lora.scale)
    saved = _head_tensors(form, flat_paths(merged))
    kind = run.model()[1][head].kind if head is not None else None
    config = {
        "task_type": _task_type(kind, run.model()[0]),
        "fan_in_fan_out": transposed,
        "base_model_name_or_path": recipe.model.pretrained,
        BASE_KEY: _base(trunk),
        "lora_dropout": lora.dropout,
    }
    write_adapter(output, modules, saved, config)
    count = sum(update.a.size + update.b.size for update in modules.values())
    return {"modules": len(modules), "parameters": count + sum(array.size for array in saved.values())}


def _live(run: RunDirectory, step: int, lora: LoraConfig) -> Any:
    """The adapted model's parameters: those that are trained, or their average."""
    config, heads = run.model()
    target = sharded_target(LoraModel(Model(config, tuple(heads.items())), lora), "float32", MeshConfig())
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
