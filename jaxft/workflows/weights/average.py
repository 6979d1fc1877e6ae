"""Averages of weights: runs from one start together (soups), and what was tuned with its start (WiSE-FT)."""

from __future__ import annotations

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxft.data.tokenizers import CHAT_TEMPLATE_FILE
from jaxft.errors import CheckpointError, RecipeError
from jaxft.finetuning.averaging import interpolate, soup
from jaxft.huggingface.loaded import LoadedModel
from jaxft.models.config import ModelConfig
from jaxft.models.heads import HeadConfig
from jaxft.parallel.trees import Parameters
from jaxft.reporting.atomic import write_atomically
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.labels import labelled_origin
from jaxft.workflows.weights.loading import load_pretrained
from jaxft.workflows.weights.opened_model import OpenedModel, open_model


def average_models(
    models: Sequence[str],
    output: str | pathlib.Path,
    weights: Sequence[float] | None = None,
    share: float | None = None,
    start: str | None = None,
) -> dict[str, Any]:
    """Writes the weighted mean of several models, or of one with its start, as `jaxft import` writes a model.

    Args:
      models: runs, `RUN:STEP`, imported models, or directories in Hugging Face layout; all of one shape.
      output: a new directory; `model.pretrained` of a recipe may then name it.
      weights: one for each model, made to sum up to 1; equal where None.
      share: of the mean of the models, the rest being their start (Wortsman et al. 2022, arXiv 2109.01903); 1 where
        None. Heads that the start does not have stay as tuned.
      start: where the start lies; what the recipe of the first model began with where None.

    Returns:
      `output`, `parameters` (their number), `weights` (by model) and `as_tuned` (parts that had no start).

    Raises:
      RecipeError: weights, a share or a start that make no sense.
      CheckpointError: a model cannot be read, they differ in shape, or the output holds a model already.
    """
    shares = _checked(models, weights, share, start)
    target = RunDirectory(output)
    if target.has_model():
        raise CheckpointError(f"{target.path} holds a model already; choose another directory")
    opened = [open_model(model) for model in models]
    loaded = [one.loaded for one in opened]
    for model, other in zip(models[1:], loaded[1:], strict=True):
        _check_same(models[0], loaded[0], model, other)
    parameters = soup([one.params for one in loaded], list(shares.values()))
    as_tuned: list[str] = []
    if share is not None:
        origin = load_pretrained(start) if start is not None else _start_of(opened[0])
        parameters, as_tuned = _towards(origin, loaded[0], parameters, share)
    _write(target, opened[0], parameters)
    count = sum(leaf.size for leaf in jax.tree.leaves(parameters))
    return {"output": str(target.path), "parameters": count, "weights": shares, "as_tuned": as_tuned}


def _checked(
    models: Sequence[str], weights: Sequence[float] | None, share: float | None, start: str | None
) -> dict[str, float]:
    """Weights by model, which sum up to 1."""
    if len(set(models)) != len(models):
        raise RecipeError("a model is named twice; give it more weight with --weights")
    weights = [1.0] * len(models) if weights is None else list(weights)
    if len(weights) != len(models):
        raise RecipeError(f"--weights: give one for each of the {len(models)} models, found {len(weights)}")
    if min(weights) < 0 or not sum(weights):
        raise RecipeError(f"--weights: must not be negative, nor all be 0; found {weights}")
    if share is not None and not 0 <= share <= 1:
        raise RecipeError(f"--share: must lie in [0, 1], found {share}")
    if start is not None and share is None:
        raise RecipeError("--start: say by --share how much of the result is what was tuned, like --share 0.5")
    return {model: weight / sum(weights) for model, weight in zip(models, weights, strict=True)}


def _check_same(path: str, one: LoadedModel, other_path: str, other: LoadedModel) -> None:
    """Makes sure that two models have the same parameters, for the same use.

    Soups are of runs that were trained in different ways, so rates of dropout may differ: the first model's stay.
    """
    names = [field.name for field in dataclasses.fields(ModelConfig) if "dropout" not in field.name]
    differing = [name for name in names if getattr(one.config, name) != getattr(other.config, name)]
    if differing:
        name = differing[0]
        values = f"{getattr(one.config, name)!r} and {getattr(other.config, name)!r}"
        raise CheckpointError(f"{path} and {other_path} differ in {name}: {values}; only models of one shape average")
    if _heads_of(one) != _heads_of(other):
        heads = [", ".join(name for name, _ in model.model.heads) or "none" for model in (one, other)]
        raise CheckpointError(f"{path} and {other_path} have other heads: {heads[0]}; and {heads[1]}")


def _heads_of(model: LoadedModel) -> dict[str, HeadConfig]:
    """The model's heads as they compute, which is without dropout."""
    return {name: dataclasses.replace(head, dropout=0.0) for name, head in model.model.heads}


def _start_of(opened: OpenedModel) -> LoadedModel:
    """What a run began with."""
    assert opened.location is not None
    model = None if opened.location.recipe is None else opened.location.recipe.model
    if model is None or model.pretrained is None:
        raise RecipeError(f"{opened.location.source} does not say what it began with; name it by --start DIR")
    return load_pretrained(model.pretrained, adapter=model.adapter)


def _towards(
    origin: LoadedModel, tuned: LoadedModel, parameters: Parameters, share: float
) -> tuple[dict[str, Any], list[str]]:
    """The parameters between the start and those tuned, and the parts that had no start."""
    shapes = [jax.tree.map(lambda leaf: leaf.shape, one.params["trunk"]) for one in (origin, tuned)]
    if shapes[0] != shapes[1]:
        raise CheckpointError("the start has another shape than what was tuned, so there is nothing between them")
    before = _heads_of(origin)
    shared = {"trunk", *(f"head_{name}" for name, head in _heads_of(tuned).items() if before.get(name) == head)}
    between = {name: interpolate(origin.params[name], parameters[name], share) for name in shared}
    return {**parameters, **between}, sorted(set(parameters) - shared)


def _write(target: RunDirectory, opened: OpenedModel, parameters: Parameters) -> None:
    """Writes a model with the tokenizer and the settings of another one."""
    location, model = opened.location, opened.loaded
    assert location is not None
    huggingface = location.huggingface if location.run is None else labelled_origin(location, model)
    with target.locked():
        target.checkpoints.save(0, parameters, {"step": np.zeros((), np.int32)}, {"history": []}, set(), lambda: None)
        target.checkpoints.close()
        if model.tokenizer is not None:
            model.tokenizer.save(target.tokenizer)
            if (template := location.tokenizer / CHAT_TEMPLATE_FILE).is_file():
                write_atomically(target.tokenizer / CHAT_TEMPLATE_FILE, template.read_bytes())
        # Last, since it is what says that a model is here.
        target.write_model(model.config, dict(model.model.heads), huggingface, location.settings, location.use)
