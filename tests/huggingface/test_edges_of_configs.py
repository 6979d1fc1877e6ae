"""Edges of foreign directories: computed as transformers does, or refused with the file, the key and the value."""

from __future__ import annotations

import dataclasses
import json
import logging

import numpy as np
import pytest
import torch
from huggingface import reference_models
from huggingface.reference_models import CASES

import jaxft
from jaxft.errors import CheckpointError
from jaxft.huggingface.architectures import architecture_of
from jaxft.huggingface.configuration import HuggingFaceConfig
from jaxft.huggingface.safetensors_files import INDEX, SINGLE


def read(name, **keys):
    model_type = {"AlbertConfig": "albert", "DebertaV2Config": "deberta-v2", "Gemma3TextConfig": "gemma3_text"}
    kind = model_type.get(CASES[name].config, name.partition("-")[0])
    config = HuggingFaceConfig({**CASES[name].keys, "model_type": kind, **keys}, "config.json")
    return architecture_of(config).model_config(config)


def sets(full=None, sliding=None):
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    return {"full_attention": plain | (full or {}), "sliding_attention": plain | (sliding or {})}


LINEAR = {"rope_type": "linear", "factor": 4.0}


@pytest.mark.parametrize(
    ("name", "keys", "said"),
    [
        ("modernbert", {"rope_parameters": sets(sliding=LINEAR)}, 'sliding_attention: rope_type = "linear" is not'),
        ("modernbert", {"rope_scaling": LINEAR}, 'rope_scaling: rope_type = "linear" is not supported'),
        ("gemma3", {"rope_parameters": sets(sliding=LINEAR)}, 'sliding_attention: rope_type = "linear" is not'),
        ("gemma3", {"rope_parameters": sets(), "rope_scaling": LINEAR}, "has both rope_parameters and rope_scaling"),
        ("albert", {"embedding_size": 24}, "embedding_size = 24 is not supported where hidden_size is the same"),
        (
            "deberta-v2",
            {"max_relative_positions": 5},
            "must be above 5 with position_buckets = 8, found 5",
        ),
        ("deberta-v2", {"max_relative_positions": 2}, "found 2"),
    ],
)
def test_what_no_block_computes_is_refused_by_key_and_value(name, keys, said):
    with pytest.raises(CheckpointError, match=r"^config\.json") as raised:
        read(name, **keys)
    assert said in str(raised.value)


def test_a_base_that_a_set_of_rotary_keys_lacks_is_that_of_the_class():
    few = {"full_attention": {"rope_type": "default"}, "sliding_attention": {"rope_type": "default"}}
    for name, base, local in (("modernbert", 160000.0, 10000.0), ("gemma3", 1000000.0, 10000.0)):
        model = read(name, rope_parameters=few)
        assert (model.rotary_base, model.local_rotary_base) == (base, local)
    # ModernBERT's class has no key rope_theta.
    assert read("modernbert", rope_parameters=few, rope_theta=3.0).rotary_base == 160000.0
    assert read("modernbert", rope_parameters=few, global_rope_theta=3.0).rotary_base == 3.0
    assert read("gemma3", rope_parameters=few, rope_theta=3.0).rotary_base == 3.0


@pytest.mark.parametrize(("name", "padding"), [("mpnet", 0), ("mpnet", None), ("roberta", None), ("roberta", 3)])
def test_positions_are_counted_by_the_padding_token_of_the_class(name, padding, tmp_path):
    case = CASES[name]
    keys = {key: value for key, value in case.keys.items() if key != "pad_token_id"}
    model = reference_models.make(
        dataclasses.replace(case, keys=keys if padding is None else keys | {"pad_token_id": padding})
    )
    reference_models.save(model, tmp_path)
    if padding is None:
        config = json.loads((tmp_path / "config.json").read_text())
        config.pop("pad_token_id", None)
        (tmp_path / "config.json").write_text(json.dumps(config))
    ids = np.array([[5, 6, 3, 7, 8, 9, 1, 0], [7, 0, 8, 9, 4, 3, 6, 5]])
    mask = np.array([[1, 1, 1, 1, 1, 1, 0, 0], [1] * 8])
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).logits.numpy()
    found = np.asarray(jaxft.load_pretrained(tmp_path)(ids, mask).logits)
    np.testing.assert_allclose(found * mask[..., None], wanted * mask[..., None], atol=2e-4)


def test_a_single_file_beside_an_index_is_the_one_that_is_read_as_transformers_does(tmp_path, caplog):
    model = reference_models.make(CASES["bert"])
    model.save_pretrained(tmp_path, max_shard_size="10KB")
    assert (tmp_path / INDEX).is_file()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(0.9)
    model.save_pretrained(tmp_path / "single")
    (tmp_path / "single" / SINGLE).rename(tmp_path / SINGLE)
    inputs = reference_models.inputs_of(CASES["bert"])
    with torch.no_grad():
        again = type(model).from_pretrained(tmp_path).eval()
        wanted = again(**{name: torch.from_numpy(np.array(value)) for name, value in inputs.items()})[0].numpy()
    with caplog.at_level(logging.WARNING, "jaxft"):
        found = np.asarray(jaxft.load_pretrained(tmp_path)(**inputs).hidden)
    mask = inputs["attention_mask"][..., None]
    np.testing.assert_allclose(found * mask, wanted * mask, atol=2e-4)
    assert f"has both {SINGLE} and {INDEX}: the former is read" in caplog.text


def test_what_float16_cannot_hold_is_refused_by_the_tensors_name(tmp_path):
    reference_models.save(reference_models.make(CASES["bert"]), tmp_path / "bert")
    loaded = jaxft.load_pretrained(tmp_path / "bert")
    params = loaded.params
    table = params["trunk"]["embeddings"]["tokens"]["table"].at[3, 4].set(7e4)
    embeddings = {**params["trunk"]["embeddings"], "tokens": {"table": table}}
    loaded = dataclasses.replace(loaded, params={**params, "trunk": {**params["trunk"], "embeddings": embeddings}})
    with pytest.raises(CheckpointError, match=r"word_embeddings\.weight has values up to 7e\+04, and float16"):
        jaxft.save_pretrained(loaded, tmp_path / "half", dtype="float16")
    jaxft.save_pretrained(loaded, tmp_path / "whole", dtype="bfloat16")
