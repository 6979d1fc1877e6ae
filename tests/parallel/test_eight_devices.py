"""The same losses and parameters on every mesh, and parameters that are really split."""

from __future__ import annotations

import numpy as np
import pytest
from on_eight_devices import told_by

MESHES = ["data", "fsdp", "tensor", "mixed", "context"]
BLOCK = "trunk/body/stack/layers/block_0"


@pytest.fixture(scope="module")
def runs() -> dict[tuple, dict]:
    told = told_by("eight_devices.py")
    return {(run["mesh"], run["dropout"], run["micro_batches"], run["loss_parts"]): run for run in told}


def assert_same(run: dict, other: dict) -> None:
    """Losses, gradient norms and parameters up to the order of float32 sums."""
    np.testing.assert_allclose(run["seen"], other["seen"], rtol=2e-5)
    np.testing.assert_allclose(run["parameters"], other["parameters"], atol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_a_mesh_trains_as_one_device_does_with_the_same_dropout(runs, mesh):
    assert_same(runs[mesh, 0.3, 1, 1], runs["one", 0.3, 1, 1])


@pytest.mark.slow
def test_dropout_would_show(runs):
    """Other masks than those of one device would change the loss by far more than the tolerance."""
    with_dropout, without = (np.asarray(runs["one", rate, 1, 1]["seen"]) for rate in (0.3, 0.0))
    assert (np.abs(with_dropout / without - 1) > 1e-3).all()


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["one", "mixed"])
def test_two_micro_batches_are_one_batch(runs, mesh):
    assert_same(runs[mesh, 0.0, 2, 1], runs["one", 0.0, 1, 1])


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["fsdp", "mixed", "context"])
def test_a_loss_in_parts_is_the_whole_loss(runs, mesh):
    """Of the three places of each row, which neither two parts nor the devices that share a length divide."""
    assert_same(runs[mesh, 0.0, 1, 2], runs["one", 0.0, 1, 1])


# Of each parameter the parts it lies in, by mesh: embed over fsdp; heads, feed-forward and vocabulary over tensor.
PARTS = {
    "trunk/embeddings/tokens/table": {"fsdp": 8, "tensor": 2, "mixed": 4, "context": 2},
    f"{BLOCK}/attention/query/kernel": {"fsdp": 8, "tensor": 2, "mixed": 4, "context": 2},
    f"{BLOCK}/attention/output/kernel": {"fsdp": 8, "tensor": 2, "mixed": 4, "context": 2},
    f"{BLOCK}/feed_forward/input/kernel": {"fsdp": 8, "tensor": 2, "mixed": 4, "context": 2},
    f"{BLOCK}/feed_forward/output/kernel": {"fsdp": 8, "tensor": 2, "mixed": 4, "context": 2},
    "head_masked_lm/transform/kernel": {"fsdp": 8, "mixed": 2},
    "head_masked_lm/projection/bias": {"tensor": 2, "mixed": 2, "context": 2},
    f"{BLOCK}/attention_norm/scale": {},
}


@pytest.mark.slow
@pytest.mark.parametrize("mesh", ["one", *MESHES])
def test_parameters_and_moments_are_split_as_the_mesh_asks(runs, mesh):
    run = runs[mesh, 0.3, 1, 1]
    for name, parts in PARTS.items():
        for shards in (run["shards"], run["moment_shards"]):
            shape, held = shards[name]
            assert np.prod(shape) / np.prod(held) == parts.get(mesh, 1), name


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mesh", "parts"), [("one", 1), ("data", 8), ("fsdp", 8), ("tensor", 4), ("mixed", 4), ("context", 2)]
)
def test_a_batch_is_split_by_rows(runs, mesh, parts):
    for shape, held in runs[mesh, 0.3, 1, 1]["batch_shards"].values():
        assert shape[0] == held[0] * parts and shape[1:] == held[1:]
