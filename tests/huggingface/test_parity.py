"""Every architecture computes what torch computes, in values and gradients, and goes back unchanged."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest
import torch
from huggingface.reference_models import CASES, inputs_of, make, save

from jaxft.huggingface.exporting import tensor_value
from jaxft.huggingface.loaded import load_model, save_model
from jaxft.huggingface.safetensors_files import stored_tensors
from jaxft.models.model import flat_paths

# One of each kind of position, mask and family; the whole suite compares every case.
QUICK = ("bert-masked-lm", "deberta-v2", "gpt2", "llama", "gemma2-capped", "t5", "bart", "vit")


@pytest.fixture(
    scope="module", params=[name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in CASES]
)
def pair(request, tmp_path_factory):
    """A case with its torch model, its directory and our model."""
    case = CASES[request.param]
    directory = tmp_path_factory.mktemp(request.param)
    theirs = make(case)
    save(theirs, directory)
    return case, theirs, directory, load_model(directory)


def _theirs(model, inputs):
    """Logits, or hidden states where the model has no head."""
    output = model(**{name: torch.from_numpy(np.array(value)) for name, value in inputs.items()})
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], dim=-1)
    for name in ("logits", "prediction_logits", "last_hidden_state"):
        if name in output:
            return output[name]
    raise AssertionError(list(output))


def _real(inputs, value) -> np.ndarray:
    """Which results are of real tokens, shaped to multiply `value`."""
    mask = inputs.get("decoder_attention_mask", inputs.get("attention_mask"))
    if mask is None or value.ndim < 2 or value.shape[:2] != mask.shape:
        return np.ones([1] * value.ndim)
    return mask.reshape(*mask.shape, *[1] * (value.ndim - 2))


def _ours(loaded, inputs):
    output = loaded(**inputs)
    return output.hidden if output.logits is None else output.logits


def test_values_gradients_and_the_way_back(pair, tmp_path):
    case, theirs, directory, loaded = pair
    inputs = inputs_of(case)
    expected = _theirs(theirs, inputs)
    real = _real(inputs, expected)
    toward = np.random.default_rng(1).normal(size=expected.shape).astype(np.float32) * real.astype(np.float32)
    ours, gradients = _value_and_gradients(loaded, inputs, toward)
    assert ours.shape == tuple(expected.shape)
    np.testing.assert_allclose(ours * real, expected.detach().numpy() * real, atol=1e-4, rtol=0)
    (expected * torch.from_numpy(toward)).sum().backward()
    _check_gradients(theirs, loaded, gradients)

    save_model(loaded, tmp_path / "back")
    before, after = stored_tensors(directory), stored_tensors(tmp_path / "back")
    assert after.keys() == {name for name in before if name in loaded.form.names.values()}
    for name in after:
        assert before[name].dtype == after[name].dtype
        np.testing.assert_array_equal(before[name].read(), after[name].read(), err_msg=name)


def _value_and_gradients(loaded, inputs, toward):
    """Ours, and the gradients of their sum weighted by `toward`."""

    def weighted(params):
        value = _ours(dataclasses.replace(loaded, params=params), inputs)
        return (value * toward).sum(), value

    gradients, value = jax.jit(jax.grad(weighted, has_aux=True))(loaded.params)
    return np.asarray(value), gradients


def _check_gradients(theirs, loaded, gradients):
    flat = flat_paths(gradients)
    expected = {name: p.grad.numpy() for name, p in theirs.named_parameters() if p.grad is not None}
    compared = 0
    for name, tensor in loaded.form.placed.items():
        file_name = loaded.form.names[name]
        found = next((n for n in (file_name, file_name.removeprefix("transformer.")) if n in expected), None)
        if found is None:
            continue
        wanted = expected[found]
        error = np.abs(tensor_value(tensor, flat) - wanted).max()
        assert error <= 1e-4 * max(np.abs(wanted).max(), 1e-2), f"{name}: {error} beside {np.abs(wanted).max()}"
        compared += 1
    assert compared >= min(len(expected) - 1, 5), sorted(expected)
