"""Reading config.json key by key, so that nothing that changes a model is passed over."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from collections.abc import Mapping
from typing import Any

from jaxft.errors import CheckpointError
from jaxft.models.config import RotaryScaling

_MISSING = object()

# Hugging Face's names of activations. Those that differ by their rounding alone share one of ours.
ACTIVATIONS = {
    "gelu": "gelu", "gelu_python": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_fast": "gelu_tanh", "gelu_accurate": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu",
    "tanh": "tanh",
}  # fmt: skip


class HuggingFaceConfig:
    """A config.json.

    Attributes:
      values: its keys and values.
      source: what to call it in messages.
    """

    def __init__(self, values: Mapping[str, Any], source: str):
        self.values = dict(values)
        self.source = source

    def get(self, key: str, default: Any = _MISSING, kind: type | tuple[type, ...] | None = None) -> Any:
        """A value; `default` where the key is missing or null.

        Raises:
          CheckpointError: it is missing without a default, or is not of the `kind`.
        """
        value = self.values.get(key)
        if value is None:
            if default is _MISSING:
                raise CheckpointError(f"{self.source} lacks {key}")
            return default
        if kind is not None and (not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool)):
            wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
            raise CheckpointError(f"{self.source}: {key} must be {wanted}, found {value!r}")
        return value

    def integer(self, key: str, default: Any = _MISSING) -> int:
        """A whole number."""
        return self.get(key, default, int)

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A number."""
        return float(self.get(key, default, (int, float)))

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        return self.get(key, default, bool)

    def activation(self, key: str, default: Any = _MISSING) -> str:
        """Our name of an activation."""
        value = self.get(key, default, str)
        if value not in ACTIVATIONS:
            raise self.unsupported(key, value, sorted(ACTIVATIONS))
        return ACTIVATIONS[value]

    def only(self, key: str, *supported: Any) -> Any:
        """A value that must be one of these, the first of which is the default."""
        value = self.get(key, supported[0])
        if value not in supported:
            raise self.unsupported(key, value, supported)
        return value

    def unsupported(self, key: str, value: Any, supported) -> CheckpointError:
        """The error for a value that no block expresses."""
        names = ", ".join(json.dumps(value) for value in supported)
        return CheckpointError(f"{self.source}: {key} = {json.dumps(value)} is not supported; supported: {names}")

    @property
    def num_labels(self) -> int:
        """Labels of a classifier."""
        labels = self.get("id2label", {}, dict)
        return len(labels) if labels else self.integer("num_labels", 2)

    def rotary(self, layer_type: str | None = None, default_base: float = 10000.0) -> dict[str, Any]:
        """Fields `rotary_base`, `rotary_scaling` and `rotary_fraction`, from either of Hugging Face's spellings.

        Args:
          layer_type: which of the nested sets to read where a config has one for each type of layer.
          default_base: base where none is written.
        """
        rope = self.get("rope_parameters", None, dict)
        if rope is not None and layer_type is not None and layer_type in rope:
            rope = rope[layer_type]
        if rope is None:
            rope = dict(self.get("rope_scaling", {}, dict))
        rope = {name: value for name, value in rope.items() if value is not None}
        base = rope.get("rope_theta", self.number("rope_theta", default_base))
        fraction = rope.get("partial_rotary_factor", self.number("partial_rotary_factor", 1.0))
        kind = rope.get("rope_type", rope.get("type", "default"))
        scaling = None if kind == "default" else self._scaling(kind, rope)
        return {"rotary_base": float(base), "rotary_fraction": float(fraction), "rotary_scaling": scaling}

    def _scaling(self, kind: str, rope: Mapping[str, Any]) -> RotaryScaling:
        kind = {"su": "longrope"}.get(kind, kind)
        longest = self.integer("max_position_embeddings")
        known = {
            "rope_theta", "rope_type", "type", "partial_rotary_factor", "factor", "attention_factor", "beta_fast",
            "beta_slow", "truncate", "original_max_position_embeddings", "low_freq_factor", "high_freq_factor",
            "short_factor", "long_factor",
        }  # fmt: skip
        if kind not in ("linear", "dynamic", "yarn", "llama3", "longrope"):
            raise self.unsupported("rope_type", kind, ("default", "linear", "dynamic", "yarn", "llama3", "longrope"))
        if unknown := sorted(set(rope) - known):
            raise CheckpointError(f"{self.source}: rotary scaling by {unknown[0]} is not supported")
        original = rope.get("original_max_position_embeddings", self.get("original_max_position_embeddings", longest))
        factor = rope.get("factor", longest / original)
        if kind == "longrope":
            factor = longest / original
        if kind == "dynamic":
            original = longest
        return RotaryScaling(
            kind, float(factor), int(original), rope.get("attention_factor"), float(rope.get("beta_fast", 32)),
            float(rope.get("beta_slow", 1)), rope.get("truncate", True), float(rope.get("low_freq_factor", 1)),
            float(rope.get("high_freq_factor", 4)), tuple(map(float, rope.get("short_factor", ()))),
            tuple(map(float, rope.get("long_factor", ()))),
        )  # fmt: skip

    def window_of(self, size: int) -> tuple[int, ...]:
        """Field `windows` where all layers have one of `size` keys, the query's own among them; 0 for none."""
        if size < 0 or size == 1:
            raise CheckpointError(f"{self.source}: sliding_window must be at least 2, found {size}")
        return (size - 1,) if size else ()

    def window_width(self, key: str, default: int) -> int:
        """Tokens seen before the query in a window of so many keys, the query's own among them."""
        return self.window_of(self.integer(key, default))[0]

    def windows(self, width: int, default: list[str] | None = None) -> tuple[int, ...]:
        """Field `windows`, one repeat of the pattern, from the key `layer_types`.

        Args:
          width: tokens seen to each side in layers of type `sliding_attention`.
          default: types of all layers where the key is missing.
        """
        layers = self.integer("num_hidden_layers")
        types = self.get("layer_types", default or ["full_attention"] * layers, list)
        for name in types:
            if name not in ("full_attention", "sliding_attention"):
                raise self.unsupported("layer_types", name, ("full_attention", "sliding_attention"))
        if len(types) < layers:
            raise CheckpointError(f"{self.source}: layer_types names {len(types)} layers of {layers}")
        return shortest_period(tuple(width if name == "sliding_attention" else 0 for name in types[:layers]))


def shortest_period(values: tuple) -> tuple:
    """The shortest beginning that, repeated, gives all of the values; empty where they are all false."""
    if not any(values):
        return ()
    for length in range(1, len(values) + 1):
        if all(value == values[i % length] for i, value in enumerate(values)):
            return values[:length]
    return values


@dataclasses.dataclass(frozen=True)
class Key:
    """A key of config.json that is a field of `ModelConfig`.

    Attributes:
      name: in config.json.
      default: where it is missing; required where this is absent.
      kind: `integer`, `number`, `flag` or `activation`.
    """

    name: str
    kind: str = "integer"
    default: Any = _MISSING

    def read(self, config: HuggingFaceConfig) -> Any:
        """The field's value."""
        return getattr(config, self.kind)(self.name, self.default)

    def write(self, value: Any) -> Any:
        """The key's value."""
        if self.kind != "activation":
            return value
        return {"gelu_tanh": "gelu_pytorch_tanh"}.get(value, value)


def read_config(directory: pathlib.Path) -> HuggingFaceConfig:
    """The config.json of a directory.

    Raises:
      CheckpointError: there is none, or it is not a JSON object.
    """
    path = directory / "config.json"
    if not path.is_file():
        raise CheckpointError(f"{directory} has no config.json: not a model in Hugging Face layout")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return HuggingFaceConfig(values, str(path))
