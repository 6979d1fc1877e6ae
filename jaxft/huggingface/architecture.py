"""What an architecture file declares."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from jaxft.errors import CheckpointError, InvalidField
from jaxft.huggingface.configuration import HuggingFaceConfig, Key
from jaxft.huggingface.layout import Layers, Tensor
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig


@dataclasses.dataclass(frozen=True)
class Head:
    """A head that Hugging Face saves.

    Attributes:
      name: of the head in our model.
      config: of the head, or a function from config.json to it.
      tensors: of the head, with the paths of our parameters within the head; or a function from the model to them.
      keys: keys of config.json that say what the head is, the inverse of `config`.
    """

    name: str
    config: HeadConfig | Callable[[HuggingFaceConfig], HeadConfig]
    tensors: tuple[Tensor, ...] | Callable[[ModelConfig], tuple[Tensor, ...]]
    keys: Callable[[HeadConfig], dict[str, Any]] = lambda head: {}

    def config_of(self, config: HuggingFaceConfig) -> HeadConfig:
        """The head of a model."""
        return self.config if isinstance(self.config, HeadConfig) else self.config(config)

    def tensors_of(self, model: ModelConfig) -> tuple[Tensor, ...]:
        """Its tensors."""
        return self.tensors(model) if callable(self.tensors) else self.tensors


@dataclasses.dataclass(frozen=True)
class Architecture:
    """An architecture: how config.json and tensors become ours, and back.

    Attributes:
      model_types: values of `model_type` in config.json.
      prefix: of the trunk's tensors in files of a model with a head.
      keys: fields of `ModelConfig` that are keys of config.json.
      fixed: fields that are the same in every model of this architecture.
      supported: keys of config.json with the values that the blocks express, the first of which is the default.
      more: further fields, computed from config.json and from those already read.
      less: further keys of config.json for a `ModelConfig`, the inverse of `more`.
      trunk: tensors of the trunk; paths of our parameters begin within the trunk.
      classes: Hugging Face's classes and their heads, the first of which gives the logits.
      also: heads that a file may hold besides those of its class.
      ignored: regular expressions of names that hold nothing learned.
      tied: names of tensors that repeat another tensor of the file, by the name of that.
      renamed: regular expressions of other names that files use, and their replacements.
      wrappers: prefixes that some classes put before the names of the whole trunk.
      averaged: classes whose logits are the mean of those of their heads.
      positions_skip_padding: positions count the tokens before them that are not padding (RoBERTa); `mask` counts
        those of the attention mask, `pad_token_id` those other than that token, the
        last before `position_offset`.
    """

    model_types: tuple[str, ...]
    prefix: str
    keys: Mapping[str, Key]
    trunk: Callable[[ModelConfig], tuple[Tensor | Layers, ...]]
    classes: Mapping[str, tuple[Head, ...]]
    fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    supported: Mapping[str, tuple] = dataclasses.field(default_factory=dict)
    more: Callable[[HuggingFaceConfig, dict[str, Any]], dict[str, Any]] | None = None
    less: Callable[[ModelConfig], dict[str, Any]] | None = None
    also: tuple[Head, ...] = ()
    ignored: tuple[str, ...] = ()
    tied: Mapping[str, str] = dataclasses.field(default_factory=dict)
    renamed: tuple[tuple[str, str], ...] = ()
    wrappers: tuple[str, ...] = ()
    averaged: tuple[str, ...] = ()
    positions_skip_padding: str | None = None

    def model_config(self, config: HuggingFaceConfig) -> ModelConfig:
        """Our description of the model of a config.json.

        Raises:
          CheckpointError: a key is missing, or has a value that no block expresses.
        """
        for key, values in self.supported.items():
            config.only(key, *values)
        fields = dict(self.fixed) | {field: key.read(config) for field, key in self.keys.items()}
        if self.more is not None:
            fields |= self.more(config, fields)
        try:
            return ModelConfig(**fields)
        except InvalidField as error:
            key = self.keys[error.field].name if error.field in self.keys else error.field
            raise CheckpointError(f"{config.source}: {key} {error.problem}") from None

    def config_values(self, model: ModelConfig) -> dict[str, Any]:
        """Keys of config.json for one of our models, without those of a head; not checked to be the same model."""
        fields = ((key, getattr(model, field)) for field, key in self.keys.items())
        # Some classes can't take a null for what they derive from other keys.
        values = {key.name: key.write(value) for key, value in fields if value is not None or key.default is not None}
        values |= {key: value[0] for key, value in self.supported.items() if value[0] is not None}
        return {"model_type": self.model_types[0], **values, **(self.less(model) if self.less is not None else {})}
