"""What PEFT's `adapter_config.json` says of a low-rank update, read as PEFT reads it."""

from __future__ import annotations

import dataclasses
import json
import math
import pathlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from jaxft.errors import CheckpointError

CONFIG_FILE = "adapter_config.json"
# Our key of adapter_config.json: which base an adapter was made for.
BASE_KEY = "jaxft_base"
# The head of the classes that an adapter of a kind of task is for.
TASK_HEADS = {
    "SEQ_CLS": "sequence_classification", "TOKEN_CLS": "token_classification", "QUESTION_ANS": "question_answering",
    "CAUSAL_LM": "causal_lm", "SEQ_2_SEQ_LM": "causal_lm",
    "FEATURE_EXTRACTION": None,
}  # fmt: skip
# Keys with the values that are understood; others change what is computed.
_SUPPORTED = {
    "peft_type": ("LORA",), "task_type": tuple(TASK_HEADS), "bias": ("none",), "lora_bias": (False,),
    "use_dora": (False, True), "use_rslora": (False, True), "layer_replication": (None, []),
    "trainable_token_indices": (None,), "target_parameters": (None, []), "alora_invocation_tokens": (None,),
    "use_qalora": (False,), "arrow_config": (None,), "use_bdlora": (None,), "monteclora_config": (None,),
    "kasa_config": (None,), "ensure_weight_tying": (False,),
    # The others change the base.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
}  # fmt: skip
# Keys that are read below, and those that change training or the way to the same numbers alone.
_READ = (
    "r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
    "layers_pattern", "modules_to_save", BASE_KEY,
)  # fmt: skip
_OF_TRAINING = (
    "auto_mapping", "base_model_name_or_path", "revision", "inference_mode", "peft_version", "lora_dropout",
    "fan_in_fan_out", "megatron_config", "megatron_core", "loftq_config", "eva_config", "corda_config",
    "lora_ga_config", "velora_config", "qalora_group_size", "runtime_config",
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """An adapter_config.json.

    Attributes:
      path: of the file, for messages.
      values: its keys and values.
    """

    path: pathlib.Path
    values: Mapping[str, Any]

    @property
    def head(self) -> str | None:
        """Name of the head that the task asks for; None where it asks for none."""
        return TASK_HEADS.get(self.values.get("task_type") or "FEATURE_EXTRACTION")

    def rank(self, module: str) -> int:
        """Rank of the update of a torch module, by its whole name."""
        return int(self._of_module("rank_pattern", "r", 8, module))

    def scale(self, module: str) -> float:
        """Factor of the product of an update's matrices."""
        rank = self.rank(module)
        return self._of_module("alpha_pattern", "lora_alpha", 8, module) / (
            rank**0.5 if self.values.get("use_rslora") else rank
        )

    def _of_module(self, patterns: str, otherwise: str, default: float, module: str) -> float:
        """The value of the first pattern that a whole name, or what follows one of its dots, matches."""
        for pattern, value in (self.values.get(patterns) or {}).items():
            if re.match(rf"(.*\.)?({pattern})$", module):
                return value
        return self.values.get(otherwise, default)

    def is_target(self, module: str) -> bool:
        """Whether PEFT adapts a torch module of this name.

        True for every module where no names are given, since PEFT then goes by their kinds.
        """
        excluded, targets = self.values.get("exclude_modules"), self.values.get("target_modules")
        if excluded and _names(excluded, module):
            return False
        if any(re.match(rf"(^|.*\.){saved}($|\..*)", module) for saved in self.values.get("modules_to_save") or ()):
            return False
        if targets is None or (isinstance(targets, str) and targets.lower() == "all-linear"):
            return True
        return _names(targets, module) and (isinstance(targets, str) or self._in_layers(module))

    def _in_layers(self, module: str) -> bool:
        layers, patterns = self.values.get("layers_to_transform"), self.values.get("layers_pattern") or ()
        if layers is None or layers == []:
            return True
        found = re.match(r".*?\.[^.]*\.(?P<number>\d+)\.", module)
        if patterns:
            named = (patterns,) if isinstance(patterns, str) else patterns
            tried = (re.match(rf"(?:^|.*?\.){name}\.(?P<number>\d+)\.", module) for name in named)
            found = next((match for match in tried if match), None)
        return found is not None and int(found["number"]) in ([layers] if isinstance(layers, int) else layers)

    def is_saved(self, tensor: str) -> bool:
        """Whether a tensor is of a module that PEFT keeps a copy of beside the base's."""
        names = self.values.get("modules_to_save") or ()
        return any(f".{tensor}".rpartition(f".{name}.")[1] for name in names)


def _names(patterns: str | Iterable[str], module: str) -> bool:
    """By a regular expression of whole names, or a list of their ends."""
    if isinstance(patterns, str):
        return re.fullmatch(patterns, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in patterns)


def read_adapter_config(directory: pathlib.Path) -> AdapterConfig:
    """The adapter_config.json of a directory.

    Raises:
      CheckpointError: there is none, or it has a key or a value that is not understood; it is named.
    """
    path = directory / CONFIG_FILE
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(f"{directory} is no adapter: it has no {CONFIG_FILE}") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is not a JSON object")
    for key, supported in _SUPPORTED.items():
        if values.get(key) is not None and values[key] not in supported:
            raise CheckpointError(f"{path}: {key} is {values[key]!r}; supported: {', '.join(map(repr, supported))}")
    known = {*_SUPPORTED, *_READ, *_OF_TRAINING}
    if unknown := sorted(
        key for key, value in values.items() if key not in known and value not in (None, False, {}, [])
    ):
        raise CheckpointError(f"{path}: {unknown[0]} is {values[unknown[0]]!r}, and what it changes is not known")
    for key, (fits, wanted) in _KINDS.items():
        if values.get(key) is not None and not fits(values[key]):
            raise CheckpointError(f"{path}: {key} must be {wanted}, found {values[key]!r}")
    return AdapterConfig(path, values)


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _is_rank(value: Any) -> bool:
    return type(value) is int and value > 0


def _is_pattern(value: Any) -> bool:
    try:
        re.compile(value)
    except (re.error, TypeError, RecursionError, OverflowError):
        return False
    return isinstance(value, str)


def _are_patterns(value: Any) -> bool:
    return isinstance(value, list) and all(map(_is_pattern, value))


def _are_names(value: Any) -> bool:
    return _is_pattern(value) or (isinstance(value, list) and all(isinstance(name, str) for name in value))


def _are_layers(value: Any) -> bool:
    return type(value) is int or (isinstance(value, list) and all(type(number) is int for number in value))


def _by_pattern(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(_is_pattern(k) and fits(v) for k, v in value.items())


_NAMES = "a list of names or a regular expression"
_KINDS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "r": (_is_rank, "a whole number above 0"),
    "lora_alpha": (_is_number, "a finite number"),
    "rank_pattern": (_by_pattern(_is_rank), "whole numbers above 0 by regular expressions"),
    "alpha_pattern": (_by_pattern(_is_number), "finite numbers by regular expressions"),
    "target_modules": (_are_names, _NAMES),
    "exclude_modules": (_are_names, _NAMES),
    "modules_to_save": (_are_patterns, "a list of names"),
    "layers_to_transform": (_are_layers, "the number of a layer or a list of them"),
    "layers_pattern": (lambda value: _is_pattern(value) or _are_patterns(value), "a name or a list of names"),
}
