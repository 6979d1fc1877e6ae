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
from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.expressing import expressing
from jaxft.huggingface.low_rank import merge, put
from jaxft.huggingface.peft_config import BASE_KEY
from jaxft.huggingface.peft_format import Adapter, fingerprint, read_adapter
from jaxft.huggingface.placing import Placed, place_all
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters, flat_paths, sharded_target
from jaxft.workflows.weights.adapter_heads import Heads, brought_heads, declared_heads
from jaxft.workflows.weights.pretrained import Pretrained

_logger = logging.getLogger("jaxft")

_VOCABULARY = ("masked_lm", "causal_lm")
_EMBEDDING = "trunk/embeddings/tokens/table"


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
        bare = AdaptedWeights(base, adapter, architecture, prefix, ())
        held = {tensor.name for tensor in bare.placed_in_base()}
        own = (tuple(base.heads), held)
        heads = brought_heads(adapter, architecture, base.config, values, prefix, own)
        adapted = dataclasses.replace(bare, saved_heads=heads)
        known = {tensor.name for tensor in adapted.placed()}
        missing = [module for module in adapter.modules if f"{module}.weight" not in known]
        if not missing:
            _check_tied(adapted)
            return adapted
        problems.append(f"as a {architecture.model_types[0]} it has no layer {missing[0]}")
    raise CheckpointError(
        f"{adapter.directory} does not fit the base: {'; '.join(problems) or 'no table expresses it'}"
    )


def _check_tied(adapted: AdaptedWeights) -> None:
    """An embedding that PEFT copies is no longer that of the vocabulary head, which goes on with the base's.

    Raises:
      CheckpointError: the adapter has such an embedding, and a head is tied to it.
    """
    heads = {head.name: config for head, config in adapted.saved_heads} or adapted.base.heads
    if not adapted.config.tied_embeddings or not any(head.kind in _VOCABULARY for head in heads.values()):
        return
    for tensor in adapted.placed():
        embeds = any(place.path == _EMBEDDING for place in tensor.places)
        if embeds and tensor.name in adapted.adapter.saved and adapted.adapter.config.is_saved(tensor.name):
            raise CheckpointError(
                f"{adapted.adapter.config.path}: modules_to_save has {tensor.name.rpartition('.')[0]}, which the base "
                "ties to its vocabulary head, so that the two would part"
            )


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
    saved_heads: Heads

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
        return self._placed(self.saved_heads)

    def placed_in_base(self) -> list[Placed]:
        """Torch's tensors of the heads that the base has under the names of its architecture."""
        declared = declared_heads(self.architecture)
        own = [(declared[name], config) for name, config in self.base.heads.items() if name in declared]
        return [tensor for tensor in self._placed(tuple(own)) if not tensor.places[0].path.startswith("trunk/")]

    def _placed(self, heads: Heads) -> list[Placed]:
        model = Model(self.config, tuple((head.name, config) for head, config in heads))
        shapes = {path: leaf.shape for path, leaf in flat_paths(abstract_parameters(model)[0]).items()}
        return place_all(self.architecture, self.config, [head for head, _ in heads], self.prefix, shapes)

    def parameters(self, target: Mapping[str, Any]) -> dict[str, Any]:
        """The base's arrays with the update in them; see `Pretrained`.

        Raises:
          CheckpointError: the adapter was made for another base, or does not fit its shapes.
        """
        brought = {f"head_{head.name}" for head, _ in self.saved_heads} & set(target)
        found = self.base.parameters({name: tree for name, tree in target.items() if name not in brought})
        self._check_base(flat_paths(found))
        for name in brought:
            # Every one of its arrays comes from the adapter, or from another head of the base.
            found[name] = jax.tree.map(
                lambda leaf: jax.device_put(np.zeros(leaf.shape, leaf.dtype), leaf.sharding), target[name]
            )
        flat = flat_paths(found)
        placed = [t for t in self.placed() if all(place.path in flat for place in t.places)]
        there = {tensor.name for tensor in placed}
        left_out = {t.name for t in self.placed()} - there
        saved = {name: own for name, own in self.adapter.saved.items() if name not in left_out}
        changed = merge(dataclasses.replace(self.adapter, saved=saved), placed, flat)
        shared = [t for t in placed if t.places[0].path.partition("/")[0] in brought and t.name not in saved]
        for tensor in shared:
            put(tensor, self._tensor_of_base(tensor.name), flat, changed)
        leaves = [
            jax.device_put(changed[path].astype(leaf.dtype), leaf.sharding) if path in changed else leaf
            for path, leaf in flat.items()
        ]
        return jax.tree.unflatten(jax.tree.structure(found), leaves)

    def _tensor_of_base(self, name: str) -> np.ndarray:
        """A tensor of one of the base's own heads, which the adapter's head goes on with."""
        tensor = next(tensor for tensor in self.placed_in_base() if tensor.name == name)
        heads = sharded_target(Model(self.config, tuple(self.base.heads.items())), "float32", None)
        owner = tensor.places[0].path.partition("/")[0]
        return tensor_value(tensor, flat_paths(self.base.parameters({owner: heads[owner]})))

    def _check_base(self, flat: Mapping[str, jax.Array]) -> None:
        base = self.adapter.config.values.get(BASE_KEY)
        if not isinstance(base, dict) or "sha256" not in base:
            _logger.warning(
                "%s does not say which weights it was made for (its base is called %s): names and shapes alone are "
                "checked",
                self.adapter.directory,
                self.adapter.config.values.get("base_model_name_or_path"),
            )
            return
        without = set(base.get("without", ()))
        trunk = {path: leaf for path, leaf in flat.items() if path.startswith("trunk/") and path not in without}
        if fingerprint(trunk) != base["sha256"]:
            made_for = self.adapter.config.values.get("base_model_name_or_path")
            raise CheckpointError(
                f"{self.adapter.directory} was made for other weights than these (its base was {made_for}): "
                "their fingerprints differ"
            )
