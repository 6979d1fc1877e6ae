"""What a model says of texts that it reads whole: labels, vectors, and what stands behind masks."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.data.tokenizers import Part, Tokenizer
from jaxft.errors import DataError, RecipeError
from jaxft.generation.prompts import bucket, padded
from jaxft.generation.text_layout import TextLayout
from jaxft.models.model import Model, ModelOutput, apply_model
from jaxft.models.transformer import Sequences
from jaxft.parallel.mesh import batch_shards
from jaxft.parallel.sharding import host_copies, put_whole_batch
from jaxft.parallel.trees import Parameters

# Spellings of a mask that every model takes beside its own.
MASKS = ("[MASK]", "<mask>")

Problem = Literal["single_label_classification", "multi_label_classification", "regression"]
Pooling = Callable[[jax.Array, jax.Array], jax.Array]
Text = str | tuple[str, str]
# Ids and token types of a text, int32 `(tokens,)`.
Row = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Classifier:
    """A head with labels for whole texts.

    Attributes:
      head: its name.
      labels: of its outputs.
      problem: whether one label is right, or any number of them, or the outputs are numbers.
    """

    head: str
    labels: tuple[str, ...]
    problem: Problem


@dataclasses.dataclass(frozen=True)
class Classified:
    """What a classifier says of a text.

    Attributes:
      label: the likeliest; None of several labels and of numbers.
      scores: for each label its probability; of a regression its value.
      tokens: that were read.
    """

    label: str | None
    scores: dict[str, float]
    tokens: int


@dataclasses.dataclass(frozen=True)
class Candidate:
    """What may stand behind a mask.

    Attributes:
      token: as it is in the vocabulary.
      text: what it writes.
      probability: of it.
    """

    token: str
    text: str
    probability: float


@dataclasses.dataclass(frozen=True)
class Filled:
    """What a model says of the masks of a text.

    Attributes:
      masks: for each mask, in order, the likeliest tokens, the likeliest first.
      text: with the likeliest token in each.
      tokens: that were read.
    """

    masks: tuple[tuple[Candidate, ...], ...]
    text: str
    tokens: int


@dataclasses.dataclass(frozen=True)
class Embedded:
    """The vector of a text: float32 `(features,)`, and the tokens that were read."""

    vector: np.ndarray
    tokens: int


class Reader:
    """Reads texts with one model.

    Texts are padded to few lengths, so that few programs are compiled; what is said of one does not depend on others.

    Args:
      model: an encoder, or a decoder with a head for whole texts.
      parameters: of the model.
      tokenizer: of the model.
      layout: of texts.
      classifier: its head with labels, or None.
      pooling: from hidden states `(batch, length, embed)` and a mask `(batch, length)` to vectors, or None.
      masked_lm: name of its head that fills masks, or None.
      mesh: devices on which the parameters lie; those of JAX's default where None.
      batch_size: most texts that are read at once.
    """

    def __init__(
        self,
        model: Model,
        parameters: Parameters,
        tokenizer: Tokenizer,
        layout: TextLayout,
        *,
        classifier: Classifier | None = None,
        pooling: Pooling | None = None,
        masked_lm: str | None = None,
        mesh: jax.sharding.Mesh | None = None,
        batch_size: int = 16,
    ):
        self.model, self.tokenizer, self.layout = model, tokenizer, layout
        self.classifier, self.pooling, self.masked_lm = classifier, pooling, masked_lm
        self.batch_size = batch_size
        self._parameters = parameters
        self._mesh = None if mesh is None or mesh.size == 1 else mesh

    def classify(self, texts: Sequence[Text], truncate: bool = False) -> list[Classified]:
        """Labels of texts, or of pairs of texts.

        Raises:
          RecipeError: the model has no labels for texts.
          DataError: a text is empty or too long.
        """
        self.need_classifier()
        return self.classified(self.rows(texts, truncate))

    def embed(self, texts: Sequence[Text], truncate: bool = False) -> list[Embedded]:
        """Vectors of texts.

        Raises:
          RecipeError: the model makes no vectors of texts.
          DataError: a text is empty or too long.
        """
        self.need_pooling()
        return self.embedded(self.rows(texts, truncate))

    def fill(self, texts: Sequence[str], top: int = 5, truncate: bool = False) -> list[Filled]:
        """What stands behind the masks of texts, spelled as the model's own, `[MASK]` or `<mask>`.

        Args:
          texts: each with at least one mask.
          top: so many of the likeliest tokens for each.
          truncate: cuts texts that are too long.

        Raises:
          RecipeError: the model fills no masks, or `top` is impossible.
          DataError: a text has no mask, or is too long.
        """
        return self.filled(self.masked_rows(texts, top, truncate), top)

    def need_classifier(self) -> Classifier:
        """The head with labels, or a RecipeError where there is none."""
        if self.classifier is None:
            raise RecipeError(f"this model has no head with labels for whole texts; {self._has()}")
        return self.classifier

    def need_pooling(self) -> Pooling:
        """What makes vectors, or a RecipeError where there is nothing."""
        if self.pooling is None:
            raise RecipeError(f"this model makes no vectors of texts; {self._has()}")
        return self.pooling

    def need_mask(self) -> int:
        """The id of the mask, or a RecipeError where the model fills none."""
        if self.masked_lm is None or self.tokenizer.mask_id is None:
            raise RecipeError(f"this model fills no masks; {self._has()}")
        return self.tokenizer.mask_id

    def rows(self, texts: Sequence[Text], truncate: bool = False) -> list[Row]:
        """Texts as the model reads them; raises as `classify` does of texts."""
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        first = self.tokenizer.encode([one for one, _ in pairs])
        second = iter(self.tokenizer.encode([two for _, two in pairs if two is not None]))
        return [
            self.layout.row(f"text {number}", ids, None if two is None else next(second), truncate)
            for number, (ids, (_, two)) in enumerate(zip(first, pairs, strict=True), 1)
        ]

    def masked_rows(self, texts: Sequence[str], top: int = 5, truncate: bool = False) -> list[Row]:
        """Texts with masks as the model reads them; raises as `fill` does."""
        mask = self.need_mask()
        if not 1 <= top <= self.tokenizer.vocab_size:
            raise RecipeError(f"top must be from 1 to {self.tokenizer.vocab_size}, found {top}")
        (own,) = self.tokenizer.tokens([mask])
        encoded = self.tokenizer.encode_parts([_parts(text, own) for text in texts])
        rows = [self.layout.row(f"text {number}", ids, None, truncate) for number, (ids, _) in enumerate(encoded, 1)]
        for number, (ids, _) in enumerate(rows, 1):
            if mask not in ids:
                raise DataError(f"text {number} has no mask; write {own} where one is")
        return rows

    def classified(self, rows: Sequence[Row]) -> list[Classified]:
        """What the classifier says of rows that `rows` gave."""
        classifier = self.need_classifier()
        head, problem = classifier.head, classifier.problem
        scores = self._run(rows, functools.partial(_classified, self.model, head, problem))
        return [self._said(row, len(ids)) for row, (ids, _) in zip(scores, rows, strict=True)]

    def embedded(self, rows: Sequence[Row]) -> list[Embedded]:
        """The vectors of rows that `rows` gave."""
        vectors = self._run(rows, functools.partial(_embedded, self.model, self.pooling))
        return [Embedded(vector, len(ids)) for vector, (ids, _) in zip(vectors, rows, strict=True)]

    def filled(self, rows: Sequence[Row], top: int = 5) -> list[Filled]:
        """What stands behind the masks of rows that `masked_rows` gave."""
        mask = self.need_mask()
        places = [np.flatnonzero(ids == mask).astype(np.int32) for ids, _ in rows]
        run = functools.partial(_filled, self.model, self.masked_lm, bucket(top, 4), self.tokenizer.vocab_size)
        found = self._run(rows, run, places)
        return [
            self._candidates(ids, of_row, probabilities[:, :top], token_ids[:, :top])
            for (ids, _), of_row, (probabilities, token_ids) in zip(rows, places, found, strict=True)
        ]

    def _said(self, scores: np.ndarray, tokens: int) -> Classified:
        classifier = self.need_classifier()
        named = {label: float(score) for label, score in zip(classifier.labels, scores, strict=True)}
        one = classifier.problem == "single_label_classification"
        return Classified(classifier.labels[int(np.argmax(scores))] if one else None, named, tokens)

    def _candidates(self, ids: np.ndarray, places: np.ndarray, probabilities: np.ndarray, found: np.ndarray) -> Filled:
        # Pieces of the whole row, so that a text is decoded as one with its spaces where they belong.
        best = ids.copy()
        best[places] = found[: len(places), 0]
        masks = tuple(
            tuple(
                Candidate(token, self.tokenizer.decode([number]), float(probability))
                for token, number, probability in zip(self.tokenizer.tokens(of_mask), of_mask, chances, strict=True)
            )
            for of_mask, chances in zip(found[: len(places)].tolist(), probabilities, strict=False)
        )
        return Filled(masks, self.tokenizer.decode(best), len(ids))

    def _has(self) -> str:
        heads = ", ".join(f"{name} ({head.kind})" for name, head in self.model.heads) or "no head"
        return f"it is of family {self.model.config.family.replace('_', '-')}, with {heads}"

    def _run(
        self, rows: Sequence[Row], run: Callable[..., Any], places: Sequence[np.ndarray] | None = None
    ) -> list[Any]:
        """What `run` computes for each row, in batches of like lengths."""
        order = np.argsort([len(ids) for ids, _ in rows], kind="stable")
        result: dict[int, Any] = {}
        for start in range(0, len(order), self.batch_size):
            numbers = [int(number) for number in order[start : start + self.batch_size]]
            arrays = self._arrays([rows[number] for number in numbers])
            if places is not None:
                of_rows = [places[number] for number in numbers]
                of_rows += of_rows[:1] * (len(arrays["token_ids"]) - len(of_rows))
                arrays["places"] = padded(of_rows, bucket(max(map(len, of_rows)), 1), 0)
            placed = arrays if self._mesh is None else put_whole_batch(arrays, self._mesh)
            with contextlib.nullcontext() if self._mesh is None else jax.set_mesh(self._mesh):
                found = host_copies(run(self._parameters, placed))
            for row, number in enumerate(numbers):
                result[number] = jax.tree.map(lambda x, row=row: x[row], found)
        return [result[number] for number in range(len(rows))]

    def _arrays(self, rows: Sequence[Row]) -> dict[str, np.ndarray]:
        """A batch; rows that fill it up are copies of the first."""
        count = bucket(len(rows), 1)
        if self._mesh is not None:
            count = -(-count // batch_shards(self._mesh)) * batch_shards(self._mesh)
        rows = [*rows, *[rows[0]] * (count - len(rows))]
        width = min(bucket(max(len(ids) for ids, _ in rows)), self.layout.longest)
        ones = [np.ones(len(ids), np.int32) for ids, _ in rows]
        return {
            "token_ids": padded([ids for ids, _ in rows], width, self.tokenizer.pad_id),
            "segment_ids": padded(ones, width, 0),
            "token_types": padded([types for _, types in rows], width, 0),
        }


def _parts(text: str, own: str) -> list[Part]:
    """A text cut at its masks."""
    parts, rest = [], text
    while rest:
        places = [(rest.find(mask), mask) for mask in (own, *MASKS) if mask in rest]
        if not places:
            break
        place, mask = min(places)
        parts += [Part(rest[:place]), Part(own, template=True)]
        rest = rest[place + len(mask) :]
    return [*parts, Part(rest)]


# A batch of rows, by name.
Arrays = dict[str, jax.Array]


def _apply(model: Model, parameters: Parameters, arrays: Arrays, head: str | None) -> ModelOutput:
    inputs = Sequences(arrays["token_ids"], arrays["segment_ids"], token_types=arrays["token_types"], padded=True)
    return apply_model(model, parameters, inputs, None, head, arrays.get("places"))


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _classified(model: Model, head: str, problem: Problem, parameters: Parameters, arrays: Arrays) -> jax.Array:
    """Float32 `(batch, labels)`."""
    logits = _apply(model, parameters, arrays, head).logits
    if problem == "regression":
        return logits
    return jax.nn.sigmoid(logits) if problem == "multi_label_classification" else jax.nn.softmax(logits, axis=-1)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _embedded(model: Model, pooling: Pooling, parameters: Parameters, arrays: Arrays) -> jax.Array:
    """Float32 `(batch, features)`."""
    hidden = _apply(model, parameters, arrays, None).hidden
    return pooling(hidden, arrays["segment_ids"]).astype(jnp.float32)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _filled(
    model: Model, head: str, top: int, vocab: int, parameters: Parameters, arrays: Arrays
) -> tuple[jax.Array, jax.Array]:
    """Probabilities and ids of the likeliest tokens, both `(batch, places, top)`."""
    logits = _apply(model, parameters, arrays, head).logits.astype(jnp.float32)
    # Rows of the vocabulary after the tokenizer's stand for nothing.
    logits = jnp.where(jnp.arange(logits.shape[-1]) < vocab, logits, -jnp.inf)
    return jax.lax.top_k(jax.nn.softmax(logits, axis=-1), min(top, vocab))
