"""Stand-ins for data fill the rows of every objective, and say which passes it makes through the model."""

from __future__ import annotations

import numpy as np
import pytest
import transformers

from jaxft.data.tokenizers import Part
from jaxft.objectives.registry import kinds
from jaxft.parallel.mesh import MeshConfig, abstract_mesh
from jaxft.planning.specimens import PlannedTokenizer
from jaxft.recipe.decoding import decode
from jaxft.recipe.reading import parse_document
from jaxft.recipe.schema import Recipe
from jaxft.workflows.plan.blueprint import Blueprint, make_blueprint

LENGTH, VOCABULARY, ROWS = 64, 512, 8
FAMILY = {
    "masked_lm": "bert", "next_sentence": "bert", "sentence_order": "bert", "replaced_token": "bert",
    "permutation_lm": "xlnet", "span_corruption": "t5", "mixture_of_denoisers": "t5", "text_infilling": "t5",
    "seq2seq": "t5", "image_classification": "vit", "causal_lm": "llama", "prefix_lm": "llama",
    "masked_next_token": "llama", "instruction": "llama", "preference": "llama",
}  # fmt: skip
PRESET = {
    "bert": "preset: bert-base, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1",
    "xlnet": "preset: xlnet-base, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1",
    "t5": "preset: t5-base, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1",
    "llama": "preset: llama-1b, embed_dim: 32, num_heads: 2, num_kv_heads: 1, mlp_dim: 64, num_layers: 1",
    "vit": "preset: vit-tiny, embed_dim: 32, num_heads: 2, mlp_dim: 64, num_layers: 1",
}
MORE = {
    "image_classification": "labels: [cat, dog, cow]", "regression": "target: [score, other]",
    "question_answering": "question_length: 16, stride: 8",
}  # fmt: skip


def blueprint_of(kind: str, more: str = "", head: str = "", model: str = "") -> Blueprint:
    family = FAMILY.get(kind, "bert")
    length = "" if kind == "image_classification" else f", length: {LENGTH}"
    model = model or PRESET[family] + ("" if family == "vit" else f", max_length: {LENGTH}")
    tokenizer = f"tokenizer: {{train: {{vocab_size: {VOCABULARY}, sentinels: 100}}}}" if family != "vit" else ""
    text = f"""
name: planned
model: {{{model}}}
{tokenizer}
streams:
  task:
    source: {{jsonl: nowhere.jsonl}}
    objective: {{kind: {kind}{length}{", " if more else ""}{more}}}
    batch_size: {ROWS}
training: {{steps: 10}}
{head}
"""
    document = parse_document(text, "planned.yaml")
    return make_blueprint(decode(document, Recipe), document, abstract_mesh(MeshConfig(), 4))


MEASURES = {"minimal_pairs"}
# They compare with the weights of a pretrained model, which have no place here.
COMPARES = {"preference"}


@pytest.fixture(scope="module", params=[kind for kind in kinds() if kind not in MEASURES | COMPARES])
def planned(request):
    return request.param, blueprint_of(request.param, MORE.get(request.param, ""))


def test_every_objective_has_batches_and_passes_without_its_data(planned):
    kind, blueprint = planned
    (passes,) = blueprint.passes().values()
    assert passes
    assert all(array.shape[0] == ROWS for array in blueprint.batches["task"].values()), kind
    for one in passes:
        assert one.rows % ROWS == 0
        assert one.length == LENGTH or kind == "image_classification"


def test_the_passes_are_those_of_the_objectives():
    (generator, discriminator) = blueprint_of("replaced_token").passes()["task"]
    assert [head.kind for one in (generator, discriminator) for head in one.heads] == [
        "generator",
        "token_classification",
    ]
    (two_streams,) = blueprint_of("permutation_lm").passes()["task"]
    assert two_streams.streams == 2
    (both,) = blueprint_of("next_sentence").passes()["task"]
    assert [head.kind for head in both.heads] == ["masked_lm", "sequence_classification"]
    (views,) = blueprint_of("sequence_classification", "r_drop: 1.0").passes()["task"]
    assert views.rows == 2 * ROWS
    assert blueprint_of("causal_lm").passes()["task"][0].causal
    assert not blueprint_of("masked_next_token").passes()["task"][0].causal
    (pair,) = blueprint_of("span_corruption").passes()["task"]
    assert 0 < pair.target_length < LENGTH


def test_a_stream_that_is_held_to_the_start_asks_the_start_too_and_has_whole_logits(tmp_path):
    sizes = {"hidden_size": 32, "num_attention_heads": 2, "intermediate_size": 64, "num_hidden_layers": 1}
    config = transformers.BertConfig(vocab_size=VOCABULARY, max_position_embeddings=LENGTH, **sizes)
    transformers.BertForMaskedLM(config).save_pretrained(tmp_path)
    (alone,) = blueprint_of("masked_lm", model=f"pretrained: {tmp_path}").passes()["task"]
    tactics = "finetuning: {start_divergence: {task: 1.0}}"
    held = blueprint_of("masked_lm", head=tactics, model=f"pretrained: {tmp_path}").passes()["task"]
    assert [one.trained for one in held] == [True, False]
    assert alone.in_parts and not any(one.in_parts for one in held)
    assert {one.places for one in held} == {alone.places}


def test_labels_that_the_recipe_names_shape_the_head():
    heads = dict(blueprint_of("sequence_classification", "labels: [a, b, c, d]").assembly.model.heads)
    assert heads["task"].num_labels == 4


def test_the_vocabulary_has_the_size_that_is_asked_for():
    config = blueprint_of("masked_lm").assembly.model.config
    assert config.vocab_size == VOCABULARY


def test_a_planned_tokenizer_reads_words_and_what_a_template_wrote():
    tokenizer = PlannedTokenizer(100, sentinels=3, special_tokens=("<|im_start|>", "<|im_end|>"))
    assert tokenizer.sentinel_ids == (5, 6, 7)
    (ids,) = tokenizer.encode(["three words <|im_end|>"])
    assert ids.tolist() == [10, 10, 10]
    parts = [Part("<|im_start|>user ", template=True), Part("two words", learned=True), Part("<|im_end|>", True)]
    ((ids, learned),) = tokenizer.encode_parts([parts])
    assert ids.tolist() == [8, 10, 10, 10, 9]
    assert learned.tolist() == [False, False, True, True, False]
    ((ids, spans),) = tokenizer.encode_with_spans(["ab  cde"])
    np.testing.assert_array_equal(spans, [[0, 2], [4, 7]])
    assert tokenizer.special_ids == set(range(10))
