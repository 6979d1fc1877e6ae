"""Replaced-token detection: what the generator may fill, what is called replaced, and where gradients must not go."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from handmade import Given, Listening, assert_drawn, assert_share, model_for, record_of, row_of, stacked, texts, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.errors import InvalidField, RecipeError
from jaxft.models.model import ModelOutput
from jaxft.objectives.replaced_token import ReplacedToken, ReplacedTokenConfig, sample
from jaxft.training.step import bind

LENGTH = 48
BERT = {"norm_placement": "post", "embedding_norm": True, "final_norm": False, "num_heads": 4}


def make(tokenizer, **options) -> ReplacedToken:
    return ReplacedToken(ReplacedTokenConfig(**options), setting_of(tokenizer, LENGTH, position="learned"))


def batch_of(tokenizer, rows=((40,), (10, 20), (3, 5, 4), (46,)), row_weight=None, **options):
    objective = make(tokenizer, **options)
    made = [
        row_of(objective, *map(record_of, texts(tokenizer, *sizes, seed=i)), seed=i) for i, sizes in enumerate(rows)
    ]
    return objective.balance(stacked(made, row_weight))


def originals(batch) -> np.ndarray:
    """The rows before masking."""
    ids = np.array(batch["token_ids"])
    for row, (places, labels, weights) in enumerate(
        zip(batch["gather"], batch["labels"], batch["label_weights"], strict=True)
    ):
        ids[row, places[weights > 0]] = labels[weights > 0]
    return ids


# --- Rows ---


def test_fifteen_of_a_hundred_are_chosen_and_85_of_these_are_masked(tokenizer):
    objective = make(tokenizer)
    masked = chosen = 0
    for seed in range(300):
        (text,) = texts(tokenizer, 46, seed=seed)
        row = row_of(objective, record_of(text), seed=seed)
        places = row["gather"][row["label_weights"] > 0]
        assert len(places) == round(0.15 * 46)
        assert row["labels"][: len(places)].tolist() == text[places - 1].tolist()
        found = row["token_ids"][places]
        # The others keep their token: none is replaced by a random one.
        assert ((found == tokenizer.mask_id) | (found == text[places - 1])).all()
        masked, chosen = masked + int((found == tokenizer.mask_id).sum()), chosen + len(places)
    assert_share(masked, chosen, 0.85)


# --- Samples ---


def test_samples_follow_the_softmax_and_are_the_same_without_a_key():
    logits = jnp.log(jnp.array([0.5, 0.25, 0.15, 0.1])) + 3.0
    drawn = sample(jnp.broadcast_to(logits, (4000, 4)), jax.random.key(0))
    assert_drawn(np.bincount(drawn, minlength=4), [0.5, 0.25, 0.15, 0.1])
    fixed = [sample(jnp.broadcast_to(logits, (50, 4)), None).tolist() for _ in range(2)]
    assert fixed[0] == fixed[1] and len(set(fixed[0])) > 1
    other = sample(jnp.broadcast_to(logits, (4000, 4)), jax.random.key(1))
    assert (np.asarray(drawn) != np.asarray(other)).any()


@pytest.fixture(scope="module")
def fitted(tokenizer):
    """A model with both heads, of drawn parameters."""
    model = model_for(make(tokenizer), layers=1, max_length=LENGTH, **BERT)
    return model, draw_parameters(model, spread=0.5)


def test_the_generator_reads_the_masked_text_and_fills_chosen_places_alone(tokenizer, fitted):
    model, parameters = fitted
    batch, objective = batch_of(tokenizer, mask_rate=0.3), make(tokenizer)

    @jax.jit
    def heard(key):
        apply = Listening(bind(model, parameters, key))
        objective.loss(apply, batch)
        assert [head for head, _ in apply.heard] == ["generator", "replaced_token"]
        return [ids for _, ids in apply.heard]

    (read, filled), (_, again), (_, other) = (jax.device_get(heard(jax.random.key(i))) for i in (0, 0, 1))
    np.testing.assert_array_equal(read, batch["token_ids"])
    original = originals(batch)
    for row, (places, weights) in enumerate(zip(batch["gather"], batch["label_weights"], strict=True)):
        outside = np.setdiff1d(np.arange(LENGTH), places[weights > 0])
        np.testing.assert_array_equal(filled[row, outside], original[row, outside])
    # Also where the token was not masked, as in the authors' code.
    unmasked = (batch["token_ids"] == original) & (other != original)
    assert unmasked.any()
    np.testing.assert_array_equal(filled, again)
    assert (filled != original).any() and (filled != other).any()


# --- The loss ---


@pytest.fixture(scope="module")
def given_loss(tokenizer):
    """The loss where the generator says the original token, or another where `wrong`; and of given logits `found`."""
    objective = make(tokenizer, discriminator_weight=7.0)

    @jax.jit
    def compiled(batch, wrong, found):
        said = jnp.where(wrong, batch["labels"] % 290 + 7, batch["labels"])
        outputs = {"generator": 1e4 * jax.nn.one_hot(said, tokenizer.vocab_size), "replaced_token": found[..., None]}
        return objective.loss(Given(lambda sequences, head: ModelOutput(None, outputs[head])), batch)

    return objective, lambda *arguments: jax.device_get(compiled(*arguments))


def by_hand(batch, wrong, found):
    """Mean binary cross entropy over real tokens, F1 and accuracy of the replaced ones."""
    loss, counts = [], dict.fromkeys([(said, is_so) for said in (0, 1) for is_so in (0, 1)], 0)
    for row in np.flatnonzero(batch["row_weight"]):
        weighty = batch["label_weights"][row] > 0
        replaced = set(batch["gather"][row][weighty & wrong[row]].tolist())
        for place in np.flatnonzero(batch["segment_ids"][row]):
            logit, is_so = float(found[row, place]), int(place in replaced)
            chance = 1 / (1 + np.exp(-logit))
            loss.append(-np.log(chance if is_so else 1 - chance))
            counts[int(logit > 0), is_so] += 1
    precision = counts[1, 1] / (counts[1, 1] + counts[1, 0])
    recall = counts[1, 1] / (counts[1, 1] + counts[0, 1])
    f1 = 2 * precision * recall / (precision + recall)
    return np.mean(loss), f1, (counts[1, 1] + counts[0, 0]) / sum(counts.values())


@pytest.fixture(scope="module")
def drawn(tokenizer):
    """A batch, where the generator is wrong, and logits of the discriminator."""
    batch, generator = batch_of(tokenizer, row_weight=[1, 1, 0, 1]), np.random.default_rng(0)
    wrong = generator.random(batch["labels"].shape) < 0.6
    return batch, wrong, generator.normal(0, 2, batch["token_ids"].shape).astype(np.float32)


def test_the_discriminator_is_told_what_was_replaced_and_an_equal_sample_was_not(given_loss, drawn):
    (_, compute), (batch, wrong, found) = given_loss, drawn
    part = compute(batch, wrong, found)
    loss, f1, accuracy = by_hand(batch, wrong, found)
    ratios = {name: float(ratio.sum / ratio.weight) for name, ratio in part.ratios.items()}
    assert ratios["discriminator_loss"] == pytest.approx(loss, rel=1e-5)
    assert (ratios["f1"], ratios["accuracy"]) == pytest.approx((f1, accuracy), rel=1e-6)
    # Where each sample is the original token, nothing is replaced.
    part = compute(batch, np.zeros_like(wrong), found)
    assert part.ratios["f1"].sum == 0
    said = found[(batch["segment_ids"] > 0) & (batch["row_weight"][:, None] > 0)]
    assert part.ratios["discriminator_loss"].sum == pytest.approx(np.logaddexp(0, said).sum(), rel=1e-5)
    assert part.ratios["generator_loss"].sum == pytest.approx(0, abs=1e-3)


def test_the_loss_is_a_sum_of_two_means_however_the_batch_is_split(given_loss, drawn):
    objective, compute = given_loss
    whole = compute(*drawn)
    means = {name: float(ratio.sum / ratio.weight) for name, ratio in whole.ratios.items()}
    wanted = means["generator_loss"] + 7.0 * means["discriminator_loss"]
    assert means["generator_loss"] > 1 and whole.loss / whole.weight == pytest.approx(wanted, rel=1e-5)
    assert objective.total(means) == pytest.approx(wanted, rel=1e-6)
    parts = [compute(*jax.tree.map(lambda x, rows=rows: np.asarray(x)[rows], drawn)) for rows in ([0, 2], [1, 3])]
    assert parts[0].ratios["generator_loss"].weight != parts[1].ratios["generator_loss"].weight
    assert sum(float(part.loss) for part in parts) == pytest.approx(float(whole.loss), rel=1e-5)
    # Every token that is not padding counts: two special ones for each text.
    assert sum(float(part.weight) for part in parts) == whole.weight == (40 + 2) + (10 + 20 + 4) + (46 + 2)


# --- Gradients ---


@pytest.fixture(scope="module")
def gradients(tokenizer, fitted):
    """Of the whole loss, and of the sums of each of the two, by name."""
    model, parameters = fitted
    objective, batch = make(tokenizer), batch_of(tokenizer)

    def losses(parameters):
        part = objective.loss(bind(model, parameters, jax.random.key(0)), batch)
        return {"loss": part.loss, **{name: part.ratios[name].sum for name in ("generator_loss", "discriminator_loss")}}

    return batch, jax.device_get(jax.jit(jax.jacrev(losses))(parameters))


def largest(tree) -> float:
    return max(float(np.abs(leaf).max()) for leaf in jax.tree.leaves(tree))


def test_the_discriminators_loss_does_not_reach_the_generator(gradients):
    _, found = gradients
    own, other = found["discriminator_loss"], found["generator_loss"]
    assert largest(own["head_generator"]) == 0.0
    assert largest(other["head_replaced_token"]) == 0.0 and largest(other["trunk"]["body"]) == 0.0
    for part in (own["head_replaced_token"], own["trunk"]["body"], other["head_generator"]):
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(part))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))


def test_shared_embeddings_learn_from_both(gradients):
    batch, found = gradients
    shared = [
        found[name]["trunk"]["embeddings"]["tokens"]["table"] for name in ("generator_loss", "discriminator_loss")
    ]
    assert all(largest(one) > 0 for one in shared)
    tokens, masked = (batch["segment_ids"] > 0).sum(), batch["label_weights"].sum()
    parts = jax.tree.map(
        lambda generator, discriminator: 50.0 * discriminator + tokens / masked * generator,
        found["generator_loss"],
        found["discriminator_loss"],
    )
    for one, other in zip(jax.tree.leaves(parts), jax.tree.leaves(found["loss"]), strict=True):
        np.testing.assert_allclose(other, one, rtol=1e-4, atol=1e-4 * max(np.abs(one).max(), 1e-3))


# --- Refusals and evaluation ---


def test_evaluation_is_the_same_every_time_and_has_its_own_rate(tokenizer, fitted):
    model, parameters = fitted
    objective = make(tokenizer, mask_rate=0.4).for_evaluation()
    batch = batch_of(tokenizer)
    np.testing.assert_array_equal(
        row_of(objective, record_of(np.arange(10, 50)))["token_ids"],
        row_of(make(tokenizer), record_of(np.arange(10, 50)))["token_ids"],
    )
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch).loss)
    assert compiled(batch) == compiled(batch)


def test_what_cannot_be_is_refused(tokenizer):
    with pytest.raises(RecipeError, match="mask token"):
        make(without(tokenizer, "mask_id"))
    for position in ("relative_bias", "disentangled", "transformer_xl"):
        with pytest.raises(RecipeError, match="share the embeddings"):
            ReplacedToken(ReplacedTokenConfig(), setting_of(tokenizer, LENGTH, position=position))
    with pytest.raises(RecipeError, match="encoder, not decoder"):
        ReplacedToken(ReplacedTokenConfig(), setting_of(tokenizer, LENGTH, family="decoder"))
    for options in ({"generator_size": 0.0}, {"generator_size": 1.5}, {"discriminator_weight": 0.0}):
        with pytest.raises(InvalidField):
            ReplacedTokenConfig(**options)
