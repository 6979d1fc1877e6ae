"""Mixture of denoisers: UL2's lengths, seven denoisers at their shares, and rows that hold whichever one is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from handmade import assert_drawn, record_of, row_of, runs_of, texts
from support.settings import setting_of

from jaxft.data.batches import example_generator
from jaxft.data.packing import plan_rows
from jaxft.errors import InvalidField, RecipeError
from jaxft.objectives.mixture_of_denoisers import MixtureOfDenoisers, MixtureOfDenoisersConfig
from jaxft.objectives.span_corruption import Noise, longest_piece

LENGTH = 64
# Mean length of a span, rate, and what a piece of 100 tokens then loses, in how many spans.
REGULAR = {"3, .15": (15, 5), "8, .15": (15, 2)}
SEQUENTIAL = {"end": (25, 1)}
EXTREME = {"3, .5": (50, 17), "8, .5": (50, 6), "64, .15": (15, 1), "64, .5": (50, 1)}
MODES = {"[NLU]": REGULAR, "[S2S]": SEQUENTIAL, "[NLG]": EXTREME}


def make(tokenizer, length=LENGTH, **options) -> MixtureOfDenoisers:
    return MixtureOfDenoisers(
        MixtureOfDenoisersConfig(**options), setting_of(tokenizer, length, family="encoder_decoder")
    )


@pytest.mark.parametrize(
    ("span_length", "rate", "raw", "target"),
    [(8, 0.15, 588, 100), (3, 0.5, 766, 512), (8, 0.5, 908, 512), (64, 0.15, 600, 92), (64, 0.5, 1006, 512)],
)
def test_lengths_are_those_of_ul2(span_length, rate, raw, target):
    noise = Noise(rate, span_length)
    assert longest_piece([noise], 512, 512) == raw
    assert [int(size) for size in noise.sizes(np.array(raw))] == [512, target]


def encoded(objective, mode: str) -> list[int]:
    return objective.tokenizer.encode([mode])[0].tolist()


@pytest.mark.parametrize(("regular", "sequential", "extreme"), [(2, 1, 4), (3, 2, 1), (1, 0, 2), (0, 1, 0)])
def test_denoisers_are_drawn_at_their_shares_and_say_which_kind_they_are(
    sentinel_tokenizer, regular, sequential, extreme
):
    objective = make(sentinel_tokenizer, 256, regular=regular, sequential=sequential, extreme=extreme)
    (text,) = texts(sentinel_tokenizer, 100)
    modes = {mode: encoded(objective, mode) for mode in MODES}
    counts = {(mode, *lost): 0 for mode, denoisers in MODES.items() for lost in denoisers.values()}
    for i in range(2100):
        source, target = (side.tolist() for side in objective.example(record_of(text), example_generator(0, 0, i)))
        (mode,) = (mode for mode, tokens in modes.items() if source[: len(tokens)] == tokens)
        spans = len(set(target) & set(sentinel_tokenizer.sentinel_ids))
        counts[mode, len(target) - spans - 1, spans] += 1
    shares = {"[NLU]": regular / 2, "[S2S]": sequential, "[NLG]": extreme / 4}
    drawn = {denoiser: count for denoiser, count in counts.items() if shares[denoiser[0]]}
    assert sum(drawn.values()) == 2100
    assert_drawn(list(drawn.values()), [shares[mode] for mode, *_ in drawn])


def test_a_sequential_denoiser_asks_for_the_last_quarter(sentinel_tokenizer):
    objective = make(sentinel_tokenizer, regular=0, extreme=0)
    first, end = sentinel_tokenizer.sentinel_ids[0], sentinel_tokenizer.separator_id
    for size in (4, 20, 44):
        (text,) = texts(sentinel_tokenizer, size)
        source, target = objective.example(record_of(text), example_generator(0, 0, size))
        kept = size - size // 4
        assert source.tolist() == [*encoded(objective, "[S2S]"), *text[:kept].tolist(), first, end]
        assert target.tolist() == [first, *text[kept:].tolist(), end]


def test_modes_can_be_named_otherwise_or_left_out(sentinel_tokenizer):
    (text,) = texts(sentinel_tokenizer, 20)
    named = make(sentinel_tokenizer, regular=0, extreme=0, sequential_mode="We go on")
    source, _ = named.example(record_of(text), example_generator(0, 0, 0))
    assert source.tolist()[: len(encoded(named, "We go on"))] == encoded(named, "We go on")
    silent = make(sentinel_tokenizer, regular_mode=None, sequential_mode=None, extreme_mode=None)
    for i in range(20):
        source, _ = silent.example(record_of(text), example_generator(0, 0, i))
        assert source[0] == text[0]
    assert silent.longest > make(sentinel_tokenizer).longest


@pytest.mark.parametrize("target_length", [None, 20, 200])
@pytest.mark.parametrize("weights", [(2, 1, 4), (1, 0, 0), (0, 1, 0), (0, 0, 1)])
def test_packed_rows_hold_whichever_denoiser_is_drawn(sentinel_tokenizer, weights, target_length):
    regular, sequential, extreme = weights
    objective = make(
        sentinel_tokenizer, target_length=target_length, regular=regular, sequential=sequential, extreme=extreme
    )
    for seed in range(6):
        generator = np.random.default_rng(seed)
        lengths = np.minimum(generator.geometric(1 / generator.integers(4, 60), 60), 400)
        plan = plan_rows(lengths, LENGTH, objective.longest, objective.room, pack=True, truncate=False, seed=seed)
        for number in range(len(plan)):
            pieces = [np.full(piece.stop - piece.start, 300) for piece in plan.row(number)]
            row = row_of(objective, *map(record_of, pieces), seed=seed)  # which fails where a side is too long
            assert row["segment_ids"].max() == row["target_segment_ids"].max() == len(pieces)
            for side in ("segment_ids", "target_segment_ids"):
                assert [start for start, _ in runs_of(row[side] > 0)] == [0]


def test_the_longest_piece_fits_whichever_denoiser_is_drawn(sentinel_tokenizer):
    objective = make(sentinel_tokenizer)
    (text,) = texts(sentinel_tokenizer, objective.longest)
    pairs = [objective.example(record_of(text), example_generator(0, 0, i)) for i in range(200)]
    assert max(len(side) for pair in pairs for side in pair) == LENGTH
    assert (make(sentinel_tokenizer, extreme=0).longest, make(sentinel_tokenizer, regular=0).longest) >= (
        objective.longest,
        objective.longest,
    )


def test_denoisers_that_are_never_drawn_take_no_room(sentinel_tokenizer):
    lengths = np.random.default_rng(0).integers(1, 60, 200)
    rows = []
    for options in ({}, {"extreme": 0, "sequential": 0}):
        objective = make(sentinel_tokenizer, target_length=20, **options)
        plan = plan_rows(lengths, LENGTH, objective.longest, objective.room, pack=True, truncate=False)
        rows.append(len(plan))
    assert rows[1] < 0.7 * rows[0]


def test_what_cannot_be_is_refused(tokenizer, sentinel_tokenizer):
    with pytest.raises(RecipeError, match="no sentinels"):
        make(tokenizer)
    with pytest.raises(RecipeError, match=r"up to 1\d\d spans.*only 100 sentinels"):
        make(sentinel_tokenizer, 640)
    with pytest.raises(InvalidField, match="extreme"):
        MixtureOfDenoisersConfig(extreme=-1)
    with pytest.raises(InvalidField, match="must be more than 0"):
        MixtureOfDenoisersConfig(regular=0, sequential=0, extreme=0)


def test_a_row_that_mode_tokens_fill_is_refused(sentinel_tokenizer):
    with pytest.raises(RecipeError, match="no room beside the mode tokens"):
        make(sentinel_tokenizer, length=len(sentinel_tokenizer.encode(["[NLU]"])[0]) + 3)
