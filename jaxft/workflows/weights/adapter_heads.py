"""Which heads an adapter brings: whole tensors beside its update, whose purpose its task says."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from jaxft.errors import CheckpointError
from jaxft.huggingface.architecture import Architecture, Head
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.peft_format import Adapter
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig

Heads = tuple[tuple[Head, HeadConfig], ...]


def head_tensors(head: Head, model: ModelConfig, prefix: str) -> set[str]:
    """Names of a head's tensors."""
    return {tensor.name.replace("{trunk}", prefix) for tensor in head.tensors_of(model)}


def declared_heads(architecture: Architecture) -> dict[str, Head]:
    """All heads of an architecture, by name."""
    return {head.name: head for heads in (*architecture.classes.values(), architecture.also) for head in heads}


def brought_heads(
    adapter: Adapter,
    architecture: Architecture,
    model: ModelConfig,
    values: Mapping[str, Any],
    prefix: str,
    base: tuple[Collection[str], Collection[str]],
) -> Heads:
    """The heads that an adapter brings, whole or together with tensors of the base.

    Args:
      adapter: with the tensors that it holds whole.
      architecture: whose names it uses.
      model: the trunk.
      values: config.json of the base.
      prefix: of the trunk's names in the adapter.
      base: names of the base's heads, the ones of its class first, and of its tensors.

    Raises:
      CheckpointError: a tensor belongs to no head, or to one of several and the task does not say which; or a part of
        the head is neither there nor in the base.
    """
    names = {name: head_tensors(head, model, prefix) for name, head in declared_heads(architecture).items()}
    left = set(adapter.saved) & set().union(*names.values())
    found = []
    while left:
        chosen = _chosen(adapter, names, left, base)
        left -= names[chosen]
        head = declared_heads(architecture)[chosen]
        found.append((head, _config(adapter, head, model, values, prefix)))
    asked = adapter.config.head
    if asked is not None and asked != "causal_lm" and not found and asked not in base[0]:
        task = adapter.config.values["task_type"]
        raise CheckpointError(
            f"{adapter.config.path}: task_type is {task}, but neither the adapter nor the base has {asked}"
        )
    return tuple(found)


def _chosen(
    adapter: Adapter,
    names: Mapping[str, set[str]],
    left: set[str],
    base: tuple[Collection[str], Collection[str]],
) -> str:
    """The head that the next of the tensors belong to: the task's, else the base's own, else the only one."""
    base_heads, held = base
    task, asked = adapter.config.values.get("task_type"), adapter.config.head
    for name, wanted in names.items():
        lacking = wanted - left - set(held)
        if name == asked and wanted & left and lacking:
            raise CheckpointError(
                f"{adapter.directory}: task_type is {task}, whose head needs {min(lacking)}, which neither the adapter "
                "nor the base has"
            )
    fitting = [name for name, wanted in names.items() if wanted & left and wanted <= left | set(held)]
    most = max((len(names[name] & left) for name in fitting), default=0)
    fitting = [name for name in fitting if len(names[name] & left) == most]
    if asked in fitting:
        return str(asked)
    own = [name for name in base_heads if name in fitting]
    if own or len(fitting) == 1:
        return (own or fitting)[0]
    if not fitting:
        raise CheckpointError(f"{adapter.directory}: {min(left)} is only a part of a head, whose rest the base lacks")
    raise CheckpointError(
        f"{adapter.config.path}: task_type is {task}, so {min(left)} may belong to any of {', '.join(fitting)}; "
        "set task_type"
    )


def _config(adapter: Adapter, head: Head, model: ModelConfig, values: Mapping[str, Any], prefix: str) -> HeadConfig:
    """Its description, with as many labels as it has outputs."""
    own = dict(values)
    for tensor in head.tensors_of(model):
        name = tensor.name.replace("{trunk}", prefix)
        if tensor.targets[0].path == "classifier/kernel" and name in adapter.saved:
            own["id2label"] = {str(i): str(i) for i in range(adapter.saved[name].shape[0])}
    return head.config_of(HuggingFaceConfig(own, str(adapter.directory)))
