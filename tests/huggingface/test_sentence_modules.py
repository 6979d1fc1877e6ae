"""Sentence encoders that sentence-transformers wrote: the same vectors, or refused by file, key and value."""

from __future__ import annotations

import json
import pathlib
import shutil

import numpy as np
import pytest
import torch
import transformers
from huggingface import reference_models
from huggingface.reference_models import CASES
from sentence_transformers import SentenceTransformer
from support.tiny_models import WORDS

import jaxft
from jaxft.errors import CheckpointError
from jaxft.huggingface.sentence_modules import longest_sentence

try:
    from sentence_transformers.sentence_transformer import modules
except ImportError:  # before version 5.4
    from sentence_transformers import models as modules

IDS, MASK = np.array([[2, 5, 7, 9, 3], [2, 6, 3, 0, 0]]), np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
PARTS = {
    "mean": lambda: [modules.Pooling(24)],
    "cls-normalized": lambda: [modules.Pooling(24, "cls"), modules.Normalize()],
    "max": lambda: [modules.Pooling(24, "max")],
    "last": lambda: [modules.Pooling(24, "lasttoken")],
    "dense": lambda: [modules.Pooling(24, "cls"), modules.Dense(24, 10), modules.Normalize()],
    "dense-plain": lambda: [
        modules.Pooling(24),
        modules.Dense(24, 24, bias=False, activation_function=torch.nn.Identity()),
        modules.Dense(24, 7, activation_function=torch.nn.GELU()),
    ],
    "dense-residual": lambda: [
        modules.Pooling(24), modules.Dense(24, 24, use_residual=True), modules.Dense(24, 9, use_residual=True),
    ],
    "norm": lambda: [modules.Pooling(24), modules.Normalize(), modules.LayerNorm(24), modules.Dropout(0.5)],
}  # fmt: skip


def written(directory: pathlib.Path, parts) -> SentenceTransformer:
    base = directory.parent / "base"
    reference_models.save(reference_models.make(CASES["bert"]), base)
    (base / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    transformers.BertTokenizer(str(base / "vocab.txt")).save_pretrained(base)
    model = SentenceTransformer(modules=[modules.Transformer(str(base)), *parts], device="cpu").eval()
    generator = torch.Generator().manual_seed(0)
    for part in parts:
        for parameter in part.parameters():
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.4
    model.save(str(directory))
    return model


@pytest.mark.parametrize("name", PARTS)
def test_vectors_are_those_of_the_package_and_its_files_travel(name, tmp_path):
    model = written(tmp_path / "encoder", PARTS[name]())
    with torch.no_grad():
        features = model({"input_ids": torch.from_numpy(IDS), "attention_mask": torch.from_numpy(MASK)})
    wanted = features["sentence_embedding"].numpy()
    loaded = jaxft.load_pretrained(tmp_path / "encoder")
    np.testing.assert_allclose(loaded.embed(IDS, MASK), wanted, atol=1e-5)
    jaxft.save_pretrained(loaded, tmp_path / "copy")
    np.testing.assert_allclose(jaxft.load_pretrained(tmp_path / "copy").embed(IDS, MASK), wanted, atol=1e-5)
    again = SentenceTransformer(str(tmp_path / "copy"), device="cpu").encode(WORDS[5:8])
    np.testing.assert_allclose(again, model.encode(WORDS[5:8]), atol=1e-5)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    directory = tmp_path_factory.mktemp("encoder") / "encoder"
    written(directory, PARTS["dense"]())
    return directory


REFUSED = [
    ("1_Pooling/config.json", "pooling_mode", ["mean", "max"], "pooling by mean, max is not supported"),
    ("1_Pooling/config.json", "pooling_mode", "weightedmean", "pooling by weightedmean is not supported"),
    ("1_Pooling/config.json", "something", 3, "something is 3, and what it changes is not known"),
    ("2_Dense/config.json", "activation_function", "torch.nn.modules.activation.Mish", "activation_function torch.nn"),
    ("2_Dense/config.json", "activation_function", "my.Tanh", "activation_function my.Tanh is not supported"),
    ("2_Dense/config.json", "module_input_name", "token_embeddings", "module_input_name is 'token_embeddings'"),
    ("2_Dense/config.json", "out_features", 11, "[10, 24], its configuration asks for [11, 24]"),
    ("2_Dense/config.json", "bias", False, "has the tensors ['linear.bias', 'linear.weight']"),
    ("sentence_bert_config.json", "transformer_task", "fill-mask", "transformer_task is 'fill-mask'"),
    ("sentence_bert_config.json", "query_length", 8, "query_length is 8"),
    ("sentence_bert_config.json", "do_lower_case", True, "do_lower_case is true, but the tokenizer's"),
    ("config_sentence_transformers.json", "default_prompt_name", "search", "default_prompt_name is 'search'"),
    ("config_sentence_transformers.json", "truncate_dim", 4, "truncate_dim is 4, and what it changes is not known"),
    ("config_sentence_transformers.json", "model_type", "SparseEncoder", "model_type is 'SparseEncoder'"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "key", "value", "said"), REFUSED, ids=[f"{case[1]}-{case[2]}" for case in REFUSED])
def test_what_would_make_other_vectors_is_refused_by_file_key_and_value(encoder, tmp_path, file, key, value, said):
    directory = shutil.copytree(encoder, tmp_path / "encoder")
    config = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**config, "do_lower_case": False}))
    values = json.loads((directory / file).read_text())
    (directory / file).write_text(json.dumps({**values, key: value}))
    with pytest.raises(CheckpointError) as raised:
        jaxft.load_pretrained(directory)
    assert str(directory / file).removesuffix("/config.json") in str(raised.value) and said in str(raised.value)


@pytest.mark.parametrize(
    ("kinds", "said"),
    [
        (["Transformer", "Pooling", "Asym"], "the module 'sentence_transformers.models.Asym' is not supported"),
        (["Transformer", "WeightedLayerPooling", "Pooling"], "WeightedLayerPooling' is not supported"),
        (
            ["Transformer", "Dense", "Pooling"],
            "the modules Transformer, Dense, Pooling are not supported in this",
        ),
        (["Transformer", "Normalize"], "the modules Transformer, Normalize are not supported in this order"),
    ],
)
def test_modules_that_are_not_known_are_refused_by_name(encoder, tmp_path, kinds, said):
    directory = shutil.copytree(encoder, tmp_path / "encoder")
    rows = [{"idx": i, "path": "", "type": f"sentence_transformers.models.{kind}"} for i, kind in enumerate(kinds)]
    (directory / "modules.json").write_text(json.dumps(rows))
    with pytest.raises(CheckpointError, match=r"modules\.json: ") as raised:
        jaxft.load_pretrained(directory)
    assert said in str(raised.value)


def test_a_prompt_that_nobody_asks_for_by_default_changes_nothing(encoder, tmp_path):
    directory = shutil.copytree(encoder, tmp_path / "encoder")
    path = directory / "config_sentence_transformers.json"
    values = json.loads(path.read_text())
    path.write_text(json.dumps({**values, "prompts": {"query": "search: ", "none": ""}, "default_prompt_name": "none"}))
    wanted = jaxft.load_pretrained(encoder).embed(IDS, MASK)
    np.testing.assert_array_equal(jaxft.load_pretrained(directory).embed(IDS, MASK), wanted)


def test_the_longest_sentence_is_read_under_each_of_the_files_names(tmp_path):
    (tmp_path / "sentence_xlm-roberta_config.json").write_text('{"max_seq_length": 77}')
    assert longest_sentence(tmp_path) == 77
