"""Batches: a pure function of seed and step, the same however they are asked for, and nothing lost or doubled."""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter

import numpy as np
import pytest
from support.settings import setting_of

from jaxft.data.batches import StreamBatches, example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import TOKENS, Fields
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig

LENGTH = 48
WORDS = [
    "we",
    "hold",
    "these",
    "truths",
    "to",
    "be",
    "self",
    "evident",
    "that",
    "all",
    "men",
    "are",
    "created",
    "equal",
]


@pytest.fixture(scope="module")
def store(tmp_path_factory, tokenizer):
    """53 texts of 1 to 40 words, each with its number."""
    rng = np.random.default_rng(0)
    texts = [" ".join(rng.choice(WORDS, rng.integers(1, 41))) for _ in range(53)]

    def rows():
        return (Row({"text": text, "number": i}, f"texts.jsonl:{i + 1}") for i, text in enumerate(texts))

    def fields(row: Row) -> Fields:
        return Fields({TOKENS: row.values["text"]}, {"number": row.values["number"]})

    return open_or_build(tmp_path_factory.mktemp("stores") / "a", rows, fields, tokenizer, "streams.task")


def make_row(records, keys):
    """Tokens side by side, where each came from, and a random number for each text."""
    tokens = np.concatenate([record[TOKENS] for record in records])
    numbers = [record["number"] for record in records]
    draws = [key.random() for key in keys]
    pad = lambda values, fill: np.pad(np.asarray(values), (0, LENGTH - len(values)), constant_values=fill)  # noqa: E731
    return {"tokens": pad(tokens, -1), "numbers": pad(numbers, -1), "draws": pad(draws, -1.0)}


def batches_of(store, batch_size=5, seed=0, *, pack=False, shuffle=True, **options) -> StreamBatches:
    plan = plan_rows(
        store.lengths, LENGTH, LENGTH - 0, lambda sizes: sizes + 0, pack=pack, truncate=not pack, seed=seed
    )
    return StreamBatches(store, plan, make_row, batch_size, seed, shuffle, **options)


def same(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


def joined(parts):
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize("pack", [False, True])
def test_asked_again_in_any_order_and_by_another_object(store, pack):
    steps = range(30)
    batches = batches_of(store, pack=pack)
    first = [batches.batch(step) for step in steps]
    for step in np.random.default_rng(1).permutation(30):
        assert same(batches.batch(int(step)), first[step])
    assert same(batches_of(store, pack=pack).batch(29), first[29])


@pytest.mark.parametrize("pack", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_the_parts_of_all_processes_make_up_the_padded_batch(store, pack, parts):
    batches = batches_of(store, 8, pack=pack)
    size = 8 // parts
    for number in range(batches.final_batches()):
        cut = [batches.padded_batch(number, slice(i * size, (i + 1) * size)) for i in range(parts)]
        assert same(joined(cut), batches.padded_batch(number))


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("batch_size", [1, 5, 53, 16])
def test_each_epoch_holds_each_row_once_also_where_it_ends_within_a_batch(store, batch_size, shuffle):
    batches = batches_of(store, batch_size, shuffle=shuffle)
    rows = batches.rows
    assert rows == 53
    epochs = 4
    order = np.concatenate([batches.batch(step)["numbers"][:, 0] for step in range(-(-epochs * rows // batch_size))])
    for epoch in range(epochs):
        assert sorted(order[epoch * rows : (epoch + 1) * rows]) == list(range(53)), epoch


def test_each_epoch_of_packed_rows_holds_each_token_once(store):
    batches = batches_of(store, 4, pack=True)
    wanted = Counter(itertools.chain.from_iterable(record[TOKENS].tolist() for record in store.read(list(range(53)))))
    rows = np.concatenate([batches.batch(step)["tokens"] for step in range(2 * batches.rows // 4 + 2)])
    for epoch in range(2):
        found = Counter(rows[epoch * batches.rows : (epoch + 1) * batches.rows].ravel().tolist())
        del found[-1]
        assert found == wanted


def test_rows_hold_the_tokens_of_their_record(store):
    batch = batches_of(store, 20).batch(1)
    for tokens, numbers in zip(batch["tokens"], batch["numbers"], strict=True):
        wanted = store.read([int(numbers[0])])[0][TOKENS][:LENGTH]
        assert tokens[: len(wanted)].tolist() == wanted.tolist()
        assert (tokens[len(wanted) :] == -1).all()


def test_epochs_and_seeds_are_shuffled_differently(store):
    order = lambda seed, epoch: batches_of(store, 53, seed).batch(epoch)["numbers"][:, 0]  # noqa: E731
    orders = [order(seed, epoch) for seed in range(3) for epoch in range(3)]
    for one, other in itertools.combinations([*orders, np.arange(53)], 2):
        assert (one == other).sum() < 10


def test_without_shuffling_rows_keep_their_order(store):
    assert batches_of(store, 53, shuffle=False).batch(0)["numbers"][:, 0].tolist() == list(range(53))


@pytest.mark.parametrize("pack", [False, True])
def test_random_choices_belong_to_seed_epoch_and_example_alone(store, pack):
    def draws(batch_size: int, seed: int, epochs: int) -> dict:
        batches = batches_of(store, batch_size, seed, pack=pack)
        if pack:  # the same packing for all seeds, so that rows can be compared
            batches = dataclasses.replace(
                batches,
                plan=plan_rows(store.lengths, LENGTH, LENGTH - 0, lambda sizes: sizes + 0, pack=True, truncate=False),
            )
        rows = [batches.batch(step) for step in range(-(-epochs * batches.rows // batch_size))]
        rows = joined(rows)
        epoch = lambda place: place // batches.rows  # noqa: E731
        return {
            (epoch(place), tuple(rows["numbers"][place]), tuple(rows["tokens"][place])): tuple(rows["draws"][place])
            for place in range(epochs * batches.rows)
        }

    one = draws(5, 0, 2)
    for batch_size in (1, 4, 16):
        assert draws(batch_size, 0, 2) == one
    random = [draw for row in one.values() for draw in row if draw >= 0]
    assert len(set(random)) == len(random)  # so the two epochs have nothing in common
    other = {draw for row in draws(5, 1, 2).values() for draw in row if draw >= 0}
    assert not other & set(random)


@pytest.mark.parametrize("batch_size", [1, 5, 16, 53, 60])
def test_padded_batches_count_every_row_once(store, batch_size):
    batches = batches_of(store, batch_size, shuffle=False)
    passed = [batches.padded_batch(number) for number in range(batches.final_batches())]
    assert all(batch["numbers"].shape[0] == batch_size and batch["row_weight"].dtype == np.float32 for batch in passed)
    whole = joined(passed)
    assert set(whole["row_weight"].tolist()) <= {0.0, 1.0}
    assert whole["numbers"][whole["row_weight"] == 1, 0].tolist() == list(range(53))
    assert sum(batch["row_weight"].any() for batch in passed) == len(passed)  # none is padding alone


def test_training_batches_weigh_every_row(store):
    weights = batches_of(store, 16).batch(3)["row_weight"]
    assert weights.dtype == np.float32 and (weights == 1).all() and len(weights) == 16


def test_generators_are_distinct_and_repeatable():
    names = list(itertools.product((0, 1, 2**31 - 1), (0, 1, 2, 1000), (0, 1, 2, 2**39)))
    draws = [example_generator(*name).integers(2**63) for name in names]
    assert len(set(draws)) == len(names)
    assert draws == [example_generator(*name).integers(2**63) for name in names]


def test_generators_of_neighbours_are_independent():
    """Means of the first draws of consecutive examples, epochs and seeds lie where those of independent ones do."""
    for names in ([(0, 0, i) for i in range(4000)], [(0, i, 0) for i in range(4000)], [(i, 0, 0) for i in range(4000)]):
        draws = np.array([example_generator(*name).random() for name in names])
        assert draws.mean() == pytest.approx(0.5, abs=4 * (1 / 12 / 4000) ** 0.5)
        assert np.corrcoef(draws[1:], draws[:-1])[0, 1] == pytest.approx(0, abs=4 / 4000**0.5)


def test_bytes_of_split_documents_add_up(tokenizer, tmp_path):
    texts = ["Ein längerer Text, " * 20, "короткий"]
    objective = CausalLM(CausalLMConfig(), setting_of(tokenizer, 32))
    rows = [Row({"text": text}, f"t:{i}") for i, text in enumerate(texts)]
    store = open_or_build(tmp_path / "a", lambda: rows, objective.fields, tokenizer, "t")
    plan = plan_rows(store.lengths, 32, objective.longest, objective.room, pack=True, truncate=False)
    batches = StreamBatches(store, plan, objective.make_row, 4, 0, shuffle=False)
    total = sum(
        (batch["bytes"] * batch["row_weight"]).sum()
        for batch in (batches.padded_batch(i) for i in range(batches.final_batches()))
    )
    assert total == pytest.approx(sum(len(text.encode()) for text in texts), rel=1e-6)
