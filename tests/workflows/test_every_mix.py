"""Every mix, packed or not, by any workers, hosts and point of resuming: the same global batches, nothing lost.

Each word of the texts occurs once in all of them and is a token of its own, so that the tokens of a batch tell which
part of which example of which source stands in which of its rows.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping

import numpy as np
import pytest

from jaxft.data import loader
from jaxft.data.batches import Batch, HostBatches
from jaxft.data.loader import Prefetcher
from jaxft.data.processes import mapped_in_order
from jaxft.data.tokenizers import SentencePieceConfig, load_tokenizer, train_sentencepiece
from jaxft.recipe.library import load_recipe
from jaxft.workflows.assembly.assemble import assemble
from jaxft.workflows.assembly.batches import make_batches

SIZE, STEPS, EVERY = 8, 20, 2
HOSTS = (1, 2, 4)
# The beginning; amid an epoch, and between two steps of a stream with `every`; where a stage begins; near the end.
RESUMED = (0, 7, 10, 17)
SOURCES = ("large", "small")
MIXES = {
    "single": "source: {jsonl: large.jsonl}",
    "seldom": f"source: {{jsonl: large.jsonl}}, every: {EVERY}",
    "weighted": "source: [{jsonl: large.jsonl}, {jsonl: small.jsonl}], mixing: {weights: [3, 1]}",
    "tempered": "source: [{jsonl: large.jsonl}, {jsonl: small.jsonl}], mixing: {temperature: 2}",
    "staged": "source: [{jsonl: large.jsonl}, {jsonl: small.jsonl}], mixing: {weights: [3, 1], stages: "
    "[{start: 5, weights: [1, 3]}, {start: 0.5, weights: [1, 1]}]}",
}
# Masks and swapped words are random choices, which batches must agree on too.
OBJECTIVES = {
    "packed": "objective: {kind: masked_lm, length: 72}",
    "unpacked": "objective: {kind: sequence_classification}, augmentation: {swap: 0.3}",
}
STREAMS = [f"{mix}-{packing}" for mix in MIXES for packing in OBJECTIVES]


@dataclasses.dataclass(frozen=True)
class AllHosts:
    """What each of several hosts makes of a step, by the number of hosts and its own."""

    hosts: Mapping[tuple[int, int], HostBatches]

    def __call__(self, step: int) -> dict[tuple[int, int], dict[str, Batch]]:
        return {place: batches(step) for place, batches in self.hosts.items()}


@pytest.fixture(scope="module")
def texts() -> dict[str, list[str]]:
    """Texts of 1 to 40 words by source."""
    rng, words = np.random.default_rng(0), (f"w{number:04d}" for number in range(10_000))
    lengths = {"large": rng.integers(1, 41, 31), "small": rng.integers(1, 13, 9)}
    return {source: [" ".join(next(words) for _ in range(n)) for n in own] for source, own in lengths.items()}


@pytest.fixture(scope="module")
def recipe(texts, tmp_path_factory):
    """A recipe of all mixes, packed and not, and its tokenizer."""
    directory = tmp_path_factory.mktemp("mixes")
    for source, own in texts.items():
        lines = [json.dumps({"text": text, "label": "ab"[number % 2]}) for number, text in enumerate(own)]
        (directory / f"{source}.jsonl").write_text("\n".join(lines))
    words = tuple(" ".join(text for own in texts.values() for text in own).split())
    config = SentencePieceConfig(vocab_size=len(words) + 9, user_symbols=words)
    train_sentencepiece(["a b c a b c"], config, directory / "tokenizer")
    streams = [
        f"  {mix}-{packing}: {{{mixed}, {objective}, batch_size: {SIZE}}}\n"
        for mix, mixed in MIXES.items()
        for packing, objective in OBJECTIVES.items()
    ]
    path = directory / "mixes.yaml"
    path.write_text(
        "name: mixes\nmodel: {preset: encoder-tiny, max_length: 128}\ntokenizer: {path: tokenizer}\n"
        f"streams:\n{''.join(streams)}training: {{steps: {STEPS}, seed: 5}}\n"
    )
    return path


@pytest.fixture(scope="module")
def make(recipe) -> AllHosts:
    """The batches of all hosts, each of which has read the recipe and planned its rows by itself."""

    def host(rows) -> HostBatches:
        assembly = assemble(*load_recipe(recipe))
        batches = make_batches(assembly)
        every = {name: assembly.recipe.streams[name].every for name in batches}
        return HostBatches(batches, every, dict.fromkeys(batches, rows))

    parts = {count: np.split(np.arange(SIZE), count) if count > 1 else [slice(None)] for count in HOSTS}
    return AllHosts({(count, index): host(own) for count in HOSTS for index, own in enumerate(parts[count])})


@pytest.fixture(scope="module")
def pools(make):
    """For each number of workers a map by these workers, started once for all points of resuming."""
    with contextlib.ExitStack() as stack:
        yield {workers: stack.enter_context(mapped_in_order(make, workers, ahead=2)) for workers in (0, 1, 2)}


@pytest.fixture(scope="module")
def global_batches(recipe) -> list[dict[str, Batch]]:
    """Of each step, made one after the other by one process."""
    batches = make_batches(assemble(*load_recipe(recipe)))
    every = {name: EVERY if name.startswith("seldom") else 1 for name in STREAMS}
    return [{name: batches[name].batch(step // every[name]) for name in STREAMS} for step in range(STEPS)]


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow), 2])
@pytest.mark.parametrize("first", RESUMED)
def test_global_batches_are_the_same(make, pools, global_batches, workers, first, monkeypatch):
    monkeypatch.setattr(loader, "mapped_in_order", lambda *_, **__: contextlib.nullcontext(pools[workers]))
    last = min(first + 5, STEPS) if first else STEPS
    with contextlib.closing(Prefetcher(make, first, last, workers=workers)) as prefetcher:
        made = list(prefetcher)
    assert len(made) == last - first
    for step, of_hosts in enumerate(made, first):
        for name, expected in global_batches[step].items():
            for hosts in HOSTS:
                parts = [of_hosts[hosts, index][name] for index in range(hosts)]
                for array, whole in expected.items():
                    joined = np.concatenate([part[array] for part in parts])
                    assert np.array_equal(joined, whole), f"step {step}, {name}.{array}, {hosts} hosts"


@pytest.fixture(scope="module")
def words(recipe, texts) -> tuple[np.ndarray, list[set[int]]]:
    """For each id of the vocabulary the number of the source that has it, -1 for none; the ids of each source."""
    tokenizer = load_tokenizer(recipe.parent / "tokenizer")
    number = {token: i for i, token in enumerate(tokenizer.tokens(range(tokenizer.vocab_size)))}
    source_of, ids = np.full(tokenizer.vocab_size, -1), []
    for source, name in enumerate(SOURCES):
        ids.append({number[word] for text in texts[name] for word in text.split()})
        source_of[list(ids[source])] = source
    return source_of, ids


@pytest.fixture(scope="module")
def rows(global_batches, words) -> dict[str, list[tuple[int, list[int]]]]:
    """For each stream its rows, of all steps one after the other: number of the source, ids of the words."""
    source_of, _ = words
    found: dict[str, list[tuple[int, list[int]]]] = {}
    for name in STREAMS:
        steps = global_batches[:: EVERY if name.startswith("seldom") else 1]
        for row in np.concatenate([unmasked(batch[name]) for batch in steps]):
            own = row[source_of[row] >= 0]
            (source,) = set(source_of[own].tolist())
            found.setdefault(name, []).append((source, own.tolist()))
    return found


def unmasked(batch: Batch) -> np.ndarray:
    """Ids of a batch as they were before some were masked."""
    ids = batch["token_ids"].copy()
    for row, where in enumerate(batch.get("gather", ())):
        real = batch["label_weights"][row] > 0
        ids[row, where[real]] = batch["labels"][row, real]
    return ids


def epochs(rows: list[tuple[int, list[int]]], source: int, wanted: set[int]) -> list[int]:
    """Rows in each whole epoch of a source; fails where a word comes again before all others came."""
    seen: set[int] = set()
    sizes, size = [], 0
    for ids in (ids for number, ids in rows if number == source):
        assert len(set(ids)) == len(ids) and not seen & set(ids), "doubled"
        seen.update(ids)
        size += 1
        if seen == wanted:
            seen, sizes, size = set(), [*sizes, size], 0
    return sizes


@pytest.mark.parametrize("stream", STREAMS)
def test_in_each_epoch_of_a_source_nothing_is_lost_or_doubled(rows, words, stream):
    for source in {source for source, _ in rows[stream]}:
        sizes = epochs(rows[stream], source, words[1][source])
        assert len(sizes) >= 2 and len(set(sizes)) == 1


@pytest.mark.parametrize("packing", list(OBJECTIVES))
@pytest.mark.parametrize("mix", ["weighted", "tempered", "staged"])
def test_shares_are_exact_after_every_row(rows, words, mix, packing):
    name = f"{mix}-{packing}"
    sources = np.array([source for source, _ in rows[name]])
    stages = {0: (3, 1), 5 * SIZE: (1, 3), STEPS // 2 * SIZE: (1, 1)} if mix == "staged" else {0: (3, 1)}
    if mix == "tempered":
        stages = {0: [epochs(rows[name], source, ids)[0] ** 0.5 for source, ids in enumerate(words[1])]}
    for stage, weights in zip(np.split(sources, [*stages][1:]), stages.values(), strict=True):
        places = np.arange(1, len(stage) + 1)
        for source, weight in enumerate(weights):
            off = np.cumsum(stage == source) - places * weight / sum(weights)
            assert np.abs(off).max() < 1


def test_random_choices_are_there_to_be_compared(global_batches):
    for name in ("single-packed", "single-unpacked"):
        assert not np.array_equal(global_batches[0][name]["token_ids"], global_batches[1][name]["token_ids"])
    assert global_batches[0]["single-packed"]["label_weights"].any()
