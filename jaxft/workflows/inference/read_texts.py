"""What a model says of texts: labels, vectors, what stands behind masks, and how likely it finds continuations."""

from __future__ import annotations

import logging
import pathlib
from collections.abc import Sequence

import numpy as np

from jaxft.errors import RecipeError
from jaxft.generation.reader import Classified, Classifier, Filled, Pooling, Reader, Text
from jaxft.generation.scoring import Score
from jaxft.generation.text_layout import TextLayout
from jaxft.huggingface.loaded import LoadedModel
from jaxft.huggingface.pooling import SentencePooling, longest_sentence
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.workflows.inference.generate import TextGenerator, open_text_generator, settings_of
from jaxft.workflows.runs.run_directory import RunDirectory
from jaxft.workflows.weights.export import POOLINGS, label_settings, sentence_objective
from jaxft.workflows.weights.pretrained import load_pretrained, resolve

_logger = logging.getLogger("jaxft")


def open_reader(
    source: str | pathlib.Path | LoadedModel,
    dtype: str = "float32",
    mesh: MeshConfig | None = None,
    batch_size: int = 16,
) -> Reader:
    """A model that reads texts whole.

    Args:
      source: a directory in Hugging Face layout, the id of one on the hub, a run or an imported model; or one that
        `load_pretrained` gave, around whose texts the tokenizer's start and separator tokens are put.
      dtype: `float32` or `bfloat16`, of parameters and computation.
      mesh: devices to spread parameters and texts over; all local ones, by `data` alone, where None.
      batch_size: most texts that are read at once.

    Raises:
      CheckpointError: nothing there can be loaded.
      RecipeError: the model has no tokenizer, or reads no texts whole.
    """
    devices = make_mesh(mesh or MeshConfig())
    if isinstance(source, LoadedModel):
        loaded, directory, tokenizer_directory = source, None, None
    else:
        directory = resolve(source)
        loaded = load_pretrained(source, dtype, devices)
        _, tokenizer_directory = settings_of(directory)
    return reader_of(loaded, directory, tokenizer_directory, devices, batch_size)


def reader_of(
    loaded: LoadedModel,
    directory: pathlib.Path | None,
    tokenizer_directory: pathlib.Path | None,
    mesh,
    batch_size: int = 16,
) -> Reader:
    """A reader of a model that is loaded already; see `open_reader`."""
    if loaded.config.family not in ("encoder", "decoder"):
        family = loaded.config.family.replace("_", "-")
        raise RecipeError(f"a model of family {family} gives no labels or vectors of texts and fills no masks")
    if loaded.tokenizer is None:
        raise RecipeError("the model has no tokenizer, so that it can't be given texts")
    run = None
    if directory is not None and not (directory / "config.json").is_file():
        run = RunDirectory(directory.parent.parent if directory.parent.name == "checkpoints" else directory)
    masked = [name for name, head in loaded.model.heads if head.kind == "masked_lm"]
    return Reader(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        _layout(loaded, directory, tokenizer_directory),
        classifier=_classifier(loaded, run),
        pooling=_pooling(loaded, run),
        masked_lm=masked[0] if masked and loaded.config.family == "encoder" else None,
        mesh=mesh,
        batch_size=batch_size,
    )


def embed(
    source: str | pathlib.Path | LoadedModel | Reader, texts: str | Sequence[str], truncate: bool = False
) -> np.ndarray:
    """Vectors of texts.

    Args:
      source: as for `open_reader`, or what that gave.
      texts: any number.
      truncate: cuts texts that are longer than the model reads.

    Returns:
      Float32 `(texts, features)`: by the model's own pooling where it is a sentence encoder, or was trained to be one,
      else the mean over an encoder's tokens.

    Raises:
      RecipeError: the model makes no vectors of texts.
      DataError: a text is empty or too long.
    """
    return np.stack([one.vector for one in _reader(source).embed(_listed(texts), truncate)])


def classify(
    source: str | pathlib.Path | LoadedModel | Reader, texts: Text | Sequence[Text], truncate: bool = False
) -> list[Classified]:
    """Labels of texts, each a text or a pair of texts: `.label` and `.scores`.

    Args:
      source: as for `open_reader`, or what that gave.
      texts: any number, in a list.
      truncate: cuts texts that are longer than the model reads.

    Raises:
      RecipeError: the model has no head with labels for whole texts.
      DataError: a text is empty or too long.
    """
    return _reader(source).classify(_listed(texts), truncate)


def fill_mask(
    source: str | pathlib.Path | LoadedModel | Reader, texts: str | Sequence[str], top: int = 5
) -> list[Filled]:
    """What stands behind the masks of texts: `.masks[0][0].token`, `.text`.

    Args:
      source: as for `open_reader`, or what that gave.
      texts: each with a mask, spelled as the model's own, `[MASK]` or `<mask>`.
      top: candidates for each mask.

    Raises:
      RecipeError: the model fills no masks.
      DataError: a text has no mask, or is too long.
    """
    return _reader(source).fill(_listed(texts), top)


def score(
    source: str | pathlib.Path | LoadedModel | TextGenerator, prompts: Sequence[str], continuations: Sequence[str]
) -> list[Score]:
    """How likely a model finds each continuation after its prompt: `.log_probability`, `.is_greedy`.

    Args:
      source: as for `jaxft.generate`.
      prompts: texts before, or sources of an encoder-decoder; an empty one stands for the beginning of a text.
      continuations: as many, none of them empty.

    Raises:
      RecipeError: the model can't write.
      DataError: a text is too long or empty.
    """
    writer = source if isinstance(source, TextGenerator) else open_text_generator(source)
    return writer.score(prompts, continuations)


def _reader(source: str | pathlib.Path | LoadedModel | Reader) -> Reader:
    return source if isinstance(source, Reader) else open_reader(source)


def _listed(texts) -> list:
    return [texts] if isinstance(texts, str | tuple) else list(texts)


def _layout(
    loaded: LoadedModel, directory: pathlib.Path | None, tokenizer_directory: pathlib.Path | None
) -> TextLayout:
    tokenizer, config = loaded.tokenizer, loaded.config
    longest = config.max_length
    if directory is not None and (directory / "config.json").is_file():
        longest = min(longest, longest_sentence(directory) or longest)
    second_type = 1 if config.token_types > 1 else 0
    if tokenizer_directory is not None and (tokenizer_directory / "tokenizer.json").is_file():
        before, between, after, own_type = _around_pair(tokenizer_directory / "tokenizer.json")
        return TextLayout(before, after, between, own_type if second_type else 0, longest)
    start = () if tokenizer.start_id is None else (tokenizer.start_id,)
    end = (tokenizer.separator_id,)
    return TextLayout(start, end, end, second_type, longest)


def _around_pair(path: pathlib.Path) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], int]:
    """Ids that a tokenizer puts before, between and after two texts, and the token type of the second."""
    import tokenizers

    tokenizer = tokenizers.Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    encoded = tokenizer.encode("a", "a", add_special_tokens=True)
    first = [i for i, number in enumerate(encoded.sequence_ids) if number == 0]
    second = [i for i, number in enumerate(encoded.sequence_ids) if number == 1]
    if not first or not second:
        return (), (), (), 0
    ids = encoded.ids
    between = tuple(ids[first[-1] + 1 : second[0]])
    return tuple(ids[: first[0]]), between, tuple(ids[second[-1] + 1 :]), encoded.type_ids[second[0]]


def _classifier(loaded: LoadedModel, run: RunDirectory | None) -> Classifier | None:
    """The head for whole texts: the first one, which a model is saved as, or else any."""
    heads = dict(loaded.model.heads)
    named = [*loaded.heads, *heads]
    found = next((name for name in named if heads[name].kind == "sequence_classification"), None)
    if found is None:
        return None
    settings = {} if loaded.form is None else loaded.form.config
    if run is not None:
        settings = {**settings, **label_settings(run, (found, heads[found]))}
    count = heads[found].num_labels
    labels = settings.get("id2label") or {}
    problem = settings.get("problem_type") or ("regression" if count == 1 else "single_label_classification")
    # Hugging Face leaves out labels that are LABEL_0, LABEL_1, ...
    return Classifier(found, tuple(labels.get(str(i), labels.get(i, f"LABEL_{i}")) for i in range(count)), problem)


def _pooling(loaded: LoadedModel, run: RunDirectory | None) -> Pooling | None:
    if loaded.pooling is not None:
        return loaded.pooling
    objective = None if run is None else sentence_objective(run)
    if objective is not None:
        return SentencePooling(POOLINGS[objective.pooling], normalize=True)
    if loaded.config.family != "encoder":
        return None
    return SentencePooling("mean", normalize=False)
