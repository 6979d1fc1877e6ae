"""The divergence from the start: torch's, over every real prediction once, and nothing at the start itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from support.drawn import draw_parameters
from support.two_heads import MaskedLMWithoutText, make_batches, objectives, small_model

from jaxft.errors import RecipeError
from jaxft.models.config import ModelConfig
from jaxft.models.model import Model
from jaxft.models.transformer import Sequences
from jaxft.objectives.image_classification import ImageClassificationConfig
from jaxft.objectives.objective import ObjectiveContext, StreamLoss
from jaxft.objectives.registry import make_objective
from jaxft.training.start_divergence import HeldToStart, divergence
from jaxft.training.step import bind

NAMES = ("task", "replay")


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def start(model):
    return draw_parameters(model, 0)


@pytest.fixture(scope="module")
def now(model):
    return draw_parameters(model, 1)


@pytest.fixture(scope="module")
def losses(model):
    """By stream, a compiled function from parameters, those at the start and a weight to sums, and its gradient."""

    def of(name):
        def loss(parameters, origin, weight):
            part = HeldToStart(objectives()[name], weight).loss(
                bind(model, parameters, origin=origin), make_batches(0)[name]
            )
            return part.loss, part

        return jax.jit(jax.value_and_grad(loss, has_aux=True, argnums=(0, 1)))

    return {name: of(name) for name in NAMES}


def kl(start_logits, now_logits) -> np.ndarray:
    """Of each row, by torch."""
    one, two = (torch.log_softmax(torch.tensor(np.asarray(x)), -1) for x in (now_logits, start_logits))
    return torch.nn.functional.kl_div(one, two, reduction="none", log_target=True).sum(-1).numpy()


def test_the_divergence_is_torchs():
    generator = np.random.default_rng(0)
    one, two = (3 * generator.normal(size=(5, 7)).astype(np.float32) for _ in range(2))
    np.testing.assert_allclose(divergence(jnp.asarray(one), jnp.asarray(two)), kl(one, two), rtol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_at_the_start_there_is_none_and_it_pulls_nowhere(losses, start, name):
    (_, part), (gradient, _) = losses[name](start, start, 5.0)
    (_, plain), (wanted, _) = losses[name](start, start, 0.0)
    assert abs(float(part.ratios["divergence"].sum)) < 1e-5 and part.loss == pytest.approx(float(plain.loss), rel=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-4), gradient, wanted)


@pytest.mark.parametrize("name", NAMES)
def test_the_weight_scales_a_mean_divergence_beside_the_mean_loss(losses, start, now, name):
    (_, plain), (none, _) = losses[name](now, start, 0.0)
    (_, once), (one, of_origin) = losses[name](now, start, 1.0)
    (_, thrice), (three, _) = losses[name](now, start, 3.0)
    mean = float(once.ratios["divergence"].sum / once.ratios["divergence"].weight)
    assert mean > 0.01
    assert float((once.loss - plain.loss) / plain.weight) == pytest.approx(mean, rel=1e-4)
    assert float((thrice.loss - plain.loss) / plain.weight) == pytest.approx(3 * mean, rel=1e-4)
    # The gradient too, and none of it reaches the start.
    for a, b, c in zip(*(jax.tree.leaves(tree) for tree in (none, one, three)), strict=True):
        np.testing.assert_allclose(c - a, 3 * (b - a), rtol=1e-3, atol=1e-4)
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(of_origin))


def test_a_classifier_is_compared_in_its_real_rows(model, losses, start, now):
    batch = make_batches(0)["task"]
    (_, part), _ = losses["task"](now, start, 1.0)
    logits = [np.asarray(objectives()["task"].outputs(bind(model, own), batch)["logits"]) for own in (start, now)]
    wanted = (kl(*logits) * batch["row_weight"]).sum() / batch["row_weight"].sum()
    ratio = part.ratios["divergence"]
    assert float(ratio.sum / ratio.weight) == pytest.approx(wanted, rel=1e-4)


def test_predicted_tokens_are_compared_once_each_and_not_at_padding(model, losses, start, now):
    batch = make_batches(0)["replay"]
    (_, part), _ = losses["replay"](now, start, 1.0)
    places = {(row, int(place)) for row, own in enumerate(batch["gather"]) for place in own}
    places = [(row, place) for row, place in places if batch["segment_ids"][row, place]]
    assert len(places) < batch["gather"].size  # some repeat
    sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
    logits = [np.asarray(bind(model, own)(sequences, head="masked_lm").logits) for own in (start, now)]
    wanted = [kl(logits[0][place], logits[1][place]) for place in places]
    ratio = part.ratios["divergence"]
    assert float(ratio.weight) == len(places)
    assert float(ratio.sum / ratio.weight) == pytest.approx(np.mean(wanted), rel=1e-4)


def test_an_objective_without_predictions_is_refused(model, start):
    class Silent(MaskedLMWithoutText):
        kind = "silent"

        def loss(self, apply, batch):
            return StreamLoss(jnp.float32(0), jnp.float32(1), jnp.float32(0), {})

    with pytest.raises(RecipeError, match="silent makes no prediction"):
        HeldToStart(Silent(), 1.0).loss(bind(model, start, origin=start), make_batches(0)["task"])


def test_images_are_held_by_what_is_said_of_each():
    """Their rows have no tokens: the divergence is over whole images, those of padding left out."""
    config = ModelConfig(family="vision", image_size=8, patch_size=4, channels=1, embed_dim=16, num_heads=2, mlp_dim=32)
    objective = make_objective(
        ImageClassificationConfig(labels=("a", "b", "c")), ObjectiveContext(None, config, "task")
    )
    vision = Model(config, tuple(objective.heads.items()))
    start, now = (draw_parameters(vision, seed) for seed in (0, 1))
    generator = np.random.default_rng(0)
    pixels, label = generator.integers(0, 256, (3, 1, 8, 8), np.uint8), np.array([0, 2, 1], np.int32)
    rows = {"pixels": pixels, "label": label, "row_weight": np.array([1, 1, 0], np.float32)}
    batch = jax.tree.map(jnp.asarray, rows)
    part = HeldToStart(objective, 2.0).loss(bind(vision, now, origin=start), batch)
    logits = [objective.outputs(bind(vision, one), batch)["logits"] for one in (start, now)]
    assert float(part.ratios["divergence"].sum) == pytest.approx(kl(*logits)[:2].sum(), rel=1e-4)
    assert float(part.ratios["divergence"].weight) == 2
