"""The architectures that Hugging Face weights are read from and written for: one declarative file each."""

from __future__ import annotations

from jaxft.errors import CheckpointError
from jaxft.extension.loading import load_installed
from jaxft.extension.table import OpenTable
from jaxft.huggingface.architecture import Architecture
from jaxft.huggingface.architectures import (
    albert,
    bart,
    bert,
    deberta_v2,
    deit,
    distilbert,
    electra,
    gemma2,
    gemma3,
    gpt2,
    gpt_neox,
    llama,
    marian,
    mbart,
    mistral,
    modernbert,
    mpnet,
    olmo2,
    opt,
    pegasus,
    phi3,
    qwen2,
    qwen3,
    roberta,
    smollm3,
    t5,
    vit,
    xlnet,
)
from jaxft.huggingface.configuration import HuggingFaceConfig

# In the order in which a model made here looks for one that expresses it.
ARCHITECTURES: tuple[Architecture, ...] = tuple(
    module.ARCHITECTURE
    for module in (
        bert, roberta, modernbert, distilbert, electra, albert, mpnet, deberta_v2, xlnet, llama, gpt2, mistral, qwen2,
        qwen3, gemma2, gemma3, phi3, olmo2, smollm3, gpt_neox, opt, t5, bart, mbart, pegasus, marian, vit, deit,
    )
)  # fmt: skip

MODEL_TYPES = OpenTable("architecture", {name: one for one in ARCHITECTURES for name in one.model_types})


def architecture_of(config: HuggingFaceConfig) -> Architecture:
    """The architecture of a config.json.

    Raises:
      CheckpointError: its `model_type` is missing or none of those known.
    """
    name = config.get("model_type", kind=str)
    if name not in MODEL_TYPES:
        load_installed()
    if name not in MODEL_TYPES:
        known = ", ".join(sorted(MODEL_TYPES))
        raise CheckpointError(f"{config.source}: model_type {name!r} is not one of those known: {known}")
    return MODEL_TYPES[name]


def architectures() -> tuple[Architecture, ...]:
    """All architectures, those of plug-ins last: a model made here is expressed by the first that can."""
    added = {id(architecture): architecture for architecture in MODEL_TYPES.added().values()}
    return (*ARCHITECTURES, *added.values())
