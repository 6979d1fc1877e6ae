"""How a sentence encoder makes one vector of a sentence, as the sentence-transformers package writes it down."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp

from jaxft.errors import CheckpointError
from jaxft.models.heads import pool

# Files that say it, which travel along with the weights.
POOLING_FILES = (
    "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "config_sentence_transformers.json",
)  # fmt: skip
_MODES = {
    "pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "last",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class SentencePooling:
    """From hidden states to a vector.

    Attributes:
      mode: `mean` over the tokens, the first token (`cls`), the `last` one, or the `max` of each feature.
      normalize: whether the vector is brought to length one.
    """

    mode: str
    normalize: bool

    def __call__(self, hidden: jax.Array, mask: jax.Array) -> jax.Array:
        """float32 `(batch, embed)`.

        Args:
          hidden: `(batch, length, embed)`.
          mask: `(batch, length)`, 0 where padded.
        """
        hidden, real = hidden.astype(jnp.float32), (mask > 0)[..., None]
        if self.mode == "mean":
            vector = (hidden * real).sum(1) / jnp.maximum(real.sum(1), 1)
        elif self.mode == "max":
            vector = jnp.where(real, hidden, -jnp.inf).max(1)
        elif self.mode == "last":
            vector = pool(hidden, mask, "last")
        else:
            vector = hidden[:, 0]
        return vector / jnp.linalg.norm(vector, axis=-1, keepdims=True) if self.normalize else vector


def read_pooling(directory: pathlib.Path) -> SentencePooling | None:
    """The pooling that a directory's modules.json names; None where it is no sentence encoder.

    Raises:
      CheckpointError: it names a pooling that is not known.
    """
    modules = _read(directory / "modules.json")
    if not isinstance(modules, list):
        return None
    kinds = {str(module.get("type", "")).rpartition(".")[2]: str(module.get("path", "")) for module in modules}
    if "Pooling" not in kinds:
        return None
    path = directory / pathlib.PurePath(kinds["Pooling"]).name / "config.json"
    config = _read(path)
    if not isinstance(config, dict):
        raise CheckpointError(f"{path}, which modules.json names, is missing or not a JSON object")
    named = config.get("pooling_mode")
    chosen = [named] if named else [key for key, value in config.items() if key.startswith("pooling_mode") and value]
    modes = [_MODES.get(mode, mode) for mode in chosen]
    if len(modes) != 1 or modes[0] not in _MODES.values():
        raise CheckpointError(
            f"{path}: pooling by {', '.join(chosen) or 'nothing'} is not supported; supported: "
            f"{', '.join(_MODES)}, one of them"
        )
    return SentencePooling(modes[0], "Normalize" in kinds)


def longest_sentence(directory: pathlib.Path) -> int | None:
    """Most tokens that a sentence encoder reads by its sentence_bert_config.json; None where that says nothing."""
    settings = _read(directory / "sentence_bert_config.json")
    longest = settings.get("max_seq_length") if isinstance(settings, dict) else None
    return longest if isinstance(longest, int) and longest > 2 else None


def write_pooling(directory: pathlib.Path, pooling: SentencePooling, embed_dim: int, max_length: int) -> None:
    """Writes the files from which sentence-transformers makes the same vectors.

    Args:
      directory: of the weights.
      pooling: from hidden states to a vector.
      embed_dim: width of the vector.
      max_length: longest text, in tokens.
    """
    kinds = [("", "Transformer"), ("1_Pooling", "Pooling")] + [("2_Normalize", "Normalize")] * pooling.normalize
    modules = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (path, kind) in enumerate(kinds)
    ]
    modes = {key: mode == pooling.mode for key, mode in _MODES.items()}
    written = {
        "modules.json": modules,
        "1_Pooling/config.json": {"word_embedding_dimension": embed_dim, **modes},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
    }
    for name, values in written.items():
        (directory / name).parent.mkdir(exist_ok=True)
        (directory / name).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")


def _read(path: pathlib.Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
