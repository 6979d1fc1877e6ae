"""A stream of several sources: the same global batches for any workers, hosts and points of resuming; nothing lost."""

from __future__ import annotations

import collections
import functools

import numpy as np
import pytest
from settings import setting_of

from jaxft.data.batches import MixedBatches, StreamBatches
from jaxft.data.loader import Prefetcher
from jaxft.data.mixing import MixingConfig, StageConfig, make_mixture
from jaxft.data.packing import plan_rows
from jaxft.data.preparing import open_or_build
from jaxft.data.sources import Row
from jaxft.objectives.causal_lm import CausalLM, CausalLMConfig
from jaxft.objectives.masked_lm import MaskedLM, MaskedLMConfig

SIZE, STEPS = 6, 20


@pytest.fixture(scope="module", params=["packed", "unpacked"])
def streams(request, tokenizer, tmp_path_factory) -> MixedBatches:
    objective = MaskedLM(MaskedLMConfig(), setting_of(tokenizer, 48))
    parts = []
    for source, count in enumerate((40, 9)):
        texts = [f"text {i} of source {source}, " + "and so on " * (i % 5) for i in range(count)]
        rows = [Row({"text": text}, f"{source}:{i}") for i, text in enumerate(texts)]
        directory = tmp_path_factory.mktemp("stores") / str(source)
        store = open_or_build(directory, functools.partial(list, rows), objective.fields, tokenizer, "streams.text")
        pack = request.param == "packed"
        plan = plan_rows(store.lengths, 48, objective.longest, objective.room, pack=pack, truncate=not pack)
        parts.append(StreamBatches(store, plan, objective.make_row, SIZE, seed=source << 32))
    config = MixingConfig((3.0, 1.0), stages=(StageConfig(10, (1.0, 1.0)),))
    mixture = make_mixture(config, [part.rows for part in parts], SIZE, STEPS)
    return MixedBatches(tuple(parts), mixture, SIZE)


def equal(one, other) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("workers", [0, 1, 2])
@pytest.mark.parametrize("first", [0, 7])
def test_workers_and_the_point_of_resuming_change_nothing(streams, workers, first):
    prefetcher = Prefetcher(streams.batch, first, STEPS, workers=workers)
    made = list(prefetcher)
    prefetcher.close()
    assert len(made) == STEPS - first
    assert all(equal(batch, streams.batch(step)) for step, batch in zip(range(first, STEPS), made, strict=True))


@pytest.mark.parametrize("hosts", [1, 2, 3])
def test_hosts_make_up_the_global_batch(streams, hosts):
    for step in (0, 9, 10, 19):
        rows = SIZE // hosts
        parts = [streams.batch(step, slice(i * rows, (i + 1) * rows)) for i in range(hosts)]
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        assert equal(joined, streams.batch(step))


def test_within_an_epoch_of_a_source_no_row_is_lost_or_doubled(streams):
    sources, indices = streams.mixture.rows(np.arange(STEPS * SIZE))
    rows = iter(np.concatenate([streams.batch(step)["segment_ids"] for step in range(STEPS)]))
    seen = [collections.Counter(), collections.Counter()]
    for source, index, row in zip(sources, indices, rows, strict=True):
        # The layout of a row tells which of the source's it is, as the source by itself says.
        (own,) = streams.parts[source].make_rows(np.array([index]))
        assert np.array_equal(own["segment_ids"], row)
        seen[source][index // streams.parts[source].rows] += 1
    for source, part in enumerate(streams.parts):
        *full, last = (seen[source][epoch] for epoch in sorted(seen[source]))
        assert all(count == part.rows for count in full) and 0 < last <= part.rows
    assert sum(seen[0].values()) / (STEPS * SIZE) == pytest.approx((10 * 0.75 + 10 * 0.5) / 20, abs=0.02)


def test_workers_are_gone_after_closing_early(streams):
    prefetcher = Prefetcher(streams.batch, 0, 10_000, workers=1)
    assert equal(next(iter(prefetcher)), streams.batch(0))
    prefetcher.close()
    assert not prefetcher._thread.is_alive()


def _fails(step: int) -> int:
    if step == 3:
        raise ValueError("step 3 cannot be made")
    return step


def test_what_a_worker_raises_reaches_the_consumer():
    prefetcher = Prefetcher(_fails, 0, 10, workers=1)
    got = []
    with pytest.raises(ValueError, match="step 3 cannot be made"):
        got.extend(iter(prefetcher))
    prefetcher.close()


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
