"""Reading config.json key by key, so that nothing that changes a model is passed over."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any, cast

from jaxft.errors import CheckpointError
from jaxft.models.config import Activation, ModelConfig, RotaryScaling, ScalingKind

_MISSING = object()

# Keys about rotary positions with the fields of `RotaryScaling`, and which of them each kind has.
_SCALING_FIELDS = {
    "factor": "factor", "original_max_position_embeddings": "original_length", "attention_factor": "attention_factor",
    "beta_fast": "beta_fast", "beta_slow": "beta_slow", "truncate": "truncate",
    "low_freq_factor": "low_frequency_factor", "high_freq_factor": "high_frequency_factor",
    "short_factor": "short_factors", "long_factor": "long_factors",
}  # fmt: skip
_ORIGINAL = "original_max_position_embeddings"
_SCALING_KEYS = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor", _ORIGINAL, "attention_factor", "beta_fast", "beta_slow", "truncate"),
    "llama3": ("factor", _ORIGINAL, "low_freq_factor", "high_freq_factor"),
    "longrope": ("factor", _ORIGINAL, "attention_factor", "short_factor", "long_factor"),
}

# Hugging Face's names of activations. Those that differ by their rounding alone share one of ours.
ACTIVATIONS: dict[str, Activation] = {
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

    def integer(self, key: str, default: Any = _MISSING, least: int | None = None) -> int:
        """A whole number, of at least `least`; the default may be any."""
        value = self.get(key, default, int)
        if least is not None and self.values.get(key) is not None and value < least:
            raise CheckpointError(f"{self.source}: {key} must be at least {least}, found {value}")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number."""
        value = float(self.get(key, default, (int, float)))
        if not math.isfinite(value):
            raise CheckpointError(f"{self.source}: {key} must be finite, found {value}")
        return value

    def positive(self, key: str, default: Any = _MISSING) -> float:
        """A number above 0."""
        value = self.number(key, default)
        if value <= 0:
            raise CheckpointError(f"{self.source}: {key} must be above 0, found {value}")
        return value

    def shared_number(self, key: str, other: str, default: float) -> float:
        """The one number that two keys must agree on, since our model has one field for both."""
        value, again = self.number(key, default), self.number(other, default)
        if value != again:
            raise self.unsupported(other, again, [value])
        return value

    def numbers(self, key: str) -> tuple[float, ...]:
        """A list of numbers, empty by default."""
        values = self.get(key, [], list)
        if not all(type(value) in (int, float) for value in values):
            raise CheckpointError(f"{self.source}: {key} must be a list of numbers, found {values}")
        return tuple(map(float, values))

    def flag(self, key: str, default: bool) -> bool:
        """A truth value."""
        return self.get(key, default, bool)

    def activation(self, key: str, default: Any = _MISSING) -> Activation:
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

    def unsupported(self, key: str, value: Any, supported: Iterable[Any]) -> CheckpointError:
        """The error for a value that no block expresses."""
        names = ", ".join(json.dumps(value) for value in supported)
        return CheckpointError(f"{self.source}: {key} = {json.dumps(value)} is not supported; supported: {names}")

    @property
    def num_labels(self) -> int:
        """Labels of a classifier."""
        labels = self.get("id2label", {}, dict)
        return len(labels) if labels else self.integer("num_labels", 2)

    def rotary(
        self,
        layer_type: str | None = None,
        default_base: float = 10000.0,
        partial: bool = False,
        base_key: str = "rope_theta",
        default_original: int | None = None,
    ) -> dict[str, Any]:
        """Fields `rotary_base`, `rotary_scaling` and `rotary_fraction`, from either of Hugging Face's spellings.

        Args:
          layer_type: which of the nested sets to read where a config has one for each type of layer.
          default_base: base where none is written.
          partial: whether the class can rotate a part of each head.
          base_key: of the base where it is not among the set.
          default_original: length of pretraining that the class has by itself; None where it has none.
        """
        rope = self._rope(layer_type)
        base = rope.positive("rope_theta", self.positive(base_key, default_base))
        fraction = rope.positive("partial_rotary_factor", self.positive("partial_rotary_factor", 1.0))
        if fraction > 1:
            raise CheckpointError(f"{self.source}: partial_rotary_factor must be at most 1, found {fraction}")
        if fraction < 1 and not partial:
            raise self.unsupported("partial_rotary_factor", fraction, [1.0])
        kind = rope.get("rope_type", rope.get("type", "default", str), str)
        scaling = None
        if kind != "default":
            longest = self.integer("max_position_embeddings", least=1)
            among = rope.integer(_ORIGINAL, longest, least=1) if default_original is None else default_original
            # Classes with one set prefer their own key to the one in it.
            original = among if layer_type is not None else self.integer(_ORIGINAL, among, least=1)
            scaling = self._scaling(kind, rope, longest, original)
        return {"rotary_base": base, "rotary_fraction": fraction, "rotary_scaling": scaling}

    def _rope(self, layer_type: str | None) -> HuggingFaceConfig:
        """The keys about rotary positions, or about those of one type of layer."""
        name, rope = "rope_parameters", self.get("rope_parameters", None, dict)
        if rope and self.get("rope_scaling", rope) != rope:
            raise CheckpointError(f"{self.source} has both {name} and rope_scaling, and they differ")
        if rope is not None and layer_type is not None:
            rope = HuggingFaceConfig(rope, f"{self.source}: {name}").get(layer_type, {}, dict)
            name = f"{name}: {layer_type}"
        if rope is None:
            name, rope = "rope_scaling", self.get("rope_scaling", {}, dict)
        return HuggingFaceConfig(rope, f"{self.source}: {name}")

    def local_rotary_base(self, base_key: str) -> float:
        """The base of layers with a window, for which no block has a scaling."""
        local = self.rotary("sliding_attention", base_key=base_key)
        if local["rotary_scaling"] is not None:
            kind = local["rotary_scaling"].kind
            raise self._rope("sliding_attention").unsupported("rope_type", kind, ["default"])
        return local["rotary_base"]

    def _scaling(self, kind: str, rope: HuggingFaceConfig, longest: int, original: int) -> RotaryScaling:
        kind = {"su": "longrope"}.get(kind, kind)
        known = {"rope_theta", "rope_type", "type", "partial_rotary_factor", *_SCALING_FIELDS}
        if kind not in _SCALING_KEYS:
            raise rope.unsupported("rope_type", kind, ("default", *_SCALING_KEYS))
        if unknown := sorted(name for name, value in rope.values.items() if value is not None and name not in known):
            raise CheckpointError(f"{rope.source}: scaling by {unknown[0]} is not supported")
        factor = rope.positive("factor", longest / original)
        if kind == "dynamic":
            original = longest
        return RotaryScaling(
            cast(ScalingKind, kind),  # as was checked
            factor,
            original,
            rope.get("attention_factor", None, (int, float)),
            rope.number("beta_fast", 32),
            rope.number("beta_slow", 1),
            rope.flag("truncate", True),
            rope.positive("low_freq_factor", 1),
            rope.positive("high_freq_factor", 4),
            rope.numbers("short_factor"),
            rope.numbers("long_factor"),
        )

    def window_of(self, size: int) -> tuple[int, ...]:
        """Field `windows` where all layers have one of `size` keys, the query's own among them; 0 for none."""
        if size < 0 or size == 1:
            raise CheckpointError(f"{self.source}: sliding_window must be at least 2, found {size}")
        return (size - 1,) if size else ()

    def window_width(self, key: str, default: int) -> int:
        """Tokens seen before the query in a window of so many keys, the query's own among them."""
        return self.window_of(self.integer(key, default, least=2))[0]

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


def rotary_keys(model: ModelConfig) -> dict[str, Any]:
    """The inverse of `HuggingFaceConfig.rotary`, but for the fraction, whose key has several names."""
    scaling = model.rotary_scaling
    if scaling is None:
        return {"rope_theta": model.rotary_base}
    values = {key: getattr(scaling, _SCALING_FIELDS[key]) for key in _SCALING_KEYS[scaling.kind]}
    lists = {key: list(value) for key, value in values.items() if isinstance(value, tuple)}
    given = {key: value for key, value in (values | lists).items() if value is not None}
    # Where the kind doesn't use it, transformers has a word to say about it, so it is not written without need.
    if scaling.kind == "linear" and scaling.original_length != model.max_length:
        given[_ORIGINAL] = scaling.original_length
    return {"rope_theta": model.rotary_base, "rope_scaling": {"rope_type": scaling.kind, **given}}


def window_keys(model: ModelConfig) -> dict[str, Any]:
    """The inverse of `HuggingFaceConfig.windows`: types of layers, and the keys that a window has."""
    windows = model.windows or (0,)
    types = ["sliding_attention" if windows[i % len(windows)] else "full_attention" for i in range(model.num_layers)]
    return {"layer_types": types} | ({"sliding_window": max(windows) + 1} if any(windows) else {})


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
      least: smallest integer.
    """

    name: str
    kind: str = "integer"
    default: Any = _MISSING
    least: int = 1

    def read(self, config: HuggingFaceConfig) -> Any:
        """The field's value."""
        if self.kind == "integer":
            return config.integer(self.name, self.default, self.least)
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
    # A deeply nested text exhausts the parser's stack.
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    return HuggingFaceConfig(values, str(path))
