"""A base with a low-rank update in PEFT's format merged into it."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.expressing import expressing
from jaxft.huggingface.low_rank import merge
from jaxft.huggingface.peft_format import BASE_KEY, Adapter, fingerprint, read_adapter
from jaxft.huggingface.placing import Placed, place_all
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters, flat_paths
from jaxft.workflows.weights.pretrained import Pretrained

_logger = logging.getLogger("jaxft")


def with_adapter(base: Pretrained, path: str | pathlib.Path) -> AdaptedWeights:
    """Weights to start from with an adapter merged into them.

    Args:
      base: what it was made for.
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
    found: list[tuple[Head, HeadConfig]] = []
    claimed: set[str] = set()
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
    """A base with a low-rank update merged into it; implements `Pretrained`.

    Attributes:
      base: weights to start from.
      adapter: the update.
      architecture: whose names the adapter uses.
      prefix: of the trunk's names in it.
      saved_heads: that the adapter brings.
    """

    base: Pretrained
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

    def parameters(self, target: Mapping[str, Any]) -> dict[str, Any]:
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
        base = self.adapter.config.get(BASE_KEY)
        if not isinstance(base, dict) or "sha256" not in base:
            _logger.warning(
                "%s does not say which weights it was made for (its base is called %s): names and shapes alone are "
                "checked",
                self.adapter.directory,
                self.adapter.config.get("base_model_name_or_path"),
            )
            return
        without = set(base.get("without", ()))
        trunk = {path: leaf for path, leaf in flat.items() if path.startswith("trunk/") and path not in without}
        if fingerprint(trunk) != base["sha256"]:
            made_for = self.adapter.config.get("base_model_name_or_path")
            raise CheckpointError(
                f"{self.adapter.directory} was made for other weights than these (its base was {made_for}): "
                "their fingerprints differ"
            )
