"""Whether the processes of a run were all started with the same words, data and code."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from jaxft.errors import DataError, RecipeError
from jaxft.parallel.processes import gathered, member_names, process_count
from jaxft.recipe.decoding import encode
from jaxft.recipe.plugins import plugin_digests
from jaxft.recipe.schema import Recipe
from jaxft.workflows.runs.identity import differences
from jaxft.workflows.runs.software import code_digest, versions

# Where data lies may be another place on every machine.
_OWN_KEYS = ("data.directory", "data.cache", "data.workers")


def check_recipes_agree(recipe: Recipe) -> None:
    """Compares this process's recipe and code with those of the others.

    Raises:
      RecipeError: they differ; all differing keys are named.
    """
    if process_count() == 1:
        return
    own = encode(recipe)
    for key in _OWN_KEYS:
        section, _, name = key.partition(".")
        own.get(section, {}).pop(name, None)
    own.pop("plugins", None)  # paths, which may be others on every machine
    _check_agree("recipe", own, "another recipe or other code", plugin_digests(recipe))


def check_words_agree(words: Mapping[str, Any]) -> None:
    """Compares the words of this process's command, and its code, with those of the others.

    Args:
      words: by option, in JSON's terms.

    Raises:
      RecipeError: they differ; all differing options are named.
    """
    if process_count() > 1:
        _check_agree("words", dict(words), "other words or other code")


def _check_agree(name: str, value: dict[str, Any], unlike: str, plugins: Mapping[str, str] | None = None) -> None:
    code = {**versions(), "jaxft": code_digest(), **(plugins or {})}
    other = _first_other({name: value, "code": code})
    if other is None:
        return
    process, there, here = other
    raise RecipeError(
        f"{process} was started with {unlike} than process 0. What differs, process 0 first:\n  "
        + "\n  ".join(differences(there, here))
    )


def check_data_agrees(fingerprints: Mapping[str, str]) -> None:
    """Compares the data that this process found with that of the others.

    Args:
      fingerprints: by stream and evaluation.

    Raises:
      DataError: they differ.
    """
    if process_count() > 1 and (other := _first_other(dict(fingerprints))) is not None:
        name, there, here = other
        changed = ", ".join(key for key in there if there[key] != here.get(key))
        raise DataError(
            f"{name} found other data than process 0 for {changed}: the files differ between their machines"
        )


def _first_other(own: dict[str, Any]) -> tuple[str, dict[str, Any], dict[str, Any]] | None:
    """The first process that has other values than process 0: its name, theirs and its own."""
    digests = gathered(hashlib.sha256(json.dumps(own, sort_keys=True).encode()).hexdigest())
    different = next((index for index, digest in enumerate(digests) if digest != digests[0]), None)
    if different is None:
        return None
    found = gathered(own)  # only now: recipes are long, and processes many
    return member_names()[different], found[0], found[different]
