"""adapter_config.json is read as PEFT reads it: which modules it adapts, at which rank, by which factor."""

from __future__ import annotations

import json

import peft
import pytest
from peft.tuners.tuners_utils import check_target_module_exists
from peft.utils.other import get_pattern_key

from jaxft.errors import CheckpointError
from jaxft.huggingface.peft_config import CONFIG_FILE, read_adapter_config

MODULES = [
    f"{trunk}.layers.{layer}.{name}"
    for trunk in ("model", "model.decoder")
    for layer in (0, 1, 11)
    for name in ("self_attn.q_proj", "self_attn.v_proj", "mlp.up_proj", "mlp.experts.1.up_proj")
] + ["lm_head", "classifier.dense", "my_classifier"]
PATTERNS = [
    "q_proj", "(q_proj|v_proj)", r".*layers\.1\..*(q_proj|v_proj)", "^model.layers.0.self_attn.q_proj", "proj", "_proj",
    "layers.1.self_attn.v_proj", r"layers\.\d+\.mlp.*", "lm_head", "",
]  # fmt: skip
TARGETS = [
    {"target_modules": ["q_proj", "up_proj"]},
    {"target_modules": ["self_attn.q_proj", "lm_head"], "exclude_modules": ["layers.1.self_attn.q_proj"]},
    {"target_modules": r".*\.(q|v)_proj", "exclude_modules": r".*layers\.11\..*"},
    {"target_modules": "q_proj"},
    {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
    {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": 11, "layers_pattern": "layers"},
    {"target_modules": ["up_proj"], "layers_to_transform": [0, 1], "layers_pattern": ["blocks", "layers"]},
    {"target_modules": ["up_proj"], "layers_to_transform": [1], "layers_pattern": ["experts"]},
    {"target_modules": ["dense", "q_proj"], "modules_to_save": ["classifier", "self_attn"]},
]


def read(tmp_path, **values):
    (tmp_path / CONFIG_FILE).write_text(json.dumps({"peft_type": "LORA", **values}))
    return read_adapter_config(tmp_path)


@pytest.mark.parametrize("first", PATTERNS)
@pytest.mark.parametrize("second", PATTERNS)
def test_a_pattern_is_a_regular_expression_of_whole_names_the_first_of_which_counts(tmp_path, first, second):
    patterns = {first: 3, second: 5}
    config = read(tmp_path, r=2, lora_alpha=7, rank_pattern=patterns, alpha_pattern=patterns)
    for module in MODULES:
        wanted = patterns.get(get_pattern_key(patterns, module))
        assert config.rank(module) == (wanted or 2)
        assert config.scale(module) == (wanted or 7) / (wanted or 2)


@pytest.mark.parametrize("values", TARGETS, ids=map(str, range(len(TARGETS))))
def test_the_modules_that_are_adapted_are_those_of_peft(tmp_path, values):
    config = read(tmp_path, **values)
    theirs = peft.LoraConfig(**values)
    assert [config.is_target(name) for name in MODULES] == [
        bool(check_target_module_exists(theirs, name)) for name in MODULES
    ]


def test_every_key_that_peft_writes_is_known(tmp_path):
    values = {**peft.LoraConfig(target_modules=["q_proj"]).to_dict(), "target_modules": ["q_proj"], "peft_type": "LORA"}
    assert read(tmp_path, **values).rank("q_proj") == 8


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("rank_pattern", {"(": 3}, "rank_pattern must be whole numbers above 0 by regular expressions"),
        ("alpha_pattern", {"q": "3"}, "alpha_pattern must be finite numbers by regular expressions"),
        ("r", 0, "r must be a whole number above 0, found 0"),
        ("target_modules", "(", "target_modules must be a list of names or a regular expression"),
        ("exclude_modules", [3], "exclude_modules must be a list of names"),
        ("task_type", "IMAGE", "task_type is 'IMAGE'; supported: 'SEQ_CLS'"),
        ("kasa_config", {"beta": 1}, "kasa_config is "),
        ("use_something_new", True, "use_something_new is True, and what it changes is not known"),
    ],
)
def test_what_is_not_understood_is_refused_by_key_and_value(tmp_path, key, value, said):
    with pytest.raises(CheckpointError) as raised:
        read(tmp_path, **{key: value})
    assert f"{tmp_path / CONFIG_FILE}: {said}" in str(raised.value)
