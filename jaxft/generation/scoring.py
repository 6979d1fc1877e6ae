"""How likely a model finds given continuations: for multiple choice, perplexities and comparisons."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from jaxft.errors import DataError
from jaxft.generation.config import SpecialTokens
from jaxft.generation.decoder import Decoder
from jaxft.generation.loop import Likeliest
from jaxft.generation.prompts import bucket, context_of, padded
from jaxft.models.model import apply_model
from jaxft.models.transformer import Sequences
from jaxft.parallel.mesh import batch_shards
from jaxft.parallel.sharding import host_copies, put_whole_batch
from jaxft.parallel.trees import Parameters


@dataclasses.dataclass(frozen=True)
class Score:
    """Of one continuation.

    Attributes:
      log_probabilities: float32 `(tokens,)`: of each token after those before it, natural logarithms.
      greedy: bool `(tokens,)`: whether the token was the likeliest.
      likeliest: the likeliest tokens at each place, int32 `(tokens, count)`, and their log-probabilities, float32
        `(tokens, count)`; None where nobody asked.
    """

    log_probabilities: np.ndarray
    greedy: np.ndarray
    likeliest: tuple[np.ndarray, np.ndarray] | None = None

    @property
    def log_probability(self) -> float:
        """Of the whole continuation."""
        return float(self.log_probabilities.sum(dtype=np.float64))

    @property
    def perplexity(self) -> float:
        """Of its tokens; infinite where that is beyond any number."""
        mean = -self.log_probability / len(self.log_probabilities)
        return math.exp(mean) if mean < 700 else math.inf

    @property
    def is_greedy(self) -> bool:
        """Whether greedy decoding would write it."""
        return bool(self.greedy.all())


def score_pairs(
    decoder: Decoder,
    parameters: Parameters,
    contexts: Sequence[np.ndarray],
    continuations: Sequence[np.ndarray],
    special: SpecialTokens,
    batch_size: int,
    mesh: jax.sharding.Mesh | None,
    top: int = 0,
) -> list[Score]:
    """Scores each continuation after its context; see `Generator.score`."""
    pairs = list(zip(contexts, continuations, strict=True))
    for number, pair in enumerate(pairs, 1):
        _check(number, *pair, decoder, special)
    order = np.argsort([len(context) + len(continuation) for context, continuation in pairs], kind="stable")
    scores: dict[int, Score] = {}
    for start in range(0, len(order), batch_size):
        numbers = [int(number) for number in order[start : start + batch_size]]
        arrays = _arrays([pairs[number] for number in numbers], decoder, special, mesh)
        placed = arrays if mesh is None else put_whole_batch(arrays, mesh)
        logs, greedy, *likely = host_copies(_score(decoder, parameters, placed, top))
        for row, number in enumerate(numbers):
            length = len(pairs[number][1])
            likeliest = (likely[0][row, :length], likely[1][row, :length]) if top else None
            scores[number] = Score(logs[row, :length], greedy[row, :length], likeliest)
    return [scores[number] for number in range(len(pairs))]


def _check(
    number: int, context: np.ndarray, continuation: np.ndarray, decoder: Decoder, special: SpecialTokens
) -> None:
    config, most = decoder.model.config, context_of(decoder.model.config)
    if not len(continuation):
        raise DataError(f"continuation {number} is empty; give it at least one token")
    if not len(context):
        raise DataError(f"context {number} is empty; give it at least one token, such as the model's start token")
    both = np.concatenate([context, continuation])
    if both.min() < 0 or both.max() >= config.vocab_size:
        raise DataError(f"pair {number} has a token id outside of the vocabulary of {config.vocab_size}")
    if most is None:
        return
    read = len(special.start) + len(continuation) - 1 if decoder.has_encoder else len(both) - 1
    if read > most or (decoder.has_encoder and len(context) > most):
        raise DataError(f"pair {number} has {len(both)} tokens, more than the model's context of {most} holds")


def _arrays(
    pairs: Sequence[tuple[np.ndarray, np.ndarray]],
    decoder: Decoder,
    special: SpecialTokens,
    mesh: jax.sharding.Mesh | None,
) -> dict[str, np.ndarray]:
    """A batch: what is read, the places whose next tokens are asked for, and these tokens."""
    count = bucket(len(pairs), 1)
    if mesh is not None:
        count = -(-count // batch_shards(mesh)) * batch_shards(mesh)
    pairs = [*pairs, *[pairs[0]] * (count - len(pairs))]
    targets = [np.asarray(continuation, np.int32) for _, continuation in pairs]
    before = [special.start if decoder.has_encoder else context for context, _ in pairs]
    joined = map(np.concatenate, zip(before, targets, strict=True))
    read = [row[:-1].astype(np.int32) for row in joined]
    places = [np.arange(len(start) - 1, len(row)) for start, row in zip(before, read, strict=True)]
    asked = bucket(max(map(len, targets)), 1)
    arrays = {
        "token_ids": padded(read, bucket(max(map(len, read))), special.pad),
        "lengths": np.asarray([len(row) for row in read], np.int32),
        "places": padded(places, asked, 0),
        "targets": padded(targets, asked, 0),
    }
    if decoder.has_encoder:
        sources = [np.asarray(context, np.int32) for context, _ in pairs]
        arrays["source_ids"] = padded(sources, bucket(max(map(len, sources))), special.pad)
        arrays["source_lengths"] = np.asarray([len(source) for source in sources], np.int32)
    return arrays


@functools.partial(jax.jit, static_argnames=("decoder", "top"))
def _score(decoder: Decoder, parameters: Parameters, arrays: dict[str, jax.Array], top: int) -> tuple[jax.Array, ...]:
    """Log-probabilities and whether they are the highest, `(batch, asked)`; and the `top` likeliest with theirs."""
    read = Sequences(
        arrays["token_ids"], _real(arrays["token_ids"], arrays["lengths"]), causal=None if decoder.has_encoder else True
    )
    inputs, targets = read, None
    if decoder.has_encoder:
        source = arrays["source_ids"]
        inputs, targets = Sequences(source, _real(source, arrays["source_lengths"])), read
    output = apply_model(decoder.model, parameters, inputs, targets, decoder.head, arrays["places"])
    wanted = arrays["targets"][..., None]
    by_model = jax.nn.log_softmax(output.logits)
    logs = jnp.take_along_axis(by_model, wanted, axis=-1)[..., 0]
    found = logs, jnp.argmax(output.logits, axis=-1) == arrays["targets"]
    if not top:
        return found
    likeliest = Likeliest.of(by_model, top)
    return *found, likeliest.token_ids, likeliest.log_probabilities


def _real(token_ids: jax.Array, lengths: jax.Array) -> jax.Array:
    return (jnp.arange(token_ids.shape[1]) < lengths[:, None]).astype(jnp.int32)
