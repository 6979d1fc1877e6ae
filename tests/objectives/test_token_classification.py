"""Token classification: which sub-words bear a word's tag, what becomes of long sentences, and the loss."""

from __future__ import annotations

import dataclasses
import pathlib

import jax
import numpy as np
import pytest
from stored import stored
from support.settings import setting_of

from jaxft.data.sources import Row, SourceConfig, read_rows
from jaxft.data.store import TOKENS
from jaxft.data.tokenizers import ByteBPEConfig, WordPieceConfig, train_tokenizer
from jaxft.errors import DataError, InvalidField
from jaxft.objectives.token_classification import TokenClassification, TokenClassificationConfig
from jaxft.training.step import bind

TAGS = ("O", "B-PER", "I-PER", "B-LOC", "I-LOC")
ROW = Row({"tokens": ["Ada", "Lovelace", "visits", "London"], "tags": ["B-PER", "I-PER", "O", "B-LOC"]}, "a.conll:1")


def make(tokenizer, length=32, family="encoder", **options) -> TokenClassification:
    config = TokenClassificationConfig(**{"labels": TAGS, "dropout": 0.0, **options})
    return TokenClassification(config, setting_of(tokenizer, length, "task", family=family))


@pytest.fixture(scope="session", params=["sentencepiece", "wordpiece", "byte_bpe"])
def any_tokenizer(request, tokenizer, addresses, tmp_path_factory):
    if request.param == "sentencepiece":
        return tokenizer
    config = {"wordpiece": WordPieceConfig(vocab_size=400), "byte_bpe": ByteBPEConfig(vocab_size=400)}[request.param]
    return train_tokenizer(addresses, config, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def posts(shared_data) -> list[Row]:
    source = SourceConfig(conll=(str(shared_data / "ner" / "wnut17_train.conll"),), limit=150)
    return list(read_rows(source, pathlib.Path()))


def perfect(objective, batch) -> dict[str, np.ndarray]:
    """What a model that knows all tags would say, and nonsense where none is asked for."""
    noise = np.random.default_rng(0).random((*batch["tags"].shape, len(objective.labels)))
    right = np.eye(len(objective.labels))[batch["tags"]]
    probabilities = np.where(batch["tag_weights"][..., None] > 0, 0.8 * right + 0.2 / len(objective.labels), noise)
    return {"probabilities": (probabilities / probabilities.sum(-1, keepdims=True)).astype(np.float32)}


# --- Words and sub-words ---


@pytest.mark.parametrize("labelled", ["first", "last", "all"])
@pytest.mark.parametrize("length", [8, 64])
def test_perfect_logits_give_the_right_tags_back(any_tokenizer, posts, labelled, length, tmp_path):
    """Whatever the tokenizer makes of words, and though most sentences are split into several rows."""
    config = TokenClassificationConfig(labelled=labelled).completed((row.values["tags"] for row in posts), "posts")
    objective = TokenClassification(config, setting_of(any_tokenizer, length, "task"))
    records, batch = stored(objective, posts, tmp_path / "store")
    assert length > 8 or len(records) > 2 * len(posts)
    said, right = objective.predictions(records, perfect(objective, batch)), objective.references(records)
    assert len(said) == len(right) == len(posts)
    for row, own, reference in zip(posts, said, right, strict=True):
        assert own["tags"] == reference["tags"] == row.values["tags"]
        for entity in own["entities"]:
            assert entity["text"] == " ".join(row.values["tokens"][entity["start"] : entity["end"]])
            assert row.values["tags"][entity["start"]] == f"B-{entity['type']}" and entity["score"] > 0.8


def test_one_sub_word_of_each_word_bears_its_tag(any_tokenizer, posts, tmp_path):
    for labelled in ("first", "last"):
        for length in (9, 64):
            objective = make(any_tokenizer, length, labelled=labelled, labels=tuple(f"T{i}" for i in range(200)))
            rows = [
                Row({"tokens": row.values["tokens"], "tags": [f"T{i}" for i in range(len(row.values["tokens"]))]}, "x")
                for row in posts
            ]
            _, batch = stored(objective, rows, tmp_path / f"{labelled}{length}")
            numbers = batch["tags"][batch["tag_weights"] > 0].tolist()
            assert numbers == [number for row in rows for number in range(len(row.values["tokens"]))]


@pytest.mark.parametrize(("labelled", "places"), [("first", "first"), ("last", "last")])
def test_the_first_or_the_last_sub_word_is_meant(any_tokenizer, labelled, places, tmp_path):
    objective = make(any_tokenizer, labelled=labelled)
    (record,), batch = stored(objective, [ROW], tmp_path / "store")
    first, *rest = ROW.values["tokens"]
    words = [len(ids) for ids in any_tokenizer.encode([first, *(f" {word}" for word in rest)])]
    start = int(any_tokenizer.start_id is not None)
    assert len(record[TOKENS]) == sum(words) > 4  # some words are of several tokens
    firsts = start + np.cumsum([0, *words[:-1]])
    # A space that is a token of its own is no sub-word.
    blank = [not token.strip("▁Ġ") for token in any_tokenizer.tokens(batch["token_ids"][0][firsts])]
    firsts, words = firsts + blank, words - np.array(blank)
    expected = firsts if places == "first" else firsts + words - 1
    np.testing.assert_array_equal(np.flatnonzero(batch["tag_weights"][0]), expected)
    assert batch["tags"][0][expected].tolist() == [1, 2, 0, 3]


def test_words_are_read_as_the_sentence_is_written(any_tokenizer, tmp_path):
    """With a space before each word but the first, as a byte-level vocabulary knows them."""
    (record,), batch = stored(make(any_tokenizer), [ROW], tmp_path / "store")
    assert record[TOKENS].tolist() == any_tokenizer.encode(["Ada Lovelace visits London"])[0].tolist()
    tokens = [*([] if any_tokenizer.start_id is None else [any_tokenizer.start_id]), *record[TOKENS].tolist()]
    assert batch["token_ids"][0][: len(tokens) + 1].tolist() == [*tokens, any_tokenizer.separator_id]


def test_an_invisible_word_is_outside(any_tokenizer, tmp_path):
    row = Row({"tokens": ["Ada", "\u200b", "Lovelace"], "tags": ["B-PER", "O", "O"]}, "a:1")
    objective = make(any_tokenizer)
    records, batch = stored(objective, [row], tmp_path / "store")
    assert objective.predictions(records, perfect(objective, batch))[0]["tags"] == ["B-PER", "O", "O"]


def test_what_is_predicted_needs_no_tags(tokenizer, tmp_path):
    objective, row = make(tokenizer), Row({"tokens": ROW.values["tokens"]}, "a:1")
    records, batch = stored(objective, [row], tmp_path / "store", objective.unlabelled_fields)
    assert batch["tag_weights"].sum() == 4
    (said,) = objective.predictions(records, {"probabilities": np.full((1, 32, 5), 0.2, np.float32)})
    assert said == {"tags": ["O"] * 4, "entities": []}


def test_parts_of_speech_are_tags_without_entities(tokenizer, tmp_path):
    config = TokenClassificationConfig(labels=("NOUN", "VERB"))
    objective = TokenClassification(config, setting_of(tokenizer, 32, "task"))
    assert objective.metrics == ("loss", "accuracy")
    row = Row({"tokens": ["dogs", "run"], "tags": ["NOUN", "VERB"]}, "a:1")
    records, batch = stored(objective, [row], tmp_path / "store")
    assert objective.predictions(records, perfect(objective, batch)) == [{"tags": ["NOUN", "VERB"]}]


# --- Tags ---


def test_tags_are_found_with_the_outside_first(caplog):
    config = TokenClassificationConfig()
    tags = [("B-PER", "I-PER", "O"), ("O", "B-LOC")]
    assert not config.is_complete
    done = config.completed(tags, "streams.task")
    assert done.is_complete and done.labels == ("O", "B-LOC", "B-PER", "I-PER") and not caplog.records
    with pytest.raises(DataError, match=r"streams\.task: column 'tags' holds only the tag 'O'"):
        config.completed([("O", "O")], "streams.task")
    with pytest.raises(DataError, match="no examples"):
        config.completed([], "streams.task")


def test_entities_without_a_begin_are_repaired_and_told(tokenizer, caplog, tmp_path):
    config = TokenClassificationConfig().completed([("I-PER", "O", "B-PER"), ("O", "I-PER", "I-PER")], "streams.task")
    assert "streams.task: 2 entities begin without a B-" in caplog.text
    objective = TokenClassification(config, setting_of(tokenizer, 32, "task"))
    row = Row({"tokens": ["a", "b", "c"], "tags": ["O", "I-PER", "I-PER"]}, "a:1")
    records, _ = stored(objective, [row], tmp_path / "store")
    assert objective.references(records) == [{"tags": ["O", "B-PER", "I-PER"]}]


@pytest.mark.parametrize(
    ("values", "reason", "message"),
    [
        ({"tokens": ["a", "b"], "tags": ["O"]}, "wrong_number_of_tags", "2 words, but 1 tags"),
        ({"tokens": ["a", " "], "tags": ["O", "O"]}, "empty_word", "word 2 of 2 in column 'tokens' is empty"),
        ({"tokens": ["a", 3], "tags": ["O", "O"]}, "not_words", "must be a list of texts"),
        ({"tokens": "a b", "tags": ["O"]}, "not_words", "must be a list, one entry for each word; found 'a b'"),
        ({"tokens": [], "tags": []}, "empty_text", "has no words"),
        ({"tokens": ["a"], "tags": [None]}, "not_a_label", "must be a list of tags"),
        ({"tokens": ["a"], "tags": ["B-XYZ"]}, "unknown_label", "tag 'B-XYZ' of 'a' was not seen in training.*B-PER"),
        ({"tokens": ["a"]}, "missing_column", "there is no column 'tags'"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_reason(tokenizer, values, reason, message):
    with pytest.raises(DataError, match=rf"a\.conll:7: .*{message}") as raised:
        make(tokenizer).fields(Row(values, "a.conll:7"))
    assert raised.value.reason == reason


def test_numbers_and_arrays_are_tags_too(tokenizer):
    values = {"tokens": np.array(["a", "b"], object), "tags": np.array([1, 0])}
    assert TokenClassificationConfig().target_of(Row(values, "x")) == ("1", "0")


@pytest.mark.parametrize("options", [{"labels": ("a",)}, {"labels": ("a", "a")}, {"dropout": 1.0}])
def test_impossible_values_are_refused(options):
    with pytest.raises(InvalidField):
        TokenClassificationConfig(**options)


def test_everything_that_the_records_depend_on_is_in_their_options(tokenizer):
    options = [{}, {"tokens": "a"}, {"tags": "b"}, {"labels": TAGS[::-1]}]
    assert len({make(tokenizer, **one).record_options() for one in options}) == len(options)


# --- The loss ---


@pytest.mark.parametrize("family", ["encoder", "decoder"])
def test_the_loss_is_that_of_the_labelled_tokens(tokenizer, posts, make_model, family, tmp_path):
    objective = make(tokenizer, 24, family, labels=None or TAGS)
    rows = [ROW, dataclasses.replace(ROW, values={"tokens": ["x", "y"] * 12, "tags": ["O", "B-LOC"] * 12})]
    _, batch = stored(objective, rows, tmp_path / "store")
    batch["row_weight"][-1] = 0
    model, parameters = make_model(objective, layers=1, family=family)
    parameters = jax.tree.map(lambda x: x * 8 if x.ndim > 1 else x, parameters)
    apply = bind(model, parameters)
    part, outputs = jax.device_get(jax.jit(lambda b: (objective.loss(apply, b), objective.outputs(apply, b)))(batch))
    weights = batch["tag_weights"] * batch["row_weight"][:, None]
    right = np.take_along_axis(outputs["probabilities"], batch["tags"][..., None], -1)[..., 0]
    assert part.loss == pytest.approx(-(np.log(right) * weights).sum(), rel=1e-4)
    assert part.weight == weights.sum() < batch["tag_weights"].sum()
    hits = (outputs["probabilities"].argmax(-1) == batch["tags"]) * weights
    assert part.ratios["accuracy"].sum == hits.sum()
