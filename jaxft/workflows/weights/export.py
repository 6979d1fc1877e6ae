"""Between Hugging Face's layout and checkpoints of jaxft's own."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.tokenizers import load_tokenizer
from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import architecture_of
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.description import describe
from jaxft.huggingface.exporting import write_model
from jaxft.huggingface.expressing import Form, form_for
from jaxft.huggingface.generation_settings import GenerationSettings
from jaxft.huggingface.image_preprocessing import write_preprocessing
from jaxft.huggingface.importing import load_parameters
from jaxft.huggingface.loaded import LoadedModel, tokenizer_of
from jaxft.huggingface.pooling import SentencePooling, read_pooling, write_pooling
from jaxft.models.config import ComputeConfig
from jaxft.models.heads import HeadConfig
from jaxft.models.model import Model, flat_paths, sharded_target
from jaxft.objectives.contrastive import ContrastiveConfig
from jaxft.objectives.denoising import decoder_start_id
from jaxft.objectives.image_classification import ImageClassificationConfig
from jaxft.objectives.multi_label_classification import MultiLabelClassificationConfig
from jaxft.objectives.registry import ObjectiveConfig
from jaxft.objectives.regression import RegressionConfig
from jaxft.objectives.sentence_similarity import SentenceSimilarityConfig
from jaxft.parallel.mesh import MeshConfig
from jaxft.recipe.library import load_recipe
from jaxft.reporting.tables import format_value
from jaxft.workflows.inference.generate import settings_of, special_tokens
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.adapters import write_run_adapter
from jaxft.workflows.weights.pretrained import open_pretrained, resolve

# How an objective and how sentence-transformers call the same pooling.
POOLINGS = {"first": "cls", "mean": "mean", "last": "last"}
_PROBLEMS = {RegressionConfig: "regression", MultiLabelClassificationConfig: "multi_label_classification"}


def import_model(source: str, output: str | pathlib.Path, adapter: str | None = None) -> dict[str, Any]:
    """Reads a model in Hugging Face layout into a checkpoint of jaxft's own.

    Args:
      source: a directory, or the id of one on the hub.
      output: a new directory; `model.pretrained` of a recipe may then name it.
      adapter: directory of a low-rank update in PEFT's format, which is merged into it.

    Returns:
      `output`, `model_type`, `parameters` (their number) and `heads`.

    Raises:
      CheckpointError: the source cannot be read, or the output holds a model already.
    """
    description = describe(resolve(source))
    run = RunDirectory(output)
    if run.has_model():
        raise CheckpointError(f"{run.path} holds a model already; choose another directory")
    tokenizer = tokenizer_of(description)
    model = description.make_model()
    adapted = None if adapter is None else open_pretrained(str(source), adapter)
    if adapted is not None:
        model = Model(adapted.config, tuple(adapted.heads.items()))
    target = sharded_target(model, "float32", None)
    with run.locked():
        parameters = load_parameters(description, target) if adapted is None else adapted.parameters(target)
        run.checkpoints.save(0, parameters, {"step": np.zeros((), np.int32)}, {"history": []}, set(), lambda: None)
        run.checkpoints.close()
        if tokenizer is not None:
            tokenizer.save(run.tokenizer)
        # Last, since it is what says that a model is here.
        run.write_model(description.model, dict(model.heads), description.config, description.directory)
    return {
        "output": str(run.path),
        "model_type": description.config.get("model_type"),
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(parameters)),
        "heads": [name for name, _ in model.heads],
    }


def export_model(
    path: str | pathlib.Path,
    output: str | pathlib.Path,
    head: str | None = None,
    dtype: str | None = None,
    step: int | None = None,
    adapter: bool = False,
) -> dict[str, Any]:
    """Writes a run or an imported model in Hugging Face layout, with a model card.

    Args:
      path: a run directory, one of its `checkpoints/<step>`, or an imported model.
      output: a new directory.
      head: which head to write; that of the first stream where None, which for vectors of sentences is the trunk with
        the files from which sentence-transformers makes them; `none` for the trunk alone.
      dtype: `float32`, `bfloat16` or `float16`; where None, float32, or that of the files of an imported model.
      step: which checkpoint of a run.
      adapter: writes the low-rank update of a run alone, in PEFT's format.

    Returns:
      `output`, `class` (of transformers), `parameters`, and `left_out`: heads that this class does not have.

    Raises:
      CheckpointError: no architecture of Hugging Face expresses the model or its head; what differs is named.
    """
    run, found = _run_and_step(pathlib.Path(path), step)
    loaded = _loaded(run, found, "float32", None)
    sentences = sentence_objective(run) if head is None else None
    chosen = None if sentences is not None else _chosen_head(loaded, head)
    origin = run.huggingface()
    shapes = {name: leaf.shape for name, leaf in flat_paths(loaded.params).items()}
    extra = label_settings(run, chosen) | (_special_ids(loaded) if origin is None else {})
    form = form_for(loaded.config, chosen, origin, extra, shapes)
    form = dataclasses.replace(form, directory=run.settings, generation_settings=_writing(run, loaded, chosen))
    left_out = [name for name, _ in loaded.model.heads if chosen is None or name != chosen[0]]
    name = form.config["architectures"][0]
    if adapter:
        head_name = None if chosen is None else chosen[0]
        written = write_run_adapter(run, found, form, head_name, loaded.params, pathlib.Path(output))
        return {"output": str(output), "class": name, "left_out": left_out, **written}
    if dtype is None and origin is not None and not (run.path / "recipe.yaml").is_file():
        dtype = origin.get("dtype", origin.get("torch_dtype", "float32"))
    write_model(pathlib.Path(output), form, loaded.params, loaded.tokenizer, dtype=dtype, card=_card(run, form))
    objective = None if chosen is None else _objective(run, chosen[0])
    if isinstance(objective, ImageClassificationConfig):
        write_preprocessing(pathlib.Path(output), loaded.config, objective.mean, objective.deviation)
    if sentences is not None:
        pooling = SentencePooling(POOLINGS[sentences.pooling], normalize=True)
        length = sentences.length or loaded.config.max_length
        write_pooling(pathlib.Path(output), pooling, loaded.config.embed_dim, length)
    count = sum(int(np.prod(tensor.shape)) for tensor in form.placed.values())
    return {"output": str(output), "class": name, "parameters": count, "left_out": left_out}


def labelled_origin(loaded: LoadedModel, run: RunDirectory) -> HuggingFaceConfig | None:
    """The config.json that a model once came with, with the labels of the head that it now has."""
    origin = run.huggingface()
    if origin is None or not loaded.heads:
        return origin
    head = next((name, config) for name, config in loaded.model.heads if name == loaded.heads[0])
    return HuggingFaceConfig({**origin.values, **label_settings(run, head)}, origin.source)


def loaded_checkpoint(directory: pathlib.Path, dtype: str, mesh: jax.sharding.Mesh | MeshConfig | None) -> LoadedModel:
    """A run or an imported model as `load_pretrained` gives it."""
    run, step = _run_and_step(directory, None)
    loaded = _loaded(run, step, dtype, mesh)
    heads = loaded.heads and next((name, head) for name, head in loaded.model.heads if name == loaded.heads[0])
    shapes = {name: leaf.shape for name, leaf in flat_paths(loaded.params).items()}
    try:
        form: Form | None = form_for(
            loaded.config, heads or None, run.huggingface(), label_settings(run, heads), shapes
        )
        form = dataclasses.replace(form, directory=run.settings)
    except CheckpointError:
        form = None
    return dataclasses.replace(loaded, form=form)


def _run_and_step(path: pathlib.Path, step: int | None) -> tuple[RunDirectory, int]:
    """A run, and the step that its path or else the user names."""
    run = RunDirectory(path)
    if path.parent.name == "checkpoints" and path.name.isdigit():
        run, step = RunDirectory(path.parent.parent), int(path.name) if step is None else step
    run.model()
    return run, run.chosen_step(step)


def _loaded(run: RunDirectory, step: int, dtype: str, mesh) -> LoadedModel:
    config, heads = run.model()
    if (run.path / "recipe.yaml").is_file() and load_recipe(run.path / "recipe.yaml")[
        0
    ].finetuning.adapters is not None:
        raise CheckpointError(
            f"{run.path} has bottleneck adapters, which no model of Hugging Face has a place for; train with "
            "finetuning.lora in place of finetuning.adapters to merge what was learned"
        )
    if dtype not in ("float32", "bfloat16"):
        raise CheckpointError(f"dtype must be float32 or bfloat16, found {dtype!r}")
    model = Model(config, tuple(heads.items()), ComputeConfig(precision=dtype))
    parameters, _ = run.checkpoints.restore(step, sharded_target(model, "float32", mesh))
    for name in heads:
        parameters = _in_own_units(parameters, name, _objective(run, name))
    if dtype != "float32":
        parameters = jax.tree.map(lambda leaf: leaf.astype(jnp.dtype(dtype)), parameters)
    tokenizer = load_tokenizer(run.tokenizer) if run.tokenizer.is_dir() and config.family != "vision" else None
    first = tuple(name for name, head in heads.items() if head.kind != "pooled")[:1]
    origin = run.huggingface()
    return LoadedModel(
        model,
        parameters,
        config,
        tokenizer,
        None,
        first,
        pad_token_id=None if origin is None else origin.get("pad_token_id", None),
        positions_skip_padding=None if origin is None else architecture_of(origin).positions_skip_padding,
        pooling=read_pooling(run.settings),
    )


def _chosen_head(loaded: LoadedModel, name: str | None) -> tuple[str, HeadConfig] | None:
    heads = dict(loaded.model.heads)
    if name is None:
        name = loaded.heads[0] if loaded.heads else "pooled" if "pooled" in heads else "none"
    if name == "none":
        return None
    if name not in heads:
        raise CheckpointError(f"there is no head {name!r}; there are {', '.join(heads) or 'none'}, or `none`")
    return name, heads[name]


def label_settings(run: RunDirectory, head: tuple[str, HeadConfig] | None) -> dict[str, Any]:
    """`id2label`, `label2id` and `problem_type` of a classifier or a regression."""
    if not head or head[1].kind in ("masked_lm", "causal_lm", "pooled", "multiple_choice", "question_answering"):
        return {}
    origin, objective = run.huggingface(), _objective(run, head[0])
    names = [str(number) for number in range(head[1].num_labels)]
    if objective is None and origin is not None and origin.num_labels == len(names):
        return {}
    problem = {}
    if head[1].kind == "sequence_classification":
        problem = {"problem_type": _PROBLEMS.get(type(objective), "single_label_classification")}
    if isinstance(objective, RegressionConfig):
        names = list(objective.target)
    else:
        names = list(getattr(objective, "labels", None) or names)
    labels = {str(i): name for i, name in enumerate(names)}
    return {"id2label": labels, "label2id": {n: i for i, n in enumerate(names)}, **problem}


def sentence_objective(run: RunDirectory) -> ContrastiveConfig | SentenceSimilarityConfig | None:
    """The objective of a run whose first stream makes vectors of sentences; None where it is another."""
    if not (run.path / "recipe.yaml").is_file():
        return None
    recipe, _ = load_recipe(run.path / "recipe.yaml")
    objective = next(iter(recipe.streams.values())).objective
    return objective if isinstance(objective, ContrastiveConfig | SentenceSimilarityConfig) else None


def _in_own_units(parameters, head: str, objective: ObjectiveConfig | None):
    """The parameters with what a regression standardized put into its last projection."""
    if not isinstance(objective, RegressionConfig) or objective.mean is None:
        return parameters
    name = f"head_{head}"
    old = parameters[name]["classifier"]
    if "bias" not in old:
        raise CheckpointError(
            f"head {head} has no bias that could hold the mean of its targets; train with standardize: false"
        )
    deviation = jnp.array(objective.deviation)
    new = {"kernel": old["kernel"] * deviation, "bias": old["bias"] * deviation + jnp.array(objective.mean)}
    return {**parameters, name: {**parameters[name], "classifier": new}}


def _objective(run: RunDirectory, stream: str) -> ObjectiveConfig | None:
    """The objective of a run's stream; None where there is no such stream, or no run but weights alone."""
    if not (run.path / "recipe.yaml").is_file():
        return None
    recipe, _ = load_recipe(run.path / "recipe.yaml")
    return recipe.streams[stream].objective if stream in recipe.streams else None


def _special_ids(loaded: LoadedModel) -> dict[str, int]:
    """Ids that `transformers` looks up in the config.json of a model made here."""
    tokenizer = loaded.tokenizer
    if tokenizer is None:
        return {}
    ids = {"pad": tokenizer.pad_id, "bos": tokenizer.start_id, "eos": tokenizer.separator_id}
    if loaded.config.family == "encoder":
        ids |= {"cls": tokenizer.start_id, "sep": tokenizer.separator_id}
    if loaded.config.family == "encoder_decoder":
        ids["decoder_start"] = decoder_start_id(tokenizer, loaded.config)
    return {f"{name}_token_id": number for name, number in ids.items() if number is not None}


def _writing(
    run: RunDirectory, loaded: LoadedModel, chosen: tuple[str, HeadConfig] | None
) -> GenerationSettings | None:
    """How a run's model writes; None for one that does not, and for one whose own files say it."""
    writes = chosen is not None and chosen[1].kind == "causal_lm" and loaded.config.family != "encoder"
    if not writes or loaded.tokenizer is None or not (run.path / "recipe.yaml").is_file():
        return None
    special = special_tokens(loaded.config, loaded.tokenizer, *settings_of(run.path))
    ends = {"eos_token_id": special.end[0] if len(special.end) == 1 else list(special.end)}
    if run.huggingface() is not None:
        own = run.settings / "generation_config.json"
        # Without such a file older models have more of this in config.json, which a new one would hide.
        return GenerationSettings(json.loads(own.read_text(encoding="utf-8")) | ends) if own.is_file() else None
    settings = {**ends, "pad_token_id": special.pad}
    if loaded.config.family == "encoder_decoder":
        return GenerationSettings(
            settings | {"decoder_start_token_id": special.start[0]}, (special.source_start, special.source_end)
        )
    first = {} if loaded.tokenizer.start_id is None else {"bos_token_id": loaded.tokenizer.start_id}
    return GenerationSettings(settings | first, (special.start, ()))


def _card(run: RunDirectory, form: Form) -> str:
    """README.md of the exported model: what it is, how it was trained, what was measured."""
    name = form.config["architectures"][0]
    lines = ["---", "library_name: transformers", "tags: [jaxft]", "---", "", f"# {run.path.name}", ""]
    lines += [f"A `{name}`, written by jaxft.", ""]
    summary = run.summary()
    if summary is not None:
        lines += [f"Trained for {summary['steps']} steps; these weights are those of step {summary['used_step']}.", ""]
        lines += ["| evaluation | metric | value |", "|---|---|---|"]
        for evaluation, metrics in summary["evaluation"].items():
            numbers = ((metric, value) for metric, value in metrics.items() if isinstance(value, float))
            lines += [f"| {evaluation} | {metric} | {format_value(value)} |" for metric, value in numbers]
        lines += ["", "## Recipe", "", "```yaml", (run.path / "recipe.yaml").read_text().rstrip(), "```"]
    return "\n".join(lines) + "\n"
