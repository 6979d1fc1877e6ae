"""Our reading of config.json has the defaults of transformers' own classes, and what we write reads back the same."""

from __future__ import annotations

import dataclasses

import pytest
import transformers
from reference_models import CASES
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import ARCHITECTURES, architecture_of
from jaxft.huggingface.configuration import ACTIVATIONS, HuggingFaceConfig, Key
from jaxft.models.config import ModelConfig

MODEL_TYPES = [(name, architecture) for architecture in ARCHITECTURES for name in architecture.model_types]
# Fields where None stands for what other fields say.
DERIVED = {
    "num_kv_heads": lambda model: model.num_heads,
    "head_dim": lambda model: model.embed_dim // model.num_heads,
    "num_decoder_layers": lambda model: model.num_layers,
}
# Keys of older files that today's classes have under no name: T5 has no longest sequence, these heads have one width.
GONE = {
    ("t5", "n_positions"), ("mt5", "n_positions"), ("qwen2", "head_dim"), ("phi3", "head_dim"), ("olmo2", "head_dim"),
    ("smollm3", "head_dim"),
}  # fmt: skip
# What the classes have by default and no block computes.
UNSUPPORTED = {"deberta-v2": ("relative_attention", False)}

each_model_type = pytest.mark.parametrize(("name", "architecture"), MODEL_TYPES, ids=[name for name, _ in MODEL_TYPES])


def read(values) -> ModelConfig:
    """Our reading, with what is derived written out."""
    config = HuggingFaceConfig(values, "config.json")
    model = architecture_of(config).model_config(config)
    unset = {field: of(model) for field, of in DERIVED.items() if getattr(model, field) is None}
    return dataclasses.replace(model, **unset)


def supported_values(name: str):
    """All keys of a class with their defaults, and what makes them a model that we have."""
    values = transformers.AutoConfig.for_model(name).to_dict()
    if name in UNSUPPORTED:
        values |= {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 256}
        values |= {"share_att_key": True, "norm_rel_ebd": "layer_norm"}
    return values


@each_model_type
def test_a_default_is_that_of_the_class(name, architecture):
    whole = transformers.AutoConfig.for_model(name)
    for field, key in architecture.keys.items():
        if key.default is Key("").default:
            assert hasattr(whole, key.name), f"{name} has no {key.name}"
            continue
        if not hasattr(whole, key.name):
            assert (name, key.name) in GONE
            continue
        # None is written out when a configuration is made, so the declaration tells more than the value.
        default = getattr(CONFIG_MAPPING[name], key.name, getattr(whole, key.name))
        if key.default is None:
            assert default is None or field in DERIVED, key.name
        elif key.kind == "activation":
            assert ACTIVATIONS[key.default] == ACTIVATIONS[default], key.name
        else:
            assert key.default == default, key.name


@each_model_type
def test_a_switch_that_we_fix_is_what_the_class_has_by_default(name, architecture):
    whole = transformers.AutoConfig.for_model(name)
    for key, values in architecture.supported.items():
        found = getattr(whole, key, values[0])
        assert found in values or (name, key) == (name, UNSUPPORTED.get(name, (None,))[0]), key


@each_model_type
def test_the_whole_configuration_of_a_class_reads_or_names_the_key_that_does_not(name, architecture):
    values = transformers.AutoConfig.for_model(name).to_dict()
    if name in UNSUPPORTED:
        key, value = UNSUPPORTED[name]
        assert values[key] == value
        with pytest.raises(CheckpointError, match=f"{key} = .* is not supported; supported: "):
            read(values)
        return
    model = read(values)
    for field, key in architecture.keys.items():
        wanted = values.get(key.name)
        if wanted is not None and key.kind != "activation" and field != "max_length":
            assert getattr(model, field) == wanted, field


@each_model_type
def test_a_file_without_the_optional_keys_is_the_model_of_the_class(name, architecture):
    values = supported_values(name)
    required = {key.name for key in architecture.keys.values() if key.default is Key("").default}
    few = {key: value for key, value in values.items() if key in required | {"model_type"}}
    if name in UNSUPPORTED:
        few |= {key: values[key] for key in ("relative_attention", "pos_att_type", "position_buckets")}
        few |= {key: values[key] for key in ("share_att_key", "norm_rel_ebd")}
    # Attributes that the class keeps under another name than the file's.
    few |= {key: getattr(transformers.AutoConfig.for_model(name), key) for key in required - set(few)}
    assert read(few) == read(values)


@pytest.mark.parametrize("case", CASES.values(), ids=list(CASES))
def test_what_the_class_adds_to_some_keys_changes_nothing(case):
    config_class = getattr(transformers, case.config)
    values = case.keys | {"model_type": config_class.model_type}
    ours, theirs = read(values), read(config_class(**case.keys).to_dict())
    if case.untie:
        # T5's class calls every model tied; whether it is shows in its weights.
        ours = dataclasses.replace(ours, tied_embeddings=theirs.tied_embeddings)
    assert ours == theirs


@each_model_type
def test_keys_that_we_write_are_read_as_the_same_model(name, architecture):
    model = read(supported_values(name))
    assert read(architecture.config_values(model)) == model


@each_model_type
def test_keys_that_we_write_are_read_by_the_class_as_the_same_model(name, architecture):
    model = read(supported_values(name))
    written = architecture.config_values(model)
    theirs = transformers.AutoConfig.for_model(**written).to_dict()
    assert read(theirs) == model


@each_model_type
def test_a_missing_key_that_has_no_default_is_named(name, architecture):
    values = supported_values(name)
    # The number of layers bounds others that are computed first.
    key = architecture.keys["embed_dim"].name
    with pytest.raises(CheckpointError, match=f"config.json lacks {key}$"):
        read({other: value for other, value in values.items() if other != key})
