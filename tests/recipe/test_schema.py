"""Recipes as a whole: those that come with jaxft, round trips, and values that do not fit each other."""

from __future__ import annotations

import pytest

from jaxft.errors import RecipeError
from jaxft.models.config import ModelConfig
from jaxft.recipe import library
from jaxft.recipe.presets import PRESETS

MINIMAL = """
name: minimal
model: {preset: encoder-tiny}
tokenizer: {train: {}}
streams:
  text:
    source: {text: words.txt}
    objective: {kind: masked_lm}
    batch_size: 4
training: {steps: 1}
"""


@pytest.mark.parametrize("name", library.names())
def test_every_recipe_of_jaxft_decodes_is_short_and_round_trips(name):
    path = library.path_of(name)
    recipe, _ = library.load_recipe(path)
    assert library.recipe_from_text(library.recipe_to_text(recipe), "again") == recipe
    lines = [line for line in path.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert len(lines) <= 40
    assert library.summary_of(name) and path.read_text().startswith("# ")


def test_a_recipe_is_found_by_name_and_a_wrong_name_gets_the_nearest():
    assert library.load_recipe("quickstart")[0].name == "quickstart-pretrain"
    with pytest.raises(RecipeError, match="did you mean quickstart"):
        library.path_of("quikstart")
    with pytest.raises(RecipeError, match="did you mean bidirectional/questions or finetune/questions"):
        library.load_recipe("questions")
    with pytest.raises(RecipeError, match="no such recipe; "):
        library.load_recipe("elsewhere/of-my-own.yaml")


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_a_model(preset):
    recipe = library.recipe_from_text(MINIMAL.replace("encoder-tiny", preset), "r.yaml")
    config = recipe.model_config(None, vocab_size=1000)
    assert isinstance(config, ModelConfig)
    # Rows of the embedding come in multiples of 64; images have none.
    assert config.vocab_size == (1 if config.family == "vision" else 1024)


def test_own_fields_win_over_the_preset_and_over_inherited_ones():
    text = MINIMAL.replace("{preset: encoder-tiny}", "{preset: encoder-tiny, num_layers: 7, vocab_size: 999}")
    config = library.recipe_from_text(text, "r.yaml").model_config(None, vocab_size=10)
    assert (config.num_layers, config.vocab_size, config.embed_dim) == (7, 999, PRESETS["encoder-tiny"]["embed_dim"])
    inherited = ModelConfig(vocab_size=77, embed_dim=64, num_heads=2)
    text = MINIMAL.replace("{preset: encoder-tiny}", "{pretrained: somewhere, dropout: 0.2}")
    config = library.recipe_from_text(text, "r.yaml").model_config(inherited, vocab_size=10)
    assert (config.vocab_size, config.embed_dim, config.dropout) == (77, 64, 0.2)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("training.steps=0", "training.steps: must be at least 1, found 0"),
        ("training.epochs=2", "training.steps: give either steps or epochs"),
        ("training.loss_parts=0", "training.loss_parts: must be at least 1, found 0"),
        ("training.reduce_dtype=bfloat16", "training.reduce_dtype: bfloat16 needs precision bfloat16, found float32"),
        ("training.seed=-1", "training.seed: must be in [0, 2**31), found -1"),
        ("training.micro_batches=3", "training.micro_batches: 3 does not divide streams.text.batch_size 4"),
        ("streams.text.batch_size=0", "streams.text.batch_size: must be at least 1, found 0"),
        (
            "streams.text.objective.mask_rate=1.5",
            "streams.text.objective.mask_rate: must lie between 0 and 1, found 1.5",
        ),
        ("streams.text.objective.kind=mlm", "streams.text.objective.kind: expected one of masked_lm"),
        ("streams={}", "streams: needs at least one stream"),
        (
            "evaluation.held={stream: txt, source: {text: x}}",
            "evaluation.held.stream: 'txt' is not one of the streams: text",
        ),
        ("evaluation.held={source: {text: x}}", "evaluation.held.stream: give either stream or objective"),
        ("optimizer.learning_rate=0", "optimizer.learning_rate: must be positive, found 0.0"),
        ("optimizer.no_decay=['(']", "optimizer.no_decay: '(' is not a regular expression"),
        ("schedule.warmup=1.5", "schedule.warmup: must be a share below 1 or a whole number of steps"),
        ("model.preset=encoder-tny", "model.preset: 'encoder-tny' is not one of encoder-tiny"),
        ("model.pretrained=x", "model.preset: give either preset or pretrained"),
        ("tokenizer=null", "tokenizer: a model that is not pretrained needs one"),
        ("mesh.data=0", "mesh.data: must be a positive number of devices or -1"),
        ("mesh.tensor=-1", "mesh.tensor: only one axis can be -1, and data already is"),
        ("checkpoint.keep=0", "checkpoint.keep: must be at least 1, found 0"),
        ("name=a/b", "name: must be usable as the name of a directory"),
        ("streams.text.source={jsonl: a, csv: b}", "give exactly one of"),
    ],
)
def test_impossible_values_are_named_by_their_key(override, said):
    with pytest.raises(RecipeError) as error:
        library.recipe_from_text(MINIMAL, "r.yaml", [override])
    assert said in str(error.value)
