"""From a checkpoint of jaxft's own to Hugging Face's layout."""

from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import numpy as np

from jaxft.data.tokenizers.template import Fixed
from jaxft.errors import CheckpointError
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.exporting import write_model
from jaxft.huggingface.expressing import Form, form_for
from jaxft.huggingface.generation_settings import GenerationSettings
from jaxft.huggingface.image_preprocessing import write_preprocessing
from jaxft.huggingface.loaded import LoadedModel
from jaxft.huggingface.sentence_modules import write_pooling
from jaxft.models.heads import HeadConfig
from jaxft.models.model import flat_paths
from jaxft.objectives.denoising import decoder_start_id
from jaxft.recipe.library import recipe_to_text
from jaxft.reporting.tables import format_value
from jaxft.workflows.runs.model_use import ModelUse
from jaxft.workflows.weights.check_export import check_tokenizer
from jaxft.workflows.weights.export_adapter import write_run_adapter
from jaxft.workflows.weights.labels import label_settings, sentence_pooling
from jaxft.workflows.weights.loading import load_checkpoint
from jaxft.workflows.weights.location import ModelLocation, locate
from jaxft.workflows.weights.special_tokens import special_tokens


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
    location = locate(path, step)
    loaded = load_checkpoint(location, "float32", None)
    pooling = sentence_pooling(location) if head is None else None
    chosen = None if pooling is not None else _chosen_head(loaded, head)
    origin = location.stored.huggingface
    shapes = {name: leaf.shape for name, leaf in flat_paths(loaded.params).items()}
    extra = label_settings(location, chosen) | (_special_ids(loaded) if origin is None else {})
    form = form_for(loaded.config, chosen, origin, extra, shapes)
    writes = chosen is not None and chosen[1].kind == "causal_lm" and loaded.config.family != "encoder"
    settings = _generation_settings(location, loaded) if writes else None
    form = dataclasses.replace(form, directory=location.settings, generation_settings=settings)
    left_out = [name for name, _ in loaded.model.heads if chosen is None or name != chosen[0]]
    written = {"output": str(output), "class": form.config["architectures"][0], "left_out": left_out}
    if adapter:
        head_name = None if chosen is None else chosen[0]
        return {**written, **write_run_adapter(location, form, head_name, loaded.params, pathlib.Path(output))}
    if dtype is None and origin is not None and location.use is None:
        dtype = origin.get("dtype", origin.get("torch_dtype", "float32"))
    card, longest = _card(location, form), None if location.use is None else _longest(location.use, loaded, writes)
    write_model(
        pathlib.Path(output), form, loaded.params, loaded.tokenizer, dtype=dtype, card=card, longest_text=longest
    )
    _check(location, loaded, pathlib.Path(output), writes)
    pixels = None if location.use is None else location.use.normalization
    if pixels is not None:
        write_preprocessing(pathlib.Path(output), loaded.config, pixels.mean, pixels.deviation)
    if pooling is not None and location.use is not None:
        length = _longest(location.use, loaded, writes)
        write_pooling(pathlib.Path(output), pooling, loaded.config.embed_dim, length)
    return {**written, "parameters": sum(int(np.prod(tensor.shape)) for tensor in form.placed.values())}


def _check(location: ModelLocation, loaded: LoadedModel, output: pathlib.Path, writes: bool) -> None:
    """Has transformers read texts out of what was written; of a model that was trained here.

    Raises:
      CheckpointError: it reads them otherwise than the model was trained.
    """
    tokenizer = loaded.tokenizer
    if tokenizer is None or location.use is None:
        return
    template = tokenizer.template
    if writes:
        special = special_tokens(location, loaded.config, tokenizer)
        before: tuple[int, ...] = special.start
        after: tuple[int, ...] = ()
        if loaded.config.family == "encoder_decoder":
            before, after = special.source_start, special.source_end
        elif not tokenizer.is_generic or location.stored.huggingface is not None:
            after = template.after.ids  # its own files stay as they are
        template = dataclasses.replace(template, before=Fixed(before), after=Fixed(after))
    check_tokenizer(output, tokenizer, template, pairs=not writes)


def _longest(use: ModelUse, loaded: LoadedModel, writes: bool) -> int:
    """Tokens of the longest text that is read whole: as in training, but for models that write on."""
    return loaded.config.max_length if writes or use.length is None else use.length


def _chosen_head(loaded: LoadedModel, name: str | None) -> tuple[str, HeadConfig] | None:
    heads = dict(loaded.model.heads)
    if name is None:
        name = loaded.heads[0] if loaded.heads else "pooled" if "pooled" in heads else "none"
    if name == "none":
        return None
    if name not in heads:
        raise CheckpointError(f"there is no head {name!r}; there are {', '.join(heads) or 'none'}, or `none`")
    return name, heads[name]


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


def _generation_settings(location: ModelLocation, loaded: LoadedModel) -> GenerationSettings | None:
    """How a model that was trained here writes; None for one whose own files say it."""
    if loaded.tokenizer is None or location.use is None:
        return None
    special = special_tokens(location, loaded.config, loaded.tokenizer)
    ends = {"eos_token_id": special.end[0] if len(special.end) == 1 else list(special.end)}
    origin = location.stored.huggingface
    if origin is not None:
        own = location.settings / "generation_config.json"
        # Without such a file older models have this in config.json, which a new one hides.
        values = json.loads(own.read_text(encoding="utf-8")) if own.is_file() else _of_generation(origin)
        return GenerationSettings(values | ends)
    settings = {**ends, "pad_token_id": special.pad}
    if loaded.config.family == "encoder_decoder":
        settings["decoder_start_token_id"] = special.start[0]
        return GenerationSettings(settings, (special.source_start, special.source_end))
    first = {} if loaded.tokenizer.start_id is None else {"bos_token_id": loaded.tokenizer.start_id}
    return GenerationSettings(settings | first, (special.start, ()))


def _of_generation(origin: HuggingFaceConfig) -> dict[str, Any]:
    """Keys of a config.json that are those of a generation_config.json."""
    from transformers import GenerationConfig  # takes seconds to import, so only who needs it pays

    known = GenerationConfig().to_dict()
    return {key: value for key, value in origin.values.items() if key in known and value is not None}


def _card(location: ModelLocation, form: Form) -> str:
    """README.md of the exported model: what it is, how it was trained, what was measured."""
    run, name = location.need_run(), form.config["architectures"][0]
    lines = ["---", "library_name: transformers", "tags: [jaxft]", "---", "", f"# {run.path.name}", ""]
    lines += [f"A `{name}`, written by jaxft.", ""]
    summary = run.summary()
    if summary is not None and location.recipe is not None:
        lines += [f"Trained for {summary['steps']} steps; these weights are those of step {summary['used_step']}.", ""]
        lines += ["| evaluation | metric | value |", "|---|---|---|"]
        for evaluation, metrics in summary["evaluation"].items():
            numbers = ((metric, value) for metric, value in metrics.items() if isinstance(value, float))
            lines += [f"| {evaluation} | {metric} | {format_value(value)} |" for metric, value in numbers]
        lines += ["", "## Recipe", "", "```yaml", recipe_to_text(location.recipe).rstrip(), "```"]
    return "\n".join(lines) + "\n"
