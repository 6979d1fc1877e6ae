"""Causal language modelling: the next token within a document, never across; the same loss however it is cut."""

from __future__ import annotations

import functools
import itertools
import math

import jax
import numpy as np
import pytest
from handmade import model_for, read, record_of, row_of, stacked, texts, whole_pass, without
from support.drawn import draw_parameters
from support.settings import setting_of

from jaxft.data.store import BYTES, TOKENS, cut
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.training.step import bind

LENGTH = 32


def make(tokenizer, length=LENGTH, family="decoder") -> CausalLM:
    return CausalLM(CausalLMConfig(), setting_of(tokenizer, length, family=family))


@pytest.fixture(scope="module")
def headless(tokenizer):
    """The tokenizer without a start token, as many decoders' are."""
    return without(tokenizer, "start_id")


@pytest.fixture(scope="module")
def run(tokenizer):
    """A compiled function from family and batch to the StreamLoss of a model of drawn parameters."""

    @functools.cache
    def compiled(family):
        objective = make(tokenizer, family=family).for_evaluation()
        model = model_for(objective, family=family, max_length=LENGTH)
        parameters = draw_parameters(model)
        return jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))

    return lambda family, batch: jax.device_get(compiled(family)(batch))


# --- Rows ---


@pytest.mark.parametrize("name", ["tokenizer", "headless"])
def test_labels_are_the_next_tokens_of_the_same_document(name, request):
    tokenizer = request.getfixturevalue(name)
    objective = make(tokenizer)
    start = [] if tokenizer.start_id is None else [tokenizer.start_id]
    parts = texts(tokenizer, 9, 1, 12)
    row = row_of(objective, *map(record_of, parts))
    for segment, part in enumerate(parts, 1):
        inside = row["segment_ids"] == segment
        whole = [*start, *part.tolist(), tokenizer.separator_id]
        assert row["token_ids"][inside].tolist() == whole[:-1]
        assert row["labels"][inside].tolist() == whole[1:]
        assert row["positions"][inside].tolist() == list(range(len(whole) - 1))
    assert row["label_weights"].tolist() == (row["segment_ids"] > 0).tolist()
    assert row["segment_ids"].tolist() == sorted(row["segment_ids"].tolist(), key=lambda i: (i == 0, i))


def test_the_end_is_predicted_only_where_the_document_ends(tokenizer):
    objective = make(tokenizer)
    (text,) = texts(tokenizer, 40)
    pieces = [cut({TOKENS: text}, start, stop) for start, stop in ((0, 13), (13, 27), (27, 40))]
    row = row_of(objective, pieces[0], pieces[1])
    ends = row["labels"] == tokenizer.separator_id
    assert ends.sum() == 2 and not row["label_weights"][ends].any()
    assert row["label_weights"].sum() == 13 + 14
    last = row_of(objective, pieces[2])
    assert last["label_weights"].sum() == 14
    # All pieces together predict every token once.
    predicted = [i for one in (row, last) for i in one["labels"][one["label_weights"] > 0].tolist()]
    assert predicted == [*text.tolist(), tokenizer.separator_id]


def test_a_row_can_be_full(tokenizer, headless):
    for one, longest in ((tokenizer, LENGTH - 1), (headless, LENGTH)):
        objective = make(one)
        assert objective.longest == longest
        row = row_of(objective, record_of(*texts(one, longest)))
        assert (row["segment_ids"] == 1).all() and row["labels"][-1] == one.separator_id


# --- The loss ---


def batch_of(tokenizer, *sizes, seed=0):
    return stacked([row_of(make(tokenizer), *map(record_of, texts(tokenizer, *sizes, seed=seed)))])


@pytest.mark.parametrize("family", ["decoder", "encoder"])
def test_a_document_depends_neither_on_others_nor_on_what_comes_later(run, tokenizer, family):
    """An encoder reads from left to right in this objective too."""
    batch = batch_of(tokenizer, 8, 9, 7)
    inside = batch["segment_ids"][0] == 2

    def loss(place: int | None, changed=None):
        """Of one place, or of all those of the second document, with the tokens changed at some places."""
        counted = inside if place is None else np.arange(LENGTH) == place
        ids = (
            batch["token_ids"]
            if changed is None
            else np.where(changed, batch["token_ids"] % 290 + 7, batch["token_ids"])
        )
        weights = counted[None].astype(np.float32)
        return float(run(family, {**batch, "token_ids": ids.astype(np.int32), "label_weights": weights}).loss)

    assert loss(None, ~inside) == loss(None)
    places = np.flatnonzero(inside)
    for place in places[[0, 4, -1]]:
        later = np.arange(LENGTH) > place
        assert loss(place, later) == loss(place)
        assert loss(place, np.arange(LENGTH) == place) != loss(place)
        if place > places[0]:
            assert loss(place, np.arange(LENGTH) == places[0]) != loss(place)


def test_packed_is_unpacked(run, tokenizer):
    objective = make(tokenizer)
    sizes = np.random.default_rng(0).integers(1, 50, 20).tolist()
    records = [record_of(text) for text in texts(tokenizer, *sizes)]
    packed, unpacked = (whole_pass(objective, records, pack=pack) for pack in (True, False))
    assert len(packed["row_weight"]) < 0.9 * len(unpacked["row_weight"])
    one, other = run("decoder", packed), run("decoder", unpacked)
    # Every token of every document, and its end, once.
    assert one.weight == other.weight == sum(sizes) + len(sizes)
    assert one.tokens == other.tokens
    assert one.loss == pytest.approx(float(other.loss), rel=2e-5)
    assert one.ratios["accuracy"].sum == other.ratios["accuracy"].sum


def test_a_fresh_model_knows_nothing(make_model, tokenizer):
    objective = make(tokenizer)
    model, parameters = make_model(objective, family="decoder", max_length=LENGTH)
    part = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))(batch_of(tokenizer, 10, 18))
    assert part.loss / part.weight == pytest.approx(math.log(tokenizer.vocab_size), rel=0.02)
    assert set(part.ratios) == {"accuracy"}  # bits are for evaluation


@pytest.mark.parametrize("pack", [True, False])
def test_bits_are_counted_per_byte_of_the_text_however_it_is_split(run, tokenizer, addresses, pack):
    objective = make(tokenizer)
    written = [addresses[0][:700], "Was Ü — naïve?", addresses[1][:55], "國破山河在。"]
    records = [read(objective, text=text) for text in written]
    assert [record[BYTES] for record in records] == [len(text.encode()) for text in written]
    assert max(len(record[TOKENS]) for record in records) > 5 * LENGTH
    batch = whole_pass(objective, records, pack=pack)
    part = run("decoder", batch)
    bits = part.ratios["bits_per_byte"]
    assert bits.weight == pytest.approx(sum(len(text.encode()) for text in written), rel=1e-6)
    assert bits.sum == pytest.approx(float(part.loss) / math.log(2), rel=1e-6)
    # Rows that do not count have neither loss nor bytes.
    half = np.arange(len(batch["row_weight"])) % 2 == 0
    parts = [run("decoder", {**batch, "row_weight": weight.astype(np.float32)}) for weight in (half, ~half)]
    for name in ("sum", "weight"):
        both = sum(float(getattr(one.ratios["bits_per_byte"], name)) for one in parts)
        assert both == pytest.approx(float(getattr(bits, name)), rel=1e-5)


def test_the_loss_is_the_cross_entropy_of_the_labels(tokenizer):
    objective = make(tokenizer)
    model = model_for(objective, layers=1, family="decoder", max_length=LENGTH)
    parameters = draw_parameters(model)
    batch = batch_of(tokenizer, 7, 20)

    def both(batch):
        apply = bind(model, parameters)
        return objective.loss(apply, batch), apply(objective.sequences(batch), head="causal_lm").logits

    part, logits = jax.device_get(jax.jit(both)(batch))
    logits = logits[0].astype(np.float64)
    normal = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    total = -sum(
        normal[place, label] for place, label in enumerate(batch["labels"][0]) if batch["label_weights"][0, place]
    )
    assert part.loss == pytest.approx(total, rel=1e-5) and part.weight == 7 + 20 + 2


def test_documents_are_read_whole_from_their_column(tokenizer):
    objective = CausalLM(CausalLMConfig(text="body"), setting_of(tokenizer, LENGTH, family="decoder"))
    record = read(objective, body="We the People")
    assert record[TOKENS].tolist() == tokenizer.encode(["We the People"])[0].tolist() and record[BYTES] == 13
    names = [one.record_options() for one in (objective, make(tokenizer))]
    assert len(set(itertools.chain(names))) == 2
