"""The train step compiles for TPUs, ahead of time and on a machine without one."""

from __future__ import annotations

import importlib.util
import json
import pathlib
import subprocess
import sys

import pytest
from support.processes import environment

PROGRAM = pathlib.Path(__file__).with_name("tpu_compilation.py")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None, reason="libtpu, which compiles for TPUs, is not installed"
    ),
]


@pytest.fixture(scope="module")
def compiled() -> dict:
    """What the compiler made of the step, told by a process of its own: libtpu stays loaded."""
    done = subprocess.run(
        [sys.executable, PROGRAM],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    # The partitioner's last resort: it gathers an activation whole on every device to lay it out anew.
    assert "Involuntary full rematerialization" not in done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_the_parameters_are_gathered_and_the_gradients_scattered(compiled):
    """Fully sharded: weights are gathered where they are used, and their gradients are summed over the devices."""
    assert compiled["collectives"]["all-gather"] > 0
    assert compiled["collectives"]["all-reduce"] + compiled["collectives"]["reduce-scatter"] > 0


def test_each_chip_holds_its_share_of_the_state(compiled):
    """Eight devices of a mesh {data: 2, fsdp: 2, tensor: 2}: a quarter of parameters and moments, and what is small."""
    assert 0.25 <= compiled["argument_bytes"] / compiled["state_bytes"] < 0.3


def test_the_state_is_donated(compiled):
    assert compiled["alias_bytes"] > 0.95 * compiled["argument_bytes"]


def test_no_product_takes_two_float32_operands(compiled):
    assert compiled["products"]["bf16 bf16"] > 20
    assert "f32 f32" not in compiled["products"]
