"""Weights and gradients of transformers' torch BERT in the tree of our parameters.

Written from the names and shapes of the torch modules, for tests alone.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxft.models.config import ModelConfig


def our_tree(tensors: dict[str, np.ndarray], config: ModelConfig) -> dict[str, Any]:
    """Our nested parameters from torch's flat ones; linear, so that it holds for gradients too.

    Args:
      tensors: by torch's names, of `BertForMaskedLM` or `BertForSequenceClassification`.
      config: the same model in our terms.
    """
    layers = [_layer(tensors, f"bert.encoder.layer.{i}.", config) for i in range(config.num_layers)]
    embeddings = "bert.embeddings."
    trunk = {
        "embeddings": {
            "tokens": {"table": tensors[f"{embeddings}word_embeddings.weight"]},
            "learned_positions": {"table": tensors[f"{embeddings}position_embeddings.weight"]},
            "types": {"table": tensors[f"{embeddings}token_type_embeddings.weight"]},
            "norm": _norm(tensors, f"{embeddings}LayerNorm"),
        },
        "body": {"stack": {"layers": {"block_0": _stacked(layers)}}},
    }
    return {"trunk": trunk, **_heads(tensors)}


def _heads(tensors) -> dict[str, Any]:
    if "classifier.weight" in tensors:
        return {
            "head_task": {"pooler": _linear(tensors, "bert.pooler.dense"), "classifier": _linear(tensors, "classifier")}
        }
    return {
        "head_masked_lm": {
            "transform": _linear(tensors, "cls.predictions.transform.dense"),
            "norm": _norm(tensors, "cls.predictions.transform.LayerNorm"),
            "projection": {"bias": tensors["cls.predictions.bias"]},
        }
    }


def _layer(tensors, prefix: str, config: ModelConfig) -> dict[str, Any]:
    heads, width = config.num_heads, config.width_of_head

    def into_heads(name: str):
        linear = _linear(tensors, f"{prefix}attention.self.{name}")
        return {"kernel": linear["kernel"].reshape(-1, heads, width), "bias": linear["bias"].reshape(heads, width)}

    output = _linear(tensors, f"{prefix}attention.output.dense")
    return {
        "attention": {
            "query": into_heads("query"),
            "key": into_heads("key"),
            "value": into_heads("value"),
            "output": {"kernel": output["kernel"].reshape(heads, width, -1), "bias": output["bias"]},
        },
        "attention_norm": _norm(tensors, f"{prefix}attention.output.LayerNorm"),
        "feed_forward": {
            "input": _linear(tensors, f"{prefix}intermediate.dense"),
            "output": _linear(tensors, f"{prefix}output.dense"),
        },
        "feed_forward_norm": _norm(tensors, f"{prefix}output.LayerNorm"),
    }


def _linear(tensors, name: str) -> dict[str, np.ndarray]:
    """torch keeps a projection's kernel transposed, `(outputs, inputs)`."""
    return {"kernel": tensors[f"{name}.weight"].T, "bias": tensors[f"{name}.bias"]}


def _norm(tensors, name: str) -> dict[str, np.ndarray]:
    return {"scale": tensors[f"{name}.weight"], "bias": tensors[f"{name}.bias"]}


def _stacked(layers: list[dict[str, Any]]) -> dict[str, Any]:
    first = layers[0]
    if not isinstance(first, dict):
        return np.stack(layers)
    return {name: _stacked([layer[name] for layer in layers]) for name in first}
