"""From Hugging Face's layout to a checkpoint of jaxft's own."""

from __future__ import annotations

import pathlib
from typing import Any

import jax
import numpy as np

from jaxft.errors import CheckpointError
from jaxft.huggingface.importing import load_parameters
from jaxft.huggingface.loaded import tokenizer_of
from jaxft.models.model import Model, sharded_target
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.adapters import with_adapter
from jaxft.workflows.weights.location import locate
from jaxft.workflows.weights.pretrained import HuggingFaceWeights


def import_model(source: str, output: str | pathlib.Path, adapter: str | None = None) -> dict[str, Any]:
    """Reads a model in Hugging Face layout into a checkpoint of jaxft's own.

    Args:
      source: a directory, or the id of one on the hub.
      output: a new directory; `model.pretrained` of a recipe may then name it.
      adapter: directory of a low-rank update in PEFT's format, which is merged into it.

    Returns:
      `output`, `model_type`, `parameters` (their number) and `heads`.

    Raises:
      CheckpointError: the source cannot be read, or the output holds a model already.
    """
    description = locate(source).description
    run = RunDirectory(output)
    if run.has_model():
        raise CheckpointError(f"{run.path} holds a model already; choose another directory")
    tokenizer = tokenizer_of(description)
    model = description.make_model()
    adapted = None if adapter is None else with_adapter(HuggingFaceWeights(description), adapter)
    if adapted is not None:
        model = Model(adapted.config, tuple(adapted.heads.items()))
    target = sharded_target(model, "float32", None)
    with run.locked():
        parameters = load_parameters(description, target) if adapted is None else adapted.parameters(target)
        run.checkpoints.save(0, parameters, {"step": np.zeros((), np.int32)}, {"history": []}, set(), lambda: None)
        run.checkpoints.close()
        if tokenizer is not None:
            tokenizer.save(run.tokenizer)
        # Last, since it is what says that a model is here.
        run.write_model(description.model, dict(model.heads), description.config, description.directory)
    return {
        "output": str(run.path),
        "model_type": description.config.get("model_type"),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        "heads": [name for name, _ in model.heads],
    }
