"""Masked language modelling: how many tokens, which, what becomes of them, and a loss of sums."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import jax
import numpy as np
import pytest
from scipy import stats
from support.settings import setting_of

from jaxft.data.batches import StreamBatches, example_generator
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.data.store import TOKENS
from jaxft.errors import DataError, InvalidField, RecipeError
from jaxft.models.transformer import Sequences
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig
from jaxft.training.step import bind

LENGTH = 64


@pytest.fixture(scope="module")
def tokens(tokenizer, addresses) -> np.ndarray:
    """All tokens of the addresses."""
    return np.concatenate(tokenizer.encode(addresses))


@pytest.fixture(scope="module")
def store(tokenizer, addresses, tmp_path_factory):
    """Sentences of the addresses, of very different lengths."""
    sentences = [s.strip() for text in addresses for s in text.replace("\n", " ").split(". ") if s.strip()][:60]

    def rows():
        return (Row({"text": sentence}, f"sentences:{i + 1}") for i, sentence in enumerate(sentences))

    fields = MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH)).fields
    return open_or_build(tmp_path_factory.mktemp("stores") / "a", rows, fields, tokenizer, "streams.replay")


def pieces(tokens, *sizes, seed=0):
    starts = np.random.default_rng(seed).integers(0, len(tokens) - 64, len(sizes))
    return [tokens[start : start + size] for start, size in zip(starts, sizes, strict=True)]


def row_of(objective, parts, seed=0):
    keys = [example_generator(seed, 0, i) for i in range(len(parts))]
    return objective.make_row([{TOKENS: part} for part in parts], keys)


def predicted(row) -> np.ndarray:
    """Positions with weight; the weights are 1 first and then 0."""
    count = int(row["label_weights"].sum())
    assert row["label_weights"].tolist() == [1.0] * count + [0.0] * (len(row["label_weights"]) - count)
    return row["gather"][:count]


def laid_out(tokenizer, parts, length=LENGTH) -> np.ndarray:
    """The row as it was before corruption."""
    whole = [i for part in parts for i in (tokenizer.start_id, *part.tolist(), tokenizer.separator_id)]
    return np.array(whole + [tokenizer.pad_id] * (length - len(whole)))


@pytest.mark.parametrize("rate", [0.05, 0.15, 0.3, 0.5])
def test_the_exact_number_of_tokens_is_predicted_in_every_piece(tokenizer, tokens, rate):
    objective = MaskedLM(MaskedLMConfig(mask_rate=rate), setting_of(tokenizer, LENGTH))
    for size in range(1, LENGTH - 1):
        row = row_of(objective, pieces(tokens, size), seed=size)
        assert len(predicted(row)) == max(1, round(rate * size)), size
    sizes = (17, 20, 19)
    row = row_of(objective, pieces(tokens, *sizes))
    counts = Counter(row["segment_ids"][predicted(row)].tolist())
    assert [counts[segment] for segment in (1, 2, 3)] == [max(1, round(rate * size)) for size in sizes]


@pytest.mark.parametrize("sizes", [(62,), (20, 18, 10), (1,), (30, 28)])
def test_text_alone_is_predicted_labels_are_the_original_and_nothing_else_changes(tokenizer, tokens, sizes):
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.3), setting_of(tokenizer, LENGTH))
    for seed in range(50):
        parts = pieces(tokens, *sizes, seed=seed)
        row, original = row_of(objective, parts, seed), laid_out(tokenizer, parts)
        places = predicted(row)
        assert len(set(places.tolist())) == len(places) and sorted(places) == places.tolist()
        ends = np.cumsum([size + 2 for size in sizes])
        special = {*ends.tolist(), *(ends - 1).tolist(), 0, *range(ends[-1], LENGTH)}
        assert not special & set(places.tolist())
        assert row["labels"][: len(places)].tolist() == original[places].tolist()
        others = np.setdiff1d(np.arange(LENGTH), places)
        assert row["token_ids"][others].tolist() == original[others].tolist()
        segments = np.concatenate(
            [*(np.full(size + 2, i) for i, size in enumerate(sizes, 1)), np.zeros(LENGTH - ends[-1])]
        )
        assert row["segment_ids"].tolist() == segments.tolist()
        restarting = np.concatenate([*(np.arange(size + 2) for size in sizes), np.zeros(LENGTH - ends[-1])])
        assert row["positions"].tolist() == restarting.tolist()


def test_shapes_and_dtypes_are_fixed(tokenizer, tokens):
    objective = MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH))
    rows = [row_of(objective, pieces(tokens, *sizes)) for sizes in ((1,), (62,), (10, 10, 10))]
    described = [{name: (array.shape, array.dtype) for name, array in row.items()} for row in rows]
    assert described[0] == described[1] == described[2]
    assert all(
        dtype == (np.float32 if name == "label_weights" else np.int32) for name, (_, dtype) in described[0].items()
    )


def fates(objective, tokenizer, tokens, rows: int) -> Counter:
    counts: Counter = Counter()
    for seed in range(rows):
        (part,) = pieces(tokens, 62, seed=seed)
        row = row_of(objective, [part], seed)
        places = predicted(row)
        new, old = row["token_ids"][places], row["labels"][: len(places)]
        counts["masked"] += int((new == tokenizer.mask_id).sum())
        counts["kept"] += int((new == old).sum())
        counts["random"] += int(((new != old) & (new != tokenizer.mask_id)).sum())
        assert not set(new.tolist()) & (tokenizer.special_ids - {tokenizer.mask_id, *old.tolist()})
    return counts


@pytest.mark.parametrize(("masked", "randomized"), [(0.8, 0.1), (1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.4, 0.4)])
def test_predicted_tokens_are_masked_randomized_and_kept_at_their_rates(tokenizer, tokens, masked, randomized):
    config = MaskedLMConfig(mask_rate=0.5, masked=masked, randomized=randomized)
    counts = fates(MaskedLM(config, setting_of(tokenizer, LENGTH)), tokenizer, tokens, 300)
    total = counts.total()
    assert total == 300 * 31
    same = 1 / (tokenizer.vocab_size - len(tokenizer.special_ids))  # a random token that is the original by chance
    wanted = {"masked": masked, "random": randomized * (1 - same), "kept": 1 - masked - randomized + randomized * same}
    for fate, share in wanted.items():
        sigma = math.sqrt(total * share * (1 - share))
        assert counts[fate] == pytest.approx(total * share, abs=4 * sigma + 1e-9), fate


def test_random_tokens_are_uniform_over_all_that_are_not_special(tokenizer, tokens):
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.9, masked=0.0, randomized=1.0), setting_of(tokenizer, LENGTH))
    found = np.zeros(tokenizer.vocab_size, int)
    for seed in range(400):
        row = row_of(objective, pieces(tokens, 62, seed=seed), seed)
        np.add.at(found, row["token_ids"][predicted(row)], 1)
    ordinary = [i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids]
    assert found.sum() == found[ordinary].sum()
    assert stats.chisquare(found[ordinary]).pvalue > 1e-4


@pytest.mark.parametrize(("size", "count"), [(6, 3), (10, 2), (7, 1)])
def test_each_set_of_tokens_is_as_likely_as_any_other(tokenizer, tokens, size, count):
    objective = MaskedLM(MaskedLMConfig(mask_rate=count / size), setting_of(tokenizer, LENGTH))
    (part,) = pieces(tokens, size)
    sets = dict.fromkeys(itertools.combinations(range(1, size + 1), count), 0)
    for i in range(100 * len(sets)):
        row = objective.make_row([{TOKENS: part}], [example_generator(0, 0, i)])
        sets[tuple(predicted(row).tolist())] += 1
    assert len(sets) == math.comb(size, count)
    assert stats.chisquare(list(sets.values())).pvalue > 1e-4


def word_spans(tokenizer, part) -> list[range]:
    """Positions of each word, from how the vocabulary writes it; an unknown token is a word."""
    written = tokenizer.tokens(part.tolist())
    starts = [
        i for i, token in enumerate(written) if i == 0 or token.startswith("▁") or part[i] == tokenizer.unknown_id
    ]
    return [range(a, b) for a, b in itertools.pairwise([*starts, len(part)])]


def test_words_are_predicted_whole(tokenizer, tokens):
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.3, whole_words=True), setting_of(tokenizer, LENGTH))
    shares, split = [], 0
    for seed in range(200):
        (part,) = pieces(tokens, 62, seed=seed)
        row = row_of(objective, [part], seed)
        chosen = set((predicted(row) - 1).tolist())
        assert 1 <= len(chosen) <= round(0.3 * 62)
        for span in word_spans(tokenizer, part):
            assert len(chosen & set(span)) in (0, len(span)), tokenizer.tokens(part[span.start : span.stop].tolist())
            split += len(span) > 1 and span[0] in chosen
        shares.append(len(chosen) / 62)
    assert split > 200  # so words of several pieces were there to be cut
    # Short words fill what long ones leave.
    assert np.mean(shares) == pytest.approx(0.3, abs=0.02)


def test_single_tokens_cut_words_where_whole_words_are_not_asked_for(tokenizer, tokens):
    objective = MaskedLM(MaskedLMConfig(mask_rate=0.3), setting_of(tokenizer, LENGTH))
    cut = 0
    for seed in range(50):
        (part,) = pieces(tokens, 62, seed=seed)
        chosen = set((predicted(row_of(objective, [part], seed)) - 1).tolist())
        cut += sum(0 < len(chosen & set(span)) < len(span) for span in word_spans(tokenizer, part))
    assert cut > 50


def test_a_word_longer_than_the_budget_is_predicted_whole_where_there_is_no_other(tokenizer):
    (part,) = tokenizer.encode(["congressional"])
    assert len(word_spans(tokenizer, part)) == 1 and len(part) > 3
    objective = MaskedLM(MaskedLMConfig(whole_words=True), setting_of(tokenizer, LENGTH))
    assert predicted(row_of(objective, [part])).tolist() == list(range(1, len(part) + 1))


@pytest.mark.parametrize("whole_words", [False, True])
def test_packed_pieces_get_the_masks_of_unpacked_ones(tokenizer, store, whole_words):
    objective = MaskedLM(MaskedLMConfig(whole_words=whole_words), setting_of(tokenizer, LENGTH))

    def masks(pack: bool, epoch: int) -> dict:
        plan = plan_rows(store.lengths, LENGTH, LENGTH - 2, lambda sizes: sizes + 2, pack=pack, truncate=False)
        batches = StreamBatches(store, plan, objective.make_row, len(plan), seed=3)
        batch = batches.batch(epoch)
        found = {}
        order = batches._rows_at(np.full(len(plan), epoch), np.arange(len(plan)))
        for row, number in enumerate(order.tolist()):
            for segment, piece in enumerate(plan.row(number), 1):
                inside = np.flatnonzero(batch["segment_ids"][row] == segment)
                weighty = batch["gather"][row][batch["label_weights"][row] > 0]
                chosen = np.flatnonzero(np.isin(inside, weighty)).tolist()
                found[piece.record, piece.start] = (batch["token_ids"][row][inside].tolist(), chosen)
        return found

    packed, unpacked = masks(True, 0), masks(False, 0)
    assert packed == unpacked
    assert len(packed) > 60
    changed = masks(True, 1)
    assert changed.keys() == packed.keys()
    assert sum(changed[key] != packed[key] for key in packed) > 0.8 * len(packed)


def test_rows_of_tiny_pieces_stay_within_the_budget(tokenizer, tokens):
    objective = MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH))
    sizes = (1,) * 21
    places_of = []
    for seed in range(60):
        parts = pieces(tokens, *sizes, seed=seed)
        row, original = row_of(objective, parts, seed), laid_out(tokenizer, parts)
        places = predicted(row)
        assert len(places) == objective.budget < len(sizes)
        assert row["labels"].tolist() == original[places].tolist()
        others = np.setdiff1d(np.arange(LENGTH), places)
        assert row["token_ids"][others].tolist() == original[others].tolist()
        places_of += places.tolist()
    # Which are left out is chance, not the last ones.
    counts = np.bincount(places_of, minlength=LENGTH)[1 : 21 * 3 : 3]
    assert stats.chisquare(counts).pvalue > 1e-4


@pytest.mark.parametrize("rate", [0.15, 0.2, 0.4])
def test_rows_of_pieces_of_sixteen_tokens_lose_no_prediction(tokenizer, tokens, rate):
    for length in (20, 64, 128, 512):
        objective = MaskedLM(MaskedLMConfig(mask_rate=rate), setting_of(tokenizer, length))
        for size in (16, 17, 18, 23, 30):
            parts = pieces(tokens, *[size] * (length // (size + 2)))
            if parts:
                assert len(predicted(row_of(objective, parts))) == len(parts) * round(rate * size)


def test_evaluation_has_its_own_rate_and_the_same_masks_for_all_recipes(tokenizer, tokens):
    parts = pieces(tokens, 40)
    rows = [
        row_of(MaskedLM(MaskedLMConfig(mask_rate=rate), setting_of(tokenizer, LENGTH)).for_evaluation(), parts, 7)
        for rate in (0.15, 0.3, 0.5)
    ]
    assert len(predicted(rows[0])) == 6
    for row in rows[1:]:
        assert all(np.array_equal(row[name], rows[0][name]) for name in rows[0])
    other = MaskedLM(
        MaskedLMConfig(mask_rate=0.3, evaluation_mask_rate=0.4), setting_of(tokenizer, LENGTH)
    ).for_evaluation()
    assert len(predicted(row_of(other, parts))) == 16


def test_impossible_values_are_refused(tokenizer):
    for field, value in (
        ("mask_rate", 0.0),
        ("mask_rate", 1.0),
        ("evaluation_mask_rate", 1.5),
        ("masked", 0.95),
        ("randomized", -0.1),
    ):
        with pytest.raises(InvalidField):
            MaskedLMConfig(**{field: value})

    class Causal(type(tokenizer)):
        mask_id = None

        def __init__(self):
            vars(self).update(vars(tokenizer))

    with pytest.raises(RecipeError, match="mask token"):
        MaskedLM(MaskedLMConfig(), setting_of(Causal(), LENGTH))


def test_fields_keep_the_text_alone(tokenizer):
    objective = MaskedLM(MaskedLMConfig(text="body"), setting_of(tokenizer, LENGTH))
    kept = objective.fields(Row({"body": "a text", "label": 3}, "a.jsonl:1"))
    assert dict(kept.texts) == {TOKENS: "a text"} and not kept.values
    with pytest.raises(DataError, match=r"a\.jsonl:2.*body"):
        objective.fields(Row({"text": "a text"}, "a.jsonl:2"))
    assert objective.record_options() != MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH)).record_options()


# --- The loss ---


@pytest.fixture(scope="module")
def objective(tokenizer):
    return MaskedLM(MaskedLMConfig(), setting_of(tokenizer, LENGTH))


@pytest.fixture(scope="module")
def loss_of(make_model, objective):
    """A compiled function from a batch to its StreamLoss, of a fresh model."""
    model, parameters = make_model(objective)
    compiled = jax.jit(lambda batch: objective.loss(bind(model, parameters), batch))
    return lambda batch: jax.device_get(compiled(batch))


def whole_pass(objective, store, pack: bool):
    plan = plan_rows(store.lengths, LENGTH, LENGTH - 2, lambda sizes: sizes + 2, pack=pack, truncate=False)
    return StreamBatches(store, plan, objective.make_row, len(plan), seed=3, shuffle=False).batch(0)


def test_a_fresh_model_knows_nothing(loss_of, objective, store, tokenizer):
    part = loss_of(whole_pass(objective, store, pack=True))
    assert part.loss / part.weight == pytest.approx(math.log(tokenizer.vocab_size), rel=0.02)
    assert part.ratios["accuracy"].sum / part.weight < 0.1


def test_packed_is_unpacked(loss_of, objective, store):
    packed, unpacked = (whole_pass(objective, store, pack) for pack in (True, False))
    assert packed["token_ids"].shape[0] < 0.9 * unpacked["token_ids"].shape[0]
    one, other = loss_of(packed), loss_of(unpacked)
    assert one.weight == other.weight == packed["label_weights"].sum()
    assert (
        one.tokens
        == other.tokens
        == (store.lengths.sum() + 2 * sum(len(set(s)) - (0 in s) for s in packed["segment_ids"].tolist()))
    )
    assert one.loss == pytest.approx(float(other.loss), rel=2e-5)
    assert one.ratios["accuracy"].sum == other.ratios["accuracy"].sum


def test_the_loss_is_the_cross_entropy_of_the_original_tokens(make_model, loss_of, objective, store):
    model, parameters = make_model(objective)
    batch = whole_pass(objective, store, pack=True)
    part = loss_of(batch)
    # By hand, from the logits of all positions.
    sequences = Sequences(batch["token_ids"], batch["segment_ids"], batch["positions"])
    compiled = jax.jit(lambda sequences: bind(model, parameters)(sequences, head="masked_lm").logits)
    logits = np.asarray(compiled(sequences), np.float64)
    total = hits = 0.0
    for row, (places, labels, weights) in enumerate(
        zip(batch["gather"], batch["labels"], batch["label_weights"], strict=True)
    ):
        for place, label, weight in zip(places, labels, weights, strict=True):
            scores = logits[row, place]
            total += weight * (np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[label])
            hits += weight * (scores.argmax() == label)
    assert part.loss == pytest.approx(total, rel=1e-5)
    assert part.ratios["accuracy"].sum == hits


def test_places_without_weight_count_nothing(loss_of, objective, store, tokenizer):
    batch = whole_pass(objective, store, pack=True)
    empty = batch["label_weights"] == 0
    assert empty.any()
    rng = np.random.default_rng(0)
    changed = dict(batch)
    changed["labels"] = np.where(empty, rng.integers(0, tokenizer.vocab_size, empty.shape), batch["labels"]).astype(
        np.int32
    )
    changed["gather"] = np.where(empty, rng.integers(0, LENGTH, empty.shape), batch["gather"]).astype(np.int32)
    one, other = loss_of(batch), loss_of(changed)
    assert (one.loss, one.weight, one.ratios["accuracy"].sum) == (
        other.loss,
        other.weight,
        other.ratios["accuracy"].sum,
    )
    changed = {**batch, "labels": np.where(empty, batch["labels"], (batch["labels"] + 1) % tokenizer.vocab_size)}
    assert loss_of(changed).loss != one.loss


def test_rows_without_weight_count_nothing(loss_of, objective, store):
    batch = whole_pass(objective, store, pack=True)
    keep = np.arange(len(batch["row_weight"])) % 3 > 0
    one = loss_of({**batch, "row_weight": keep.astype(np.float32)})
    assert one.weight == batch["label_weights"][keep].sum()
    changed = {**batch, "row_weight": keep.astype(np.float32)}
    changed["token_ids"] = np.where(keep[:, None], batch["token_ids"], 7).astype(np.int32)
    changed["labels"] = np.where(keep[:, None], batch["labels"], 9).astype(np.int32)
    other = loss_of(changed)
    assert (
        one.loss == pytest.approx(float(other.loss), rel=1e-6)
        and one.ratios["accuracy"].sum == other.ratios["accuracy"].sum
    )
    assert loss_of(batch).loss == pytest.approx(
        float(one.loss + loss_of({**batch, "row_weight": 1.0 - keep}).loss), rel=1e-5
    )
