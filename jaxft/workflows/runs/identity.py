"""What a run computes, by which a later start knows that it is the same run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from jaxft.recipe.decoding import encode
from jaxft.recipe.plugins import plugin_digests
from jaxft.recipe.schema import Recipe

# Keys that may change between the parts of a run: none of them changes what is computed. Plug-ins may lie elsewhere, as
# their digests are compared.
FREE_KEYS = ("mesh", "data", "reporting", "checkpoint.keep", "training.log_every", "plugins")


def identity_of(recipe: Recipe, data: Mapping[str, str]) -> dict[str, Any]:
    """What a resumed run must share with the run that it continues: recipe, data and plug-ins.

    Args:
      recipe: as decoded.
      data: fingerprints by stream and evaluation.
    """
    return {"recipe": encode(recipe), "data": dict(data), "plugins": plugin_digests(recipe)}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], free: Sequence[str] = ()) -> list[str]:
    """What differs between two encoded recipes, in words.

    Args:
      old: the one "there".
      new: the one "here".
      free: keys that may differ.
    """
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {_shown(before, key)} there, {_shown(after, key)} here"
        for key in dict.fromkeys([*before, *after])
        if before.get(key) != after.get(key) and not any(key == one or key.startswith(f"{one}.") for one in free)
    ]


def recipe_changes(began: Mapping[str, Any], recipe: Recipe, overrides: Sequence[str]) -> list[str]:
    """How the recipe of a run's directory differs from the one that it began with, in words.

    Args:
      began: encoded, perhaps by an earlier version, whose missing keys are no difference.
      recipe: as decoded.
      overrides: of it, like `training.seed=1`; what they change is no difference either.
    """
    now, before = encode(recipe), _flat(began)
    known = {key: value for key, value in _flat(now).items() if key in before}
    before = {key: value for key, value in before.items() if key in known}
    return differences(before, known, (*FREE_KEYS, *(override.partition("=")[0] for override in overrides)))


def identity_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """How the identity of a start differs from that of the run's beginning, in words."""
    changes = differences(old["recipe"], new["recipe"], FREE_KEYS)
    data = [f"the data of {name} has changed" for name in new["data"] if old["data"].get(name) != new["data"][name]]
    return changes + ([] if changes else data)


def _shown(flat: Mapping[str, Any], key: str) -> str:
    return json.dumps(flat[key], ensure_ascii=False) if key in flat else "nothing"


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, dict):
        items = ((f"{prefix}.{name}" if prefix else name, item) for name, item in value.items())
        return {key: leaf for name, item in items for key, leaf in _flat(item, name).items()}
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return {key: leaf for i, item in enumerate(value) for key, leaf in _flat(item, f"{prefix}[{i}]").items()}
    return {prefix: value}
