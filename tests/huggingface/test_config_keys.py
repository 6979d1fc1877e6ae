"""Our reading of config.json has the defaults of transformers' own classes, and what we write reads back the same."""

from __future__ import annotations

import dataclasses
import json

import pytest
import transformers
from huggingface.reference_models import CASES
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


def _scaled(kind: str, **values):
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 5000.0, **values}}


_SCALINGS = {
    "linear": _scaled("linear", factor=2.0),
    "dynamic": _scaled("dynamic", factor=2.0),
    "yarn": _scaled("yarn", factor=4.0, original_max_position_embeddings=8, beta_fast=16.0, beta_slow=2.0,
                    attention_factor=1.5, truncate=False),
    "llama3": _scaled("llama3", factor=8.0, original_max_position_embeddings=16, low_freq_factor=2.0,
                      high_freq_factor=5.0),
}  # fmt: skip
_SCALED = ("llama", "mistral", "qwen2", "qwen3", "gemma2", "olmo2", "smollm3", "gpt-neox")


def _variant(name: str, **keys):
    return CASES[name].config, CASES[name].keys | keys


# Beyond the models that are compared with torch, whatever a class of configurations can say.
VARIANTS = {
    **{f"{name}-rope-{kind}": _variant(name, **keys) for name in _SCALED for kind, keys in _SCALINGS.items()},
    "gemma3-scaled": _variant("gemma3", rope_parameters={
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 77.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 33.0},
    }),
    "gemma3-full": _variant("gemma3", layer_types=["full_attention"] * 7),
    "gemma2-full": _variant("gemma2", layer_types=["full_attention"] * 3, query_pre_attn_scalar=144),
    "gemma2-uncapped": _variant("gemma2", attn_logit_softcapping=None, final_logit_softcapping=None),
    "qwen3-windows": _variant("qwen3", use_sliding_window=True, sliding_window=5, max_window_layers=1),
    "smollm3-windows": _variant("smollm3", use_sliding_window=True, sliding_window=5),
    "smollm3-unrotated": _variant("smollm3", no_rope_layers=[0] * 5),
    "phi3-partial": _variant("phi3", num_attention_heads=3, num_key_value_heads=3, partial_rotary_factor=0.5),
}  # fmt: skip

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


@pytest.mark.parametrize("name", [*CASES, *VARIANTS])
def test_every_model_is_written_as_it_is_read(name):
    """By us and by the class, with every key that the class has."""
    config_class, keys = VARIANTS[name] if name in VARIANTS else (CASES[name].config, CASES[name].keys)
    config = HuggingFaceConfig(getattr(transformers, config_class)(**keys).to_dict(), "config.json")
    architecture = architecture_of(config)
    model = architecture.model_config(config)
    written = architecture.config_values(model)
    assert architecture.model_config(HuggingFaceConfig(json.loads(json.dumps(written)), "config.json")) == model
    theirs = transformers.AutoConfig.for_model(**written).to_dict()
    assert architecture.model_config(HuggingFaceConfig(theirs, "config.json")) == model


@pytest.mark.parametrize("base", ["llama", "mistral", "qwen3", "gemma2", "gemma3", "olmo2", "smollm3"])
def test_a_class_that_rotates_whole_heads_is_not_given_a_part_of_them(base):
    values = CASES[base].keys | {"model_type": getattr(transformers, CASES[base].config).model_type}
    with pytest.raises(CheckpointError, match=r"partial_rotary_factor = 0\.5 is not supported"):
        read(values | {"partial_rotary_factor": 0.5})


@pytest.mark.parametrize("kind", ["linear", "yarn"])
def test_phi3_is_not_read_with_a_scaling_that_its_class_refuses_or_takes_for_another(kind):
    values = CASES["phi3"].keys | {"model_type": "phi3", "rope_scaling": {"type": kind, "factor": 2.0}}
    with pytest.raises(
        CheckpointError, match=f'rope_type = "{kind}" is not supported; supported: "default", "longrope"'
    ):
        read(values)


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
