"""The parity test has power: each of these defects, once planted, is far outside of its tolerance."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from huggingface.reference_models import CASES, inputs_of, make, save

from jaxft.huggingface.loaded import load_model
from jaxft.models.model import Model


def _with(**fields):
    """The same weights read with another configuration."""

    def plant(loaded):
        config = dataclasses.replace(loaded.config, **fields)
        model = Model(config, loaded.model.heads, loaded.model.compute)
        return dataclasses.replace(loaded, config=config, model=model)

    return plant


def _exchanged(one: str, other: str):
    """The weights of two projections in each other's place."""

    def exchange(tree):
        if not isinstance(tree, dict):
            return tree
        tree = {name: exchange(branch) for name, branch in tree.items()}
        return {**tree, one: tree[other], other: tree[one]} if one in tree and other in tree else tree

    return lambda loaded: dataclasses.replace(loaded, params=exchange(loaded.params))


def _interleaved(loaded):
    """Rotary pairs next to each other (GPT-J's order) instead of in two halves."""

    def reorder(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        if not name.endswith(("query/kernel", "key/kernel")):
            return leaf
        return np.concatenate([leaf[..., ::2], leaf[..., 1::2]], axis=-1)

    return dataclasses.replace(loaded, params=jax.tree_util.tree_map_with_path(reorder, loaded.params))


def _transposed_heads(loaded):
    """Grouped keys given to the query heads in another order."""

    def flip(path, leaf):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        return leaf[..., ::-1, :] if name.endswith(("key/kernel", "value/kernel")) else leaf

    return dataclasses.replace(loaded, params=jax.tree_util.tree_map_with_path(flip, loaded.params))


DEFECTS = {
    "keys and values exchanged": ("bert-masked-lm", _exchanged("key", "value")),
    "no scale of the scores": ("bert-masked-lm", _with(attention_scale=1.0)),
    "norm before instead of after": ("bert-masked-lm", _with(norm_placement="pre")),
    "the approximate GELU": ("bert-masked-lm", _with(activation="gelu_tanh")),
    "positions not offset": ("roberta", _with(position_offset=1, max_length=33)),
    "rotary pairs interleaved": ("llama", _interleaved),
    "another rotary base": ("llama", _with(rotary_base=5000.0)),
    "grouped heads in another order": ("llama", _transposed_heads),
    "gate and input exchanged": ("llama", _exchanged("gate", "input")),
    "not causal": ("llama", _with(family="encoder")),
    "long waves not stretched": ("llama3", _with(rotary_scaling=None)),
    "the window one wider": ("mistral", _with(windows=(4,))),
    "no soft cap of the scores": ("gemma2-capped", _with(attention_soft_cap=None)),
    "norms without the offset": ("gemma2", _with(norm_offset=False)),
    "embedding not scaled": ("gemma2", _with(embedding_scale=1.0)),
    "one rotary base for all layers": ("gemma3", _with(local_rotary_base=None)),
    "the wrong layer not rotated": ("smollm3", _with(rotary_layers=(True, True, False, True))),
    "tied logits not scaled": ("t5", _with(logit_scale=1.0)),
    "scores scaled": ("t5", _with(attention_scale=None)),
    "buckets over another distance": ("t5", _with(relative_max_distance=20)),
    "parallel instead of serial": ("gpt-neox-serial", _with(parallel_residual=True)),
    "windows in the wrong layers": ("modernbert", _with(windows=(2, 0, 2))),
    "queries and keys exchanged": ("deberta-v2", _exchanged("query", "key")),
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory):
    """Torch's logits and our model of a case, made once."""
    made = {}

    def get(name: str):
        if name not in made:
            directory = tmp_path_factory.mktemp(name)
            theirs = make(CASES[name])
            save(theirs, directory)
            inputs = inputs_of(CASES[name])
            with torch.no_grad():
                output = theirs(**{key: torch.from_numpy(np.array(value)) for key, value in inputs.items()})
            made[name] = inputs, output.logits.numpy(), load_model(directory)
        return made[name]

    return get


# One of weights, of norms, of masks and of rotations; the others are of the whole suite.
QUICK = ("keys and values exchanged", "norm before instead of after", "not causal", "another rotary base")


@pytest.mark.parametrize(
    "defect", [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in DEFECTS]
)
def test_a_planted_defect_is_seen(defect, pairs):
    name, plant = DEFECTS[defect]
    inputs, expected, loaded = pairs(name)
    real = inputs.get("decoder_attention_mask", inputs["attention_mask"])[..., None]
    right = np.abs(np.asarray(loaded(**inputs).logits) - expected) * real
    wrong = np.abs(np.asarray(plant(loaded)(**inputs).logits) - expected) * real
    assert right.max() <= 1e-4
    assert wrong.max() > 2e-4
