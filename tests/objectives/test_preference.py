"""Preferences: the losses of the papers, only answers count, and prompts lose their beginning first."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from handmade import model_for, read, record_of, row_of, stacked, texts
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.data.sources import Row
from jaxft.errors import DataError, InvalidField
from jaxft.models.transformer import Sequences
from jaxft.objectives.preference import Preference, PreferenceConfig, preference_loss
from jaxft.training.step import bind

LENGTH = 20


def make(tokenizer, **options) -> Preference:
    return Preference(PreferenceConfig(**options), setting_of(tokenizer, LENGTH, family="decoder"))


@pytest.fixture(scope="module")
def batch(tokenizer):
    """Pairs of answers of several lengths."""
    rows = []
    for number, sizes in enumerate([(4, 3, 6), (7, 5, 2), (2, 2, 2), (9, 4, 4), (3, 9, 5)]):
        prompt, chosen, rejected = texts(tokenizer, *sizes, seed=number)
        rows.append(row_of(make(tokenizer), record_of(chosen, prompt=prompt, rejected=rejected)))
    return stacked(rows)


@pytest.fixture(scope="module")
def model(tokenizer):
    """A decoder with the parameters of now and of the start."""
    built = model_for(make(tokenizer), family="decoder", token_types=0, max_length=LENGTH)
    return built, draw_parameters(built, seed=0), draw_parameters(built, seed=1)


@pytest.fixture(scope="module")
def loss_of(model):
    def run(objective, batch, origin=None):
        built, parameters, start = model
        start = start if origin is None else origin

        def compute(parameters, start, batch):
            return objective.loss(bind(built, parameters, origin=start), batch)

        return jax.device_get(jax.jit(compute)(parameters, start, batch))

    return run


@pytest.fixture(scope="module")
def by_hand(model, batch):
    """Log-probabilities `(batch, 2)` of the answers, now and at the start, in torch from the logits."""
    built, *both = model
    found = []
    for parameters in both:
        rows = batch["token_ids"].reshape(-1, LENGTH)
        segments = batch["segment_ids"].reshape(-1, LENGTH)
        logits = built.apply(
            {"params": parameters}, Sequences(jnp.asarray(rows), jnp.asarray(segments)), head="causal_lm"
        )
        log_p = torch.log_softmax(torch.tensor(np.asarray(logits.logits)), -1)
        sums = []
        for row, answer, own in zip(rows, batch["answer"].reshape(-1, LENGTH), log_p, strict=True):
            sums.append(sum(own[place - 1, row[place]] for place in np.flatnonzero(answer)))
        found.append(torch.stack(sums).reshape(-1, 2))
    return found


@pytest.mark.parametrize("beta", [0.1, 0.5])
@pytest.mark.parametrize("kind", ["dpo", "ipo", "hinge"])
def test_the_loss_is_that_of_the_paper(tokenizer, loss_of, by_hand, batch, kind, beta):
    now, start = by_hand
    logits = (now[:, 0] - now[:, 1]) - (start[:, 0] - start[:, 1])
    expected = {
        "dpo": -torch.nn.functional.logsigmoid(beta * logits),
        "ipo": (logits - 1 / (2 * beta)) ** 2,
        "hinge": torch.relu(1 - beta * logits),
    }[kind]
    part = loss_of(make(tokenizer, loss=kind, beta=beta), batch)
    assert part.loss / part.weight == pytest.approx(expected.mean().item(), rel=1e-4)
    assert part.ratios["accuracy"].sum == (logits > 0).sum().item()
    assert part.ratios["margin"].sum == pytest.approx((beta * logits).sum().item(), rel=1e-4)
    assert 0 < (logits > 0).sum() < 5


def test_at_the_start_nothing_is_preferred(tokenizer, loss_of, model, batch):
    part = loss_of(make(tokenizer), batch, origin=model[1])
    assert part.loss / part.weight == pytest.approx(np.log(2), rel=1e-6)
    assert part.ratios["margin"].sum == 0 and part.ratios["accuracy"].sum == 0


def test_rows_without_weight_count_nothing(tokenizer, loss_of, batch):
    objective = make(tokenizer)
    few = {name: array[:3] for name, array in batch.items()}
    padded = {**batch, "row_weight": np.array([1, 1, 1, 0, 0], np.float32)}
    few, padded = loss_of(objective, few), loss_of(objective, padded)
    assert (few.weight, padded.weight) == (3, 3) and few.loss == pytest.approx(padded.loss, rel=1e-5)


def test_no_gradient_reaches_the_start(tokenizer, model, batch):
    built, parameters, start = model
    objective = make(tokenizer)
    slope = jax.jit(jax.grad(lambda origin: objective.loss(bind(built, parameters, origin=origin), batch).loss))(start)
    assert all((leaf == 0).all() for leaf in jax.tree.leaves(slope))


def test_answers_are_marked_with_their_end(tokenizer):
    objective = make(tokenizer)
    record = record_of([11, 12, 13], prompt=np.array([21, 22], np.int32), rejected=np.array([14], np.int32))
    row = row_of(objective, record)
    start, end, pad = tokenizer.start_id, tokenizer.separator_id, tokenizer.pad_id
    assert row["token_ids"][0].tolist() == [start, 21, 22, 11, 12, 13, end] + [pad] * (LENGTH - 7)
    assert row["token_ids"][1].tolist() == [start, 21, 22, 14, end] + [pad] * (LENGTH - 5)
    assert row["answer"].tolist() == [[0] * 3 + [1] * 4 + [0] * 13, [0] * 3 + [1] * 2 + [0] * 15]
    assert row["segment_ids"].sum(1).tolist() == [7, 5]


@pytest.mark.parametrize("sizes", [(30, 3, 6), (3, 30, 2), (30, 30, 30), (12, 9, 1), (0, 18, 18)])
def test_both_answers_follow_the_same_end_of_a_long_prompt(tokenizer, sizes):
    prompt, *answers = (
        np.arange(base, base + size, dtype=np.int32) for base, size in zip((50, 100, 150), sizes, strict=True)
    )
    objective = make(tokenizer)
    cut = answers[0][: objective.longest]
    rows = row_of(objective, record_of(cut, prompt=prompt, rejected=answers[1]))
    shown = []
    for row, answer in zip(rows["token_ids"], answers, strict=True):
        ids = row[1:].tolist()
        shown.append([i for i in ids if 50 <= i < 100])
        found = [i for i in ids if i >= 100]
        assert found == answer[: len(found)].tolist() and len(found) >= min(len(answer), objective.longest // 2)
    assert shown[0] == shown[1] == prompt[len(prompt) - len(shown[0]) :].tolist()
    used = max(len(one) for one in ([i for i in row.tolist() if i >= 100] for row in rows["token_ids"])) + len(shown[0])
    assert used == min(objective.longest, len(prompt) + max(sizes[1], sizes[2]))


def test_columns_and_template(tokenizer):
    objective = make(tokenizer, template="we {prompt} now", chosen="good", rejected="bad")
    record = read(objective, prompt="why", good="so", bad="no")
    assert tokenizer.decode(record["prompt"]) == "we why now"
    assert tokenizer.decode(record["tokens"]) == "so" and tokenizer.decode(record["rejected"]) == "no"
    with pytest.raises(DataError, match=r"a:1: columns 'good' and 'bad' hold the same answer"):
        objective.fields(Row({"prompt": "why", "good": "so", "bad": "so"}, "a:1"))
    with pytest.raises(DataError, match=r"a:1: there is no column 'bad'"):
        objective.fields(Row({"prompt": "why", "good": "so"}, "a:1"))


@pytest.mark.parametrize("options", [{"beta": 0.0}, {"template": "none"}])
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField):
        PreferenceConfig(**options)


def test_losses_stay_finite_far_from_the_start():
    for kind in ("dpo", "ipo", "hinge"):
        assert jnp.isfinite(preference_loss(jnp.array([1e4, -1e4]), 0.1, kind)).all()
