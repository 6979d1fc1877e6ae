"""Contrastive learning: each sentence against all of the batch, two views by dropout, and vectors of length 1."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from handmade import Given, model_for, read, record_of, row_of, stacked, texts
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.data.sources import Row
from jaxft.errors import DataError, InvalidField
from jaxft.models.model import ModelOutput
from jaxft.objectives.contrastive import Contrastive, ContrastiveConfig, unit
from jaxft.objectives.sentence_similarity import SentenceSimilarity, SentenceSimilarityConfig
from jaxft.training.step import bind

LENGTH, WIDTH = 16, 8


def make(tokenizer, **options) -> Contrastive:
    return Contrastive(ContrastiveConfig(**options), setting_of(tokenizer, LENGTH))


def batch_of(objective, count: int, row_weight=None, seed=0):
    sizes = np.random.default_rng(seed).integers(2, LENGTH - 2, count).tolist()
    records = [record_of(text) for text in texts(objective.tokenizer, *sizes, seed=seed)]
    return stacked([row_of(objective, record) for record in records], row_weight)


def of_hidden(hidden) -> Given:
    """A model that gives these hidden states, whatever it reads."""
    return Given(lambda sequences, head: ModelOutput(jnp.asarray(hidden)))


@pytest.fixture(scope="module")
def loss_of():
    """A function from objective, hidden states and batch to the loss."""

    def run(objective, hidden, batch):
        return jax.device_get(jax.jit(lambda hidden, batch: objective.loss(of_hidden(hidden), batch))(hidden, batch))

    return run


def hidden_of(batch, seed=0) -> np.ndarray:
    """Normal numbers for each place of each view."""
    return np.random.default_rng(seed).normal(size=(2 * len(batch["row_weight"]), LENGTH, WIDTH)).astype(np.float32)


# --- The loss ---


@pytest.mark.parametrize("count", [1, 7, 64])
@pytest.mark.parametrize("temperature", [0.05, 1.0])
def test_where_all_vectors_are_the_same_the_loss_is_the_logarithm_of_their_number(
    loss_of, tokenizer, count, temperature
):
    objective = make(tokenizer, temperature=temperature)
    batch = batch_of(objective, count)
    part = loss_of(objective, np.ones((2 * count, LENGTH, WIDTH), np.float32), batch)
    assert part.loss / part.weight == pytest.approx(math.log(count), abs=2e-6 / temperature)
    assert part.ratios["accuracy"].sum == (count == 1)


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
@pytest.mark.parametrize("temperature", [0.05, 0.5])
def test_the_loss_is_the_cross_entropy_of_finding_the_partner(loss_of, tokenizer, pooling, temperature):
    objective = make(tokenizer, pooling=pooling, temperature=temperature)
    batch = batch_of(objective, 9)
    hidden = hidden_of(batch)
    vectors = []
    for row, sizes in zip(hidden.astype(np.float64), (batch["segment_ids"] > 0).sum(-1).ravel(), strict=True):
        vector = {"mean": row[:sizes].mean(0), "first": row[0], "last": row[sizes - 1]}[pooling]
        vectors.append(vector / np.linalg.norm(vector))
    scores = np.array(vectors[0::2]) @ np.array(vectors[1::2]).T / temperature
    losses = [np.log(np.exp(row).sum()) - row[i] for i, row in enumerate(scores)]
    part = loss_of(objective, hidden, batch)
    assert part.loss == pytest.approx(sum(losses), rel=1e-5) and part.weight == 9
    assert part.ratios["accuracy"].sum == sum(row.argmax() == i for i, row in enumerate(scores))
    assert part.tokens == (batch["segment_ids"] > 0).sum()


def test_rows_of_padding_are_nobodys_negatives(loss_of, tokenizer):
    objective = make(tokenizer)
    real = np.array([1, 0, 1, 1, 0, 1], np.float32)
    batch = batch_of(objective, 6, real)
    hidden = hidden_of(batch)
    padded = loss_of(objective, hidden, batch)
    own = {name: value[real > 0] for name, value in batch.items()}
    alone = loss_of(objective, hidden.reshape(6, 2, LENGTH, WIDTH)[real > 0].reshape(-1, LENGTH, WIDTH), own)
    assert padded.loss == pytest.approx(float(alone.loss), rel=1e-6)
    assert padded.weight == alone.weight == 4
    assert padded.ratios["accuracy"].sum == alone.ratios["accuracy"].sum
    gradient = jax.jit(jax.grad(lambda hidden: objective.loss(of_hidden(hidden), batch).loss))(hidden)
    moved = np.abs(gradient).reshape(6, -1).max(1)
    np.testing.assert_array_equal(moved > 0, real > 0)


def test_gradients_are_finite_where_vectors_are_zero_or_equal(tokenizer):
    objective = make(tokenizer)
    batch = batch_of(objective, 4)
    compute = jax.jit(jax.value_and_grad(lambda hidden: objective.loss(of_hidden(hidden), batch).loss))
    for hidden in (np.zeros_like(hidden_of(batch)), np.ones_like(hidden_of(batch)), 1e-30 * hidden_of(batch)):
        loss, gradient = compute(hidden.astype(np.float32))
        assert np.isfinite(loss) and np.isfinite(gradient).all()


def test_vectors_have_length_one():
    vectors = np.random.default_rng(0).normal(size=(50, 7)).astype(np.float32) * np.logspace(-6, 6, 50)[:, None]
    np.testing.assert_allclose(np.linalg.norm(unit(jnp.asarray(vectors, jnp.float32)), axis=-1), 1, rtol=1e-5)
    assert not np.asarray(unit(jnp.zeros((2, 7)))).any()


# --- Views ---


def test_the_views_of_a_sentence_differ_by_dropout_alone(tokenizer):
    objective = make(tokenizer)
    model = model_for(objective, layers=1, dropout=0.1)
    parameters = draw_parameters(model)
    batch = batch_of(objective, 6)
    np.testing.assert_array_equal(batch["token_ids"][:, 0], batch["token_ids"][:, 1])
    compiled = jax.jit(lambda key: objective.vectors(bind(model, parameters, key), batch))
    trained = [np.asarray(compiled(jax.random.key(i))) for i in (0, 0, 1)]
    np.testing.assert_array_equal(trained[0], trained[1])
    assert (trained[0] != trained[2]).any()
    similarity = (trained[0][:, 0] * trained[0][:, 1]).sum(-1)
    assert (similarity < 0.999).all() and (similarity > 0.5).all()
    measured = np.asarray(jax.jit(lambda: objective.outputs(bind(model, parameters), batch)["vectors"])())
    np.testing.assert_array_equal(measured[:, 0], measured[:, 1])


def test_a_pair_is_two_sentences(tokenizer):
    objective = make(tokenizer, text="a", pair="b")
    record = read(objective, a="We were there.", b="There we were, all of us, all the time and for ever.")
    row = row_of(objective, record)
    first, second = (
        ids.tolist()
        for ids in tokenizer.encode(["We were there.", "There we were, all of us, all the time and for ever."])
    )
    start, end = tokenizer.start_id, tokenizer.separator_id
    assert len(second) > LENGTH - 2 > len(first)
    assert row["token_ids"][0].tolist() == [start, *first, end] + [tokenizer.pad_id] * (LENGTH - 2 - len(first))
    assert row["token_ids"][1].tolist() == [start, *second[: LENGTH - 2], end]
    assert row["segment_ids"].sum(1).tolist() == [len(first) + 2, LENGTH]


def test_a_projection_is_for_training_alone(tokenizer):
    objective = make(tokenizer, projection=True)
    plain = make(tokenizer)
    assert list(objective.heads) == ["contrastive"] and not plain.heads
    model = model_for(objective, layers=1)
    parameters = draw_parameters(model)
    batch = batch_of(objective, 5)

    @jax.jit
    def run(parameters):
        apply = bind(model, parameters)
        return (
            objective.loss(apply, batch).loss,
            plain.loss(apply, batch).loss,
            objective.outputs(apply, batch)["vectors"],
        )

    changed = parameters | {"head_contrastive": jax.tree.map(lambda x: 2 * x + 0.1, parameters["head_contrastive"])}
    (loss, without, vectors), (other_loss, other_without, other_vectors) = run(parameters), run(changed)
    assert loss != other_loss and loss != without
    assert without == other_without
    np.testing.assert_array_equal(vectors, other_vectors)


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"temperature": 0.0}, "temperature"),
        ({"negative": "far"}, "negative"),
        ({"pair": "near", "loss": "triplet"}, "loss"),
        ({"pair": "near", "negative": "far", "margin": 0.0}, "margin"),
    ],
)
def test_impossible_values_are_refused(options, field):
    with pytest.raises(InvalidField, match=field):
        ContrastiveConfig(**options)


# --- Hard negatives ---


def with_negatives(tokenizer, count: int, row_weight=None, **options):
    """An objective on triplets, a batch, its hidden states, and the vectors `(batch, 3, width)` by hand."""
    objective = make(tokenizer, pair="near", negative="far", **options)
    parts = [texts(tokenizer, *[size] * count, seed=size) for size in (4, 5, 6)]
    rows = [row_of(objective, record_of(a, pair=b, negative=c)) for a, b, c in zip(*parts, strict=True)]
    batch = stacked(rows, row_weight)
    hidden = np.random.default_rng(1).normal(size=(3 * count, LENGTH, WIDTH)).astype(np.float32)
    sizes = (batch["segment_ids"] > 0).sum(-1).ravel()
    means = torch.tensor(np.array([row[:size].mean(0) for row, size in zip(hidden, sizes, strict=True)]))
    return objective, batch, hidden, torch.nn.functional.normalize(means).reshape(count, 3, WIDTH)


def test_hard_negatives_of_all_rows_are_candidates(tokenizer):
    objective, batch, hidden, vectors = with_negatives(tokenizer, 6, temperature=0.1)
    scores = vectors[:, 0] @ torch.cat([vectors[:, 1], vectors[:, 2]]).T / 0.1
    expected = torch.nn.functional.cross_entropy(scores, torch.arange(6))
    part = objective.loss(of_hidden(hidden), batch)
    assert part.loss / part.weight == pytest.approx(expected.item(), rel=1e-4)
    assert part.ratios["accuracy"].sum == (scores.argmax(-1) == torch.arange(6)).sum().item()
    # Rows of padding are candidates of nobody: as if they were not there.
    padded = {**batch, "row_weight": np.array([1, 1, 1, 1, 0, 0], np.float32)}
    scores = vectors[:4, 0] @ torch.cat([vectors[:4, 1], vectors[:4, 2]]).T / 0.1
    part = objective.loss(of_hidden(hidden), padded)
    assert part.loss / 4 == pytest.approx(torch.nn.functional.cross_entropy(scores, torch.arange(4)).item(), rel=1e-4)


def test_the_triplet_loss_is_torchs_with_cosine_distances(tokenizer):
    objective, batch, hidden, vectors = with_negatives(tokenizer, 8, loss="triplet", margin=0.4)
    loss = torch.nn.TripletMarginWithDistanceLoss(
        distance_function=lambda a, b: 1 - torch.nn.functional.cosine_similarity(a, b), margin=0.4
    )
    part = objective.loss(of_hidden(hidden), batch)
    assert part.loss / part.weight == pytest.approx(loss(*vectors.unbind(1)).item(), rel=1e-4)
    near, far = ((vectors[:, 0] * vectors[:, i]).sum(-1) for i in (1, 2))
    assert part.ratios["accuracy"].sum == (near > far).sum().item() and not objective.whole_batch


def test_a_prediction_is_the_vector_of_the_sentence_alone(tokenizer):
    objective = make(tokenizer, pair="near", negative="far")
    assert dict(objective.unlabelled_fields(Row({"text": "one"}, "a:1")).texts) == {"tokens": "one"}
    batch = stacked([row_of(objective, record_of(text, alone=1)) for text in texts(tokenizer, 4, 5)])
    assert batch["token_ids"].shape == (2, 1, LENGTH)
    outputs = objective.outputs(of_hidden(np.ones((2, LENGTH, WIDTH), np.float32)), batch)
    said = objective.predictions([], jax.device_get(outputs))
    assert [len(one["vector"]) for one in said] == [WIDTH, WIDTH]
    assert np.linalg.norm(said[0]["vector"]) == pytest.approx(1, abs=1e-5)


# --- Similarity ---


def test_similarities_are_cosines_beside_the_given_scores(tokenizer):
    objective = SentenceSimilarity(SentenceSimilarityConfig(), setting_of(tokenizer, LENGTH))
    rows = [("We were there.", "There we were.", 4.5), ("We were there.", "Now.", "1")]
    batch = stacked([row_of(objective, read(objective, sentence1=a, sentence2=b, score=c)) for a, b, c in rows])
    hidden = hidden_of(batch)
    outputs = objective.outputs(of_hidden(hidden), batch)
    sizes = (batch["segment_ids"] > 0).sum(-1).ravel()
    means = [row[:size].mean(0) for row, size in zip(hidden.astype(np.float64), sizes, strict=True)]
    cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in zip(means[0::2], means[1::2], strict=True)]
    np.testing.assert_allclose(outputs["similarity"], cosines, rtol=1e-5)
    assert outputs["score"].tolist() == [4.5, 1.0]
    said = objective.predictions([], outputs)
    assert [one["similarity"] for one in said] == pytest.approx(cosines, abs=1e-6)


def scored(tokenizer, count: int, **options):
    """An objective on similarities, a batch of pairs with scores, hidden states, and their cosines."""
    objective = SentenceSimilarity(SentenceSimilarityConfig(**options), setting_of(tokenizer, LENGTH))
    rng = np.random.default_rng(count)
    rows = []
    for first, second in zip(texts(tokenizer, *[5] * count), texts(tokenizer, *[7] * count, seed=1), strict=True):
        rows.append(row_of(objective, record_of(first, pair=second, score=float(rng.integers(6)))))
    batch = stacked(rows)
    hidden = hidden_of(batch)
    return objective, batch, hidden, objective.outputs(of_hidden(hidden), batch)["similarity"]


def test_the_cosine_loss_is_the_squared_error_of_the_score(tokenizer):
    objective, batch, hidden, cosines = scored(tokenizer, 6, highest=5.0)
    part = objective.loss(of_hidden(hidden), batch)
    expected = torch.nn.functional.mse_loss(torch.tensor(np.asarray(cosines)), torch.tensor(batch["score"] / 5))
    assert part.loss / part.weight == pytest.approx(expected.item(), rel=1e-5)
    assert SentenceSimilarityConfig().completed([0.5, 4.5, 2.0], "x").highest == 4.5
    with pytest.raises(DataError, match="no score above 0"):
        SentenceSimilarityConfig().completed([0.0, -1.0], "streams.task")


def test_cosent_is_the_published_loss_and_knows_nothing_of_padding(tokenizer):
    objective, batch, hidden, cosines = scored(tokenizer, 7, loss="cosent", scale=20.0)
    assert objective.whole_batch

    def by_hand(cosines, scores):
        terms = [
            math.exp(20 * (float(low) - float(high)))
            for i, low in enumerate(cosines)
            for j, high in enumerate(cosines)
            if scores[i] < scores[j]
        ]
        return math.log(1 + sum(terms))

    part = objective.loss(of_hidden(hidden), batch)
    assert part.loss / part.weight == pytest.approx(by_hand(cosines, batch["score"]), rel=1e-4)
    padded = {**batch, "row_weight": np.array([1, 1, 1, 1, 1, 0, 0], np.float32)}
    part = objective.loss(of_hidden(hidden), padded)
    assert part.loss / part.weight == pytest.approx(by_hand(cosines[:5], batch["score"][:5]), rel=1e-4)


@pytest.mark.parametrize("score", ["much", None, "nan", float("inf")])
def test_a_score_that_is_no_number_is_refused(tokenizer, score):
    objective = SentenceSimilarity(SentenceSimilarityConfig(), setting_of(tokenizer, LENGTH))
    with pytest.raises(DataError, match=r"sts\.csv:3.*score"):
        objective.fields(Row({"sentence1": "a", "sentence2": "b", "score": score}, "sts.csv:3"))
