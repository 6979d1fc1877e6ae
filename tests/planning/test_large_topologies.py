"""Recipes of every family compile for hundreds of TPU chips: by flash attention, with nothing left whole."""

from __future__ import annotations

import importlib.util
import json
import os
import pathlib
import subprocess
import sys

import pytest

PROGRAM = pathlib.Path(__file__).with_name("large_topologies.py")
WIDTH = 256

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for TPUs, is not installed"
    ),
]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> dict[str, dict]:
    quiet = {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1"}
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path_factory.mktemp("recipes")],
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # The partitioner's last resort: it gathers an activation whole on every device to lay it out anew.
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("name", "devices"),
    [("encoder", 256), ("decoder", 256), ("encoder-decoder", 256), ("context", 128)],
)
def test_a_step_is_compiled_for_all_of_them(programs, name, devices):
    assert programs[name]["devices"] == devices
    assert programs[name]["unknown_loops"] == 0


@pytest.mark.parametrize(("name", "layers"), [("encoder", 3), ("decoder", 3), ("context", 3)])
def test_attention_keeps_no_scores(programs, name, layers):
    """In each layer one kernel forward and two backward: what they found was saved, so the first runs once."""
    assert programs[name]["kernels"] == 3 * layers


def test_what_the_kernel_cannot_express_it_does_not_compute(programs):
    """T5's biases are in the self attention of both sides, and not in the cross attention of its three layers."""
    assert programs["encoder-decoder"]["kernels"] == 3 * 3


@pytest.mark.parametrize("name", ["encoder", "decoder", "encoder-decoder"])
def test_only_parameters_are_gathered(programs, name):
    program = programs[name]
    # In float32 at most, where the vectors of all tokens would have a hundred times as many bytes.
    assert max(program["gathered"], default=0) <= 4 * program["largest_parameter"]
    assert 4 * program["largest_parameter"] < program["tokens"] * WIDTH * 2 / 16


def test_a_shared_length_gathers_keys_and_values_of_its_own_rows_alone(programs):
    program = programs["context"]
    rows_of_a_device = 1
    keys = rows_of_a_device * 2048 * WIDTH * 2
    assert keys in program["gathered"] or 2 * keys in program["gathered"]
    assert max(program["gathered"]) <= max(4 * program["largest_parameter"], 2 * keys)


def test_devices_add_gradients_of_kernels_in_16_bits_where_asked(programs):
    """But those of the vocabulary's two tables in float32; sums that are whole on the way are sent twice."""
    program = programs["encoder-decoder"]
    tables = 2 * 1024 * WIDTH
    expected = 2 * (2 * (program["parameters"] - tables) + 4 * tables)
    assert program["scattered"] == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("name", "shares"), [("encoder", 128), ("encoder-decoder", 256)])
def test_each_device_holds_its_share_of_the_state(programs, name, shares):
    """Parameters and two moments in float32, beside norms and the batch's few integers."""
    whole = programs[name]["parameters"] * 12
    assert programs[name]["argument_bytes"] < 3 * whole / shares + 2**17
    assert programs[name]["peak_bytes"] < 2**30


def test_only_sums_of_gradients_leave_a_slice(programs):
    """Weights are gathered within it; of gradients in float32 each device sends its share, which a sum counts twice."""
    program = programs["encoder"]
    assert program["slices"] == [[0], [1]]
    outside = {kind: one["bytes"] for kind, one in program["collectives"].items() if kind.endswith("between slices")}
    assert outside.keys() == {"all-reduce between slices"}
    gradients = 2 * 4 * program["parameters"] / 128
    assert gradients <= outside["all-reduce between slices"] < 1.5 * gradients


@pytest.mark.parametrize("name", ["encoder", "decoder", "context"])
def test_memory_by_formula_is_near_the_compilers(programs, name):
    assert 0.7 < programs[name]["peak_bytes"] / programs[name]["formula_bytes"] < 1.4
