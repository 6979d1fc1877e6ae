"""What a model says of texts: labels, vectors, what stands behind masks, and how likely it finds continuations."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import jax
import numpy as np

from jaxft.errors import RecipeError
from jaxft.generation.reader import Classified, Filled, Reader, Text
from jaxft.generation.scoring import Score
from jaxft.parallel.mesh import MeshConfig, make_mesh
from jaxft.workflows.inference.generate import TextGenerator, open_text_generator
from jaxft.workflows.weights.opened_model import ModelSource, OpenedModel, open_model

_logger = logging.getLogger("jaxft")


def open_reader(
    source: ModelSource,
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
    return reader_of(open_model(source, dtype, devices), devices, batch_size)


def reader_of(opened: OpenedModel, mesh: jax.sharding.Mesh, batch_size: int = 16) -> Reader:
    """A reader of a model that is opened already; see `open_reader`."""
    loaded = opened.loaded
    if loaded.config.family not in ("encoder", "decoder"):
        family = loaded.config.family.replace("_", "-")
        raise RecipeError(f"a model of family {family} gives no labels or vectors of texts and fills no masks")
    if loaded.tokenizer is None:
        raise RecipeError("the model has no tokenizer, so that it can't be given texts")
    masked = [name for name, head in loaded.model.heads if head.kind == "masked_lm"]
    return Reader(
        loaded.model,
        loaded.params,
        loaded.tokenizer,
        opened.text_layout,
        classifier=opened.classifier,
        pooling=opened.pooling,
        masked_lm=masked[0] if masked and loaded.config.family == "encoder" else None,
        mesh=mesh,
        batch_size=batch_size,
    )


def embed(source: ModelSource | Reader, texts: str | Sequence[str], truncate: bool = False) -> np.ndarray:
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


def classify(source: ModelSource | Reader, texts: Text | Sequence[Text], truncate: bool = False) -> list[Classified]:
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


def fill_mask(source: ModelSource | Reader, texts: str | Sequence[str], top: int = 5) -> list[Filled]:
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


def score(source: ModelSource | TextGenerator, prompts: Sequence[str], continuations: Sequence[str]) -> list[Score]:
    """How likely a model finds each continuation after its prompt: `.log_probability`, `.is_greedy`.

    Args:
      source: as for `jaxft.generate`.
      prompts: texts before, or sources of an encoder-decoder; an empty one stands for the beginning of a text.
      continuations: as many, none of them empty.

    Raises:
      RecipeError: the model can't write.
      DataError: a text is too long or empty.
    """
    text_generator = source if isinstance(source, TextGenerator) else open_text_generator(source)
    return text_generator.score(prompts, continuations)


def _reader(source: ModelSource | Reader) -> Reader:
    return source if isinstance(source, Reader) else open_reader(source)


def _listed(texts: Text | Sequence[Text]) -> list:
    return [texts] if isinstance(texts, str | tuple) else list(texts)
