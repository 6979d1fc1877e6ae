"""Whether a model in Hugging Face layout computes here what it computes in torch, and goes back unchanged."""

from __future__ import annotations

import importlib.util
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.errors import CheckpointError, JaxftError
from jaxft.huggingface.description import Description
from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.loaded import LoadedModel, loaded_from
from jaxft.models.model import flat_paths
from jaxft.workflows.weights.location import locate

# Largest difference beside the largest value of torch's, in float32.
TOLERANCE = 1e-3
_LENGTH = 16


def verify_model(path: str) -> dict[str, Any]:
    """Compares a model with transformers' torch code on random input, in float32.

    Args:
      path: a directory in Hugging Face layout, or the id of one on the hub.

    Returns:
      `class`, `max_difference` (of logits, or of hidden states without a head), `largest` (of torch's values),
      `kl` (mean over tokens, from torch's distribution to ours, of a vocabulary; None else), `layers` (largest
      difference after each block), `byte_equal` (whether every tensor comes back as it was), `tensors`, `agrees`.

    Raises:
      CheckpointError: the directory cannot be read.
      JaxftError: torch is not installed.
    """
    if importlib.util.find_spec("torch") is None:
        raise JaxftError("jaxft verify compares with torch, which is not installed: pip install torch")
    description = locate(path).description
    loaded = loaded_from(description, "float32", None)
    inputs = _inputs(loaded)
    theirs = _run_torch(description, inputs)
    output = loaded(**inputs)
    ours = np.asarray(output.hidden if output.logits is None else output.logits)
    difference, largest = float(np.abs(ours - theirs["value"]).max()), float(np.abs(theirs["value"]).max())
    changed = _changed_tensors(description, loaded)
    return {
        "class": theirs["class"],
        "max_difference": difference,
        "largest": largest,
        "kl": _divergence(theirs["value"], ours) if ours.shape[-1] == loaded.config.vocab_size else None,
        "layers": _layer_differences(loaded, inputs, theirs["layers"]),
        "byte_equal": not changed,
        "changed_tensors": changed,
        "tensors": len(description.placed),
        "agrees": difference <= TOLERANCE * max(largest, 1.0),
    }


def _inputs(loaded: LoadedModel) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    config = loaded.config
    if config.family == "vision":
        shape = (2, config.channels, config.image_size, config.image_size)
        return {"pixel_values": rng.normal(size=shape).astype(np.float32)}
    length = min(_LENGTH, config.max_length)

    def tokens(columns: int) -> np.ndarray:
        drawn = rng.integers(0, config.vocab_size, (2, columns))
        # Never padding: some architectures count positions without it.
        return np.where(drawn == loaded.pad_token_id, (drawn + 1) % config.vocab_size, drawn)

    inputs = {"input_ids": tokens(length), "attention_mask": np.ones((2, length), np.int64)}
    if config.family == "encoder_decoder":
        inputs["decoder_input_ids"] = tokens(max(1, length // 2))
    return inputs


def _run_torch(description: Description, inputs: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The class that the files name, or the base model; its values and the hidden states after each block."""
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    named = description.config.get("architectures", [], list)
    chosen = named[0] if named and hasattr(transformers, named[0]) and description.asked else None
    factory = getattr(transformers, chosen) if chosen else transformers.AutoModel
    if factory.__name__.endswith("ForMultipleChoice"):
        inputs = {name: array[:, None] for name, array in inputs.items()}  # every row is the only choice of its own
    with torch.no_grad():
        model = factory.from_pretrained(
            description.directory, dtype=torch.float32, attn_implementation="eager", local_files_only=True
        ).eval()
        output = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}, output_hidden_states=True)
    if "start_logits" in output:
        value = torch.stack([output.start_logits, output.end_logits], dim=-1)
    else:
        names = ("logits", "prediction_logits", "last_hidden_state")
        value = next(output[name] for name in names if output.get(name) is not None)
    states = [output.get(name) for name in ("hidden_states", "encoder_hidden_states", "decoder_hidden_states")]
    # The first of each is the embedding; the last may have passed the final norm.
    layers = [state.numpy() for group in states if group is not None for state in group[1:-1]]
    return {"class": type(model).__name__, "value": value.numpy(), "layers": layers}


def _layer_differences(loaded: LoadedModel, inputs: Mapping[str, np.ndarray], theirs: list[np.ndarray]) -> list[float]:
    """Largest difference after each block but the last of a stack."""
    ours = [layer for stack in loaded.layer_outputs(**inputs) for layer in stack[:-1]]
    if len(ours) != len(theirs):
        return []
    return [float(np.abs(np.asarray(one) - other).max()) for one, other in zip(ours, theirs, strict=True)]


def _divergence(theirs: np.ndarray, ours: np.ndarray) -> float:
    log_p, log_q = (jax.nn.log_softmax(jnp.asarray(logits, jnp.float32)) for logits in (theirs, ours))
    return float((jnp.exp(log_p) * (log_p - log_q)).sum(-1).mean())


def _changed_tensors(description: Description, loaded: LoadedModel) -> list[str]:
    """Names of the tensors that would not be written as they were read."""
    flat = flat_paths(loaded.params)
    changed = []
    for name, tensor in description.placed.items():
        stored = description.stored[name]
        back = np.ascontiguousarray(tensor_value(tensor, flat).astype(stored.dtype))
        if back.reshape(-1).view(np.uint8).tobytes() != stored.read().reshape(-1).view(np.uint8).tobytes():
            changed.append(description.names[name])
    return changed


def check_agreement(path: str | pathlib.Path, result: Mapping[str, Any]) -> None:
    """Makes a disagreement an error.

    Raises:
      CheckpointError: the values differ, or a tensor does not come back as it was.
    """
    if not result["agrees"]:
        raise CheckpointError(
            f"{path}: values differ from torch's by {result['max_difference']:.3g} where the largest is "
            f"{result['largest']:.3g}"
        )
    if not result["byte_equal"]:
        raise CheckpointError(f"{path}: {result['changed_tensors'][0]} does not come back as it was read")
