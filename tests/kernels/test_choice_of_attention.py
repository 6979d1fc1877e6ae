"""The fastest kernel that expresses what is asked is taken, and one that cannot express it is refused by name."""

from __future__ import annotations

import dataclasses

import pytest

from jaxft.errors import RecipeError
from jaxft.kernels.choice import IMPLEMENTATIONS, Situation, choose

LONG = {"query_length": 2048, "key_length": 2048, "head_dim": 64, "half": True}


@pytest.mark.parametrize(
    ("asked", "chosen"),
    [
        ({"platform": "cpu"}, "xla"),
        ({"platform": "cpu", "soft_cap": True}, "reference"),
        ({"platform": "cpu", "dropout": True}, "reference"),
        ({"platform": "cpu", "window": (64, 64)}, "local"),
        ({"platform": "cpu", "window": (1024, 1024)}, "xla"),
        ({"platform": "cpu", "window": (64, 64), "bias": True}, "xla"),
        ({"platform": "tpu", "causal": True}, "splash"),
        ({"platform": "tpu", "soft_cap": True, "window": (64, 64)}, "splash"),
        ({"platform": "tpu", "bias": True}, "xla"),
        ({"platform": "tpu", "by_data": "a prefix"}, "xla"),
        ({"platform": "tpu", "dropout": True}, "reference"),
        ({"platform": "tpu", "query_length": 128, "key_length": 128}, "xla"),
        ({"platform": "tpu", "devices": 4, "causal": True}, "splash"),
        ({"platform": "tpu", "devices": 3, "causal": True}, "xla"),
        ({"platform": "gpu", "causal": True}, "cudnn"),
        ({"platform": "gpu", "bias": True}, "cudnn"),
        ({"platform": "gpu", "bias": True, "exact_bias": True}, "xla"),
        ({"platform": "gpu", "half": False}, "xla"),
        ({"platform": "gpu", "head_dim": 60}, "xla"),
        ({"platform": "gpu", "devices": 2}, "xla"),
        ({"platform": "gpu", "window": (64, 64)}, "local"),
    ],
)
def test_auto_takes_the_fastest_that_expresses_all(asked, chosen):
    assert choose("auto", Situation(**(LONG | asked)))[0] == chosen


def test_auto_says_what_the_faster_ones_lack():
    assert choose("auto", Situation(platform="tpu", bias=True, **LONG)) == ("xla", "splash has no bias")
    reason = choose("auto", Situation(platform="tpu", dropout=True, window=(1024, 1024), **LONG))[1]
    assert "splash has no dropout of probabilities" in reason and "local has no use at 2048 tokens" in reason


ASKS = {
    "soft_cap": True, "dropout": True, "bias": True, "exact_bias": True, "by_data": "an order", "window": (64, 64),
    "devices": 4, "causal": True, "half": False,
}  # fmt: skip


@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
@pytest.mark.parametrize("ask", ASKS)
def test_what_auto_takes_is_never_refused(platform, ask):
    for other in ASKS:
        asked = Situation(**(LONG | {"platform": platform, ask: ASKS[ask], other: ASKS[other]}))
        name, _ = choose("auto", asked)
        assert choose(name, asked)[0] == name


@pytest.mark.parametrize(
    ("name", "asked", "told"),
    [
        ("xla", {"soft_cap": True}, "no soft cap"),
        ("splash", {"dropout": True}, "no dropout of probabilities"),
        ("splash", {"by_data": "a prefix"}, "no mask by a prefix"),
        ("splash", {"platform": "gpu"}, "no program for GPUs"),
        ("cudnn", {}, "no program for CPUs"),
        ("local", {}, "no attention without a window"),
        ("flash", {}, "is not one of"),
    ],
)
def test_what_a_kernel_lacks_is_told(name, asked, told):
    with pytest.raises(RecipeError, match=told):
        choose(name, Situation(**({"platform": "cpu"} | LONG | asked)))


def test_the_formula_expresses_everything():
    everything = Situation(platform="gpu", **LONG)
    for ask, value in ASKS.items():
        everything = dataclasses.replace(everything, **{ask: value})
    assert choose("reference", everything)[0] == "reference"
    assert set(IMPLEMENTATIONS) == {"auto", "reference", "xla", "local", "cudnn", "splash"}
