"""What a directory in Hugging Face layout holds, checked name by name before any weight is read."""

from __future__ import annotations

import dataclasses
import logging
import pathlib
import re
from collections.abc import Iterable, Mapping

import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.architectures import architecture_of
from jaxft.huggingface.configuration import HuggingFaceConfig, read_config
from jaxft.huggingface.placing import Placed, place_all
from jaxft.huggingface.safetensors_files import StoredTensor, stored_tensors
from jaxft.models.config import ComputeConfig, ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, abstract_parameters, flat_paths

_logger = logging.getLogger("jaxft")

# Names of norms in files that were converted from TensorFlow.
_OLD_NAMES = ((r"LayerNorm\.gamma$", "LayerNorm.weight"), (r"LayerNorm\.beta$", "LayerNorm.bias"))


@dataclasses.dataclass(frozen=True)
class Description:
    """A model in Hugging Face layout.

    Attributes:
      directory: where it is.
      architecture: its table.
      config: its config.json.
      model: it, in our terms.
      heads: those that the file holds, the ones of its class first.
      asked: names of the heads whose logits its class returns (their mean where there are several).
      prefix: of the trunk's names.
      placed: its tensors, by our name for them.
      stored: where they are, by the same names.
      names: as they are written in the file, by the same names.
    """

    directory: pathlib.Path
    architecture: Architecture
    config: HuggingFaceConfig
    model: ModelConfig
    heads: tuple[Head, ...]
    asked: tuple[str, ...]
    prefix: str
    placed: Mapping[str, Placed]
    stored: Mapping[str, StoredTensor]
    names: Mapping[str, str]

    @property
    def head_configs(self) -> tuple[tuple[str, HeadConfig], ...]:
        """The heads as our model takes them."""
        return tuple((head.name, head.config_of(self.config)) for head in self.heads)

    def make_model(self, compute: ComputeConfig | None = None) -> Model:
        """The model, without parameters."""
        return Model(self.model, self.head_configs, compute or ComputeConfig())


def describe(directory: pathlib.Path) -> Description:
    """Reads the configuration and the names, dtypes and shapes of the tensors of a directory.

    Raises:
      CheckpointError: the configuration is not supported, or a tensor is missing, unknown, misshapen or not a float.
    """
    config = read_config(directory)
    architecture = architecture_of(config)
    model = architecture.model_config(config)
    stored, names = _canonical(architecture, stored_tensors(directory), directory)
    prefix = architecture.prefix if any(name.startswith(architecture.prefix) for name in stored) else ""
    model = _without_repeats(architecture, model, stored, prefix, directory)
    class_name = _class_name(config, architecture)
    own = () if class_name is None else architecture.classes.get(class_name, ())
    heads = _heads(architecture, model, own, stored, prefix)
    placed = _placed(architecture, config, model, heads, prefix)
    _check(placed, stored, names, directory)
    held = {head.name for head in heads}
    asked = [head.name for head in own if head.name in held]
    return Description(
        directory,
        architecture,
        config,
        model,
        heads,
        tuple(asked if class_name in architecture.averaged else asked[:1]),
        prefix,
        placed,
        stored,
        names,
    )


def _class_name(config: HuggingFaceConfig, architecture: Architecture) -> str | None:
    classes = config.get("architectures", [], list)
    if not classes:
        return None
    if not isinstance(classes[0], str) or classes[0] not in architecture.classes:
        _logger.warning(
            "%s: the head of %s is not known; known: %s", config.source, classes[0], ", ".join(architecture.classes)
        )
        return None
    return classes[0]


def _canonical(
    architecture: Architecture, found: Mapping[str, StoredTensor], directory: pathlib.Path
) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors by the names of the architecture's table, without what holds nothing learned, and the file's names."""
    stored: dict[str, StoredTensor] = {}
    names: dict[str, str] = {}
    for name, tensor in found.items():
        if any(re.fullmatch(pattern, name) for pattern in architecture.ignored):
            continue
        ours = name
        for wrapper in architecture.wrappers:
            ours = ours.removeprefix(wrapper)
        for pattern, replacement in (*_OLD_NAMES, *architecture.renamed):
            ours = re.sub(pattern, replacement, ours)
        if ours in stored:
            raise CheckpointError(f"{directory} has one tensor under two names, {names[ours]} and {name}")
        stored[ours], names[ours] = tensor, name
    return stored, names


def _without_repeats(
    architecture: Architecture,
    model: ModelConfig,
    stored: dict[str, StoredTensor],
    prefix: str,
    directory: pathlib.Path,
) -> ModelConfig:
    """Drops tensors that repeat others, as tied ones may; a head that differs from the table is not tied."""
    for alias, name in architecture.tied.items():
        alias, name = alias.replace("{trunk}", prefix), name.replace("{trunk}", prefix)
        if alias not in stored or name not in stored:
            continue
        is_vocabulary = alias.endswith(".weight") and name.endswith(".weight") and "embed_tokens" not in alias
        if is_vocabulary and not model.tied_embeddings:
            continue
        if _same(stored[alias], stored[name]):
            del stored[alias]
        elif is_vocabulary and stored[alias].shape == stored[name].shape:
            _logger.info("%s: %s differs from %s, so they are not tied", directory, alias, name)
            model = dataclasses.replace(model, tied_embeddings=False)
        else:
            raise CheckpointError(f"{directory}: {alias} should repeat {name}, but differs")
    return model


def _same(one: StoredTensor, other: StoredTensor) -> bool:
    if (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    if one == other or not one.shape:
        return one == other or bool(one.read() == other.read())
    rows = max(1, 2**24 // max(1, int(np.prod(one.shape[1:]))))
    rest = tuple(slice(0, size) for size in one.shape[1:])
    return all(
        np.array_equal(one.read((cut, *rest)).view(np.uint8), other.read((cut, *rest)).view(np.uint8))
        for cut in (slice(i, min(i + rows, one.shape[0])) for i in range(0, one.shape[0], rows))
    )


def _heads(
    architecture: Architecture, model: ModelConfig, own: Iterable[Head], stored: Mapping[str, StoredTensor], prefix: str
) -> tuple[Head, ...]:
    """The heads of the class, then others that the file holds: those of BERT's pretraining in its checkpoint."""

    def names(head: Head) -> set[str]:
        return {tensor.name.replace("{trunk}", prefix) for tensor in head.tensors_of(model)}

    # A base model may lack its pooler.
    heads = [head for head in own if head.name != "pooled" or names(head) <= set(stored)]
    claimed = set().union(*(names(head) for head in heads))
    for head in architecture.also:
        wanted = names(head)
        if wanted and wanted <= set(stored) and not wanted & claimed:
            heads.append(head)
            claimed |= wanted
    return tuple(heads)


def _placed(
    architecture: Architecture, config: HuggingFaceConfig, model: ModelConfig, heads: tuple[Head, ...], prefix: str
) -> dict[str, Placed]:
    whole = Model(model, tuple((head.name, head.config_of(config)) for head in heads))
    shapes, _ = abstract_parameters(whole)
    flat = {path: leaf.shape for path, leaf in flat_paths(shapes).items()}
    placed = {tensor.name: tensor for tensor in place_all(architecture, model, heads, prefix, flat)}
    unread = set(flat) - {place.path for tensor in placed.values() for place in tensor.places}
    assert not unread, f"{architecture.model_types[0]}: no tensor holds {sorted(unread)}"
    return placed


def _check(
    placed: Mapping[str, Placed], stored: Mapping[str, StoredTensor], names: Mapping[str, str], directory: pathlib.Path
) -> None:
    if missing := [name for name in placed if name not in stored]:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise CheckpointError(
            f"{directory} lacks the tensor {missing[0]} of shape {list(placed[missing[0]].shape)}{more}"
        )
    if extra := [name for name in stored if name not in placed]:
        more = f" (and {len(extra) - 1} more)" if len(extra) > 1 else ""
        raise CheckpointError(
            f"{directory} has a tensor that its configuration has no place for: {names[extra[0]]} "
            f"of shape {list(stored[extra[0]].shape)}{more}"
        )
    for name, tensor in placed.items():
        found = stored[name]
        if found.shape != tensor.shape:
            raise CheckpointError(
                f"{directory}: {names[name]} has shape {list(found.shape)}, its configuration asks for "
                f"{list(tensor.shape)}"
            )
        if found.dtype.kind not in "fV" or found.dtype.itemsize > 4:
            raise CheckpointError(
                f"{directory}: {names[name]} is {found.dtype}; weights are read from float32, bfloat16 or float16"
            )
