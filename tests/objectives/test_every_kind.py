"""What every registered objective says of itself: its columns, rows that stand in for its data, how a row is shown."""

from __future__ import annotations

import dataclasses
import pathlib

import numpy as np
import pytest
from handmade import row_of
from stored import stored
from support.settings import setting_of

from jaxft.data.batches import Batch
from jaxft.data.sources import Row, read_rows
from jaxft.errors import CheckpointError, DataError
from jaxft.models.config import ModelConfig
from jaxft.objectives.config import Normalization, ObjectiveConfig
from jaxft.objectives.contrastive import ContrastiveConfig
from jaxft.objectives.image_classification import ImageClassificationConfig
from jaxft.objectives.instruction import InstructionConfig
from jaxft.objectives.masked_lm import MaskedLMConfig
from jaxft.objectives.multi_label_classification import MultiLabelClassificationConfig
from jaxft.objectives.multiple_choice import MultipleChoiceConfig
from jaxft.objectives.objective import FoundInData, Objective, ObjectiveContext
from jaxft.objectives.question_answering import QuestionAnsweringConfig
from jaxft.objectives.registry import kinds, make_objective
from jaxft.objectives.regression import RegressionConfig
from jaxft.objectives.sentence_similarity import SentenceSimilarityConfig
from jaxft.objectives.sequence_classification import SequenceClassificationConfig
from jaxft.objectives.shown import ShownRow
from jaxft.objectives.token_classification import TokenClassificationConfig

LENGTH = 32
DECODERS = {"prefix_lm", "masked_next_token", "instruction", "preference"}
WRITERS = {"span_corruption", "mixture_of_denoisers", "text_infilling", "seq2seq"}
# Options without which rows of this length are too short.
OPTIONS = {"question_answering": {"question_length": 4, "stride": 4}}
# Every kind as it is by itself, and those that read more columns on request.
CONFIGS: list[ObjectiveConfig] = [
    *(config(**OPTIONS.get(kind, {})) for kind, config in kinds().items()),
    InstructionConfig(messages="chat"),
    ContrastiveConfig(text="a", pair="b", negative="c"),
    SequenceClassificationConfig(text="a", pair="b", labels=("x", "y", "z")),
    MultiLabelClassificationConfig(pair="b", label="held"),
    RegressionConfig(pair="b", target=("width", "height"), standardize=True),
    MultipleChoiceConfig(question="asked"),
    MultipleChoiceConfig(choices=("a", "b", "c")),
    ImageClassificationConfig(image="picture", label="animal"),
    TokenClassificationConfig(tokens="words", tags="marks"),
    QuestionAnsweringConfig(question="q", context="c", answers="a", question_length=4, stride=4),
]


def context_of(kind: str, tokenizer) -> ObjectiveContext:
    if kind == "image_classification":
        return ObjectiveContext(tokenizer, ModelConfig(family="vision", image_size=8, patch_size=4, channels=1))
    family = "encoder_decoder" if kind in WRITERS else "decoder" if kind in DECODERS else "encoder"
    position = "transformer_xl" if kind == "permutation_lm" else "learned"
    return setting_of(tokenizer, LENGTH, family=family, position=position, token_types=2)


@pytest.fixture(params=CONFIGS, ids=lambda config: f"{config.kind}-{len(config.text_columns())}")
def made(request, sentinel_tokenizer, tmp_path) -> tuple[ObjectiveConfig, Objective, list[Row]]:
    """A config with what its specimens say, its objective, and the specimens as its source gives them."""
    config = request.param
    source = config.write_specimens(tmp_path / "specimens", LENGTH)
    rows = list(read_rows(source, tmp_path))
    if isinstance(config, FoundInData) and not config.is_complete:
        config = config.completed([config.target_of(row) for row in rows], "specimens")
    return config, make_objective(config, context_of(config.kind, sentinel_tokenizer)), rows


def test_specimens_fill_rows_of_a_batch_that_can_be_shown(made, tmp_path):
    config, objective, rows = made
    assert len(rows) == 2
    records, batch = stored(objective, rows, tmp_path / "store")
    assert len(records) >= len(rows)
    number = len(batch["row_weight"]) - 1
    shown = objective.shown({name: array[number] for name, array in batch.items()})
    tokens = [token for part in shown.parts.values() for token in part]
    if config.kind == "image_classification":
        assert not tokens and shown.label in objective.labels
        return
    assert all(shown.parts.values()), config.kind
    # As many as are read: padding is not shown, nothing else is left out.
    ids, segments = batch["token_ids"][number], batch["segment_ids"][number]
    reading = [token for name, part in shown.parts.items() if name.startswith("input") for token in part]
    read = objective.tokenizer.tokens(ids[segments > 0].tolist())
    ends = len(reading) - len(read)
    assert ends in (0, 1) and (ends == 0 or config.kind in {"causal_lm", "prefix_lm", "instruction"})
    assert [token.text for token in reading][: len(read)] == read


def test_the_text_columns_are_those_that_are_read(made):
    """Without one of them no row can be used; with numbers in one of the others none is missed."""
    config, objective, (row, *_) = made
    for column in config.text_columns():
        left = {name: value for name, value in row.values.items() if name != column}
        with pytest.raises(DataError, match=f"no column {column!r}"):
            objective.fields(Row(left, row.location))
    texts = {text for text in objective.fields(row).texts.values() if isinstance(text, str)}
    found = {name for name, value in row.values.items() if isinstance(value, str) and len(value) > 1 and value in texts}
    assert found <= set(config.text_columns())


def test_what_has_to_be_predicted_is_shown(tokenizer):
    """Of one row of each way of predicting: in its place, as the next token, of words, of the whole text."""
    text = "The state of the union is strong and the work goes on."

    def show(config: ObjectiveConfig, **columns) -> tuple[Batch, ShownRow]:
        objective = make_objective(config, setting_of(tokenizer, LENGTH, token_types=2))
        fields = objective.fields(Row(columns, "made:1"))
        (tokens,) = tokenizer.encode([str(fields.texts["tokens"])])
        row = row_of(objective, {"tokens": tokens, "begins": True, "ends": True, **fields.values})
        return row, objective.shown(row)

    row, shown = show(MaskedLMConfig(mask_rate=0.3), text=text)
    targets = {place: token.target for place, token in enumerate(shown.parts["input"]) if token.target is not None}
    used = row["label_weights"] > 0
    assert list(targets) == row["gather"][used].tolist() and len(targets) > 1
    assert list(targets.values()) == tokenizer.tokens(row["labels"][used].tolist())
    _, shown = show(SequenceClassificationConfig(labels=("bad", "good")), text=text, label="good")
    assert shown.label == "good"
    _, shown = show(MultiLabelClassificationConfig(labels=("a", "b", "c")), text=text, labels=["c", "a"])
    assert shown.label == ["a", "c"]


def test_choices_are_shown_but_for_places_without_one(tokenizer, tmp_path):
    objective = make_objective(MultipleChoiceConfig(most=4), setting_of(tokenizer, LENGTH))
    rows = [Row({"text": "It", "choices": ["is", "was", "will be"], "label": 1}, "made:1")]
    _, batch = stored(objective, rows, tmp_path)
    shown = objective.shown({name: array[0] for name, array in batch.items()})
    assert list(shown.parts) == ["input 1", "input 2", "input 3"] and shown.label == 1
    assert [token.text for token in shown.parts["input 3"] if "be" in token.text]


@pytest.mark.parametrize(
    ("config", "names", "problem"),
    [
        (SequenceClassificationConfig(labels=("x", "y")), ("x", "y"), "single_label_classification"),
        (SequenceClassificationConfig(), (), "single_label_classification"),
        (MultiLabelClassificationConfig(labels=("x", "y")), ("x", "y"), "multi_label_classification"),
        (ImageClassificationConfig(labels=("x", "y")), ("x", "y"), "single_label_classification"),
        (TokenClassificationConfig(labels=("O", "B-x")), ("O", "B-x"), None),
        (RegressionConfig(target=("stars", "votes")), ("stars", "votes"), "regression"),
        (MultipleChoiceConfig(), (), None),
        (MaskedLMConfig(), (), None),
    ],
)
def test_names_of_labels_are_those_of_the_heads_outputs(config, names, problem):
    assert (config.label_names(), config.problem_type) == (names, problem)


def test_only_objectives_on_vectors_of_sentences_have_a_pooling():
    assert ContrastiveConfig(pooling="first").sentence_pooling() == "cls"
    assert SentenceSimilarityConfig(pooling="last").sentence_pooling() == "last"
    others = {kind for kind, config in kinds().items() if config().sentence_pooling() is not None}
    assert others == {"contrastive", "sentence_similarity"}


def test_images_take_the_normalization_of_their_weights_unless_they_say_their_own():
    own = ImageClassificationConfig(mean=(0.1,), deviation=(0.2,))
    assert own.with_normalization((0.3,), (0.4,)).normalization() == Normalization((0.1,), (0.2,))
    assert ImageClassificationConfig().with_normalization((0.3,), (0.4,)).normalization() == Normalization(
        (0.3,), (0.4,)
    )
    text = MaskedLMConfig()
    assert text.with_normalization((0.3,), (0.4,)) is text and text.normalization() is None


def test_a_standardized_head_predicts_in_the_units_of_its_targets():
    config = RegressionConfig(target=("a", "b"), standardize=True, mean=(2.0, -1.0), deviation=(3.0, 0.5))
    generator = np.random.default_rng(0)
    head = {"classifier": {"kernel": generator.normal(size=(4, 2)), "bias": generator.normal(size=2)}, "dense": {}}
    vector = generator.normal(size=4)
    standardized = vector @ head["classifier"]["kernel"] + head["classifier"]["bias"]
    own = config.head_in_own_units(head, "task")
    found = vector @ own["classifier"]["kernel"] + own["classifier"]["bias"]
    np.testing.assert_allclose(found, standardized * [3.0, 0.5] + [2.0, -1.0], rtol=1e-6)
    plain = dataclasses.replace(config, standardize=False, mean=None, deviation=None)
    assert plain.head_in_own_units(head, "task") is head and MaskedLMConfig().head_in_own_units(head, "task") is head
    with pytest.raises(CheckpointError, match="head task has no bias"):
        config.head_in_own_units({"classifier": {"kernel": head["classifier"]["kernel"]}}, "task")


def test_kinds_are_called_as_recipes_call_them():
    assert all(config().kind == kind == config.kind for kind, config in kinds().items())
    assert all(issubclass(config, ObjectiveConfig) for config in kinds().values())
    files = {path.stem for path in pathlib.Path("jaxft/objectives").glob("*.py")}
    assert set(kinds()) <= files  # each in the file of its name
